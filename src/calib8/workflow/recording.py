"""What a calibration did, for its record: enough to do it again, and to prepare the same images in the same way.

Keys that `bmnet_NAME.calib8.json` gets beside those of `calib8.export.record`:

    calibrate   the options of the command that are not the usual ones, a list of words; {record} is the record's folder
    images      those of them that say which images are used, and how they become samples
    samples     {"images", "digest"}: how many were used, and a digest of all their numbers
    model       {"prototxt", "caffemodel"}: digests of the two files
    versions    of calib8 and of what computes
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from calib8.data import Batch, SampleSource
from calib8.data.looking import Examinable
from calib8.errors import DataError
from calib8.reading import file_digest

_PACKAGES = ("numpy", "onnx", "onnxruntime", "opencv-python-headless", "protobuf")


class HashedSource(SampleSource):
    """A source that makes a digest of the samples which it gives, in its first pass."""

    def __init__(self, source: SampleSource) -> None:
        self._source, self._digest, self._first = source, hashlib.sha256(), True
        self.shapes, self.size = source.shapes, source.size
        self.batch_size, self.notes = source.batch_size, source.notes

    def batches(self) -> Iterator[Batch]:
        """See SampleSource."""
        first, self._first = self._first, False
        for batch in self._source.batches():
            if first:
                self._take_in(batch)
            yield batch

    def problems(self, *, decode: bool) -> Iterator[str]:
        """See Examinable; nothing is known of a source that is none."""
        return self._source.problems(decode=decode) if isinstance(self._source, Examinable) else iter(())

    def without(self, bad: Collection[int]) -> HashedSource:
        """See Examinable."""
        return HashedSource(self._source.without(bad) if isinstance(self._source, Examinable) else self._source)

    @property
    def digest(self) -> str:
        """Of the blobs, their shapes and their numbers, in the order in which they came."""
        return f"sha256:{self._digest.hexdigest()}"

    def _take_in(self, batch: Batch) -> None:
        for blob, array in batch.items():
            self._digest.update(repr((blob, array.shape, array.dtype.str)).encode())
            self._digest.update(np.ascontiguousarray(array).data)


def recorded(
    prototxt: str | os.PathLike[str],
    caffemodel: str | os.PathLike[str],
    samples: tuple[int, str] | None,
    words: Sequence[str] = (),
    image_words: Sequence[str] = (),
) -> dict[str, Any]:
    """The keys of a record.

    Args:
        samples: how many, and their digest; None where thresholds were given.
        words, image_words: of the command.
    """
    content: dict[str, Any] = {"calibrate": list(words), "images": list(image_words)}
    if samples is not None:
        content["samples"] = {"images": samples[0], "digest": samples[1]}
    content["model"] = {"prototxt": digest_or_nothing(prototxt), "caffemodel": digest_or_nothing(caffemodel)}
    content["versions"] = versions()
    return content


def versions() -> dict[str, str]:
    """List those of calib8, of Python, and of the packages that compute."""
    found = {"calib8": _version("calib8"), "Python": platform.python_version()}
    return found | {package: _version(package) for package in _PACKAGES}


def digest_or_nothing(path: str | os.PathLike[str]) -> str:
    """Return `sha256:..` of a file; "" for one that cannot be read any more."""
    try:
        return file_digest(path, DataError)
    except DataError:
        return ""


def words_of_record(content: Mapping[str, Any], key: str, folder: Path) -> list[str]:
    """The words under a key of a record that lies in `folder`; [] where there are none, or no words."""
    words = content.get(key)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    return [word.replace("{record}", str(folder)) for word in words]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "another build"
