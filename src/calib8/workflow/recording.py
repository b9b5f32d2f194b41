"""What a command did, for the record: enough to do it again, and to prepare the same images in the same way.

Keys that `bmnet_NAME.calib8.json` gets beside those of `calib8.export.record`:

    calibrate   the options of the command that are not the usual ones, a list of words; {record} is the record's folder
    images      those of them that say which images are used, and how they become samples
    samples     {"images", "digest", "in_order"}: how many were used, a digest of all their numbers whatever their
                order, and one of them in their order, where one process has read them so
    model       {"prototxt", "caffemodel"}: digests of the two files; {"onnx"}: that of an ONNX model
    versions    of calib8 and of what computes
    commands    {"sensitivity": {..}, ..}: what later commands did, the last of each kind: "options", "samples", "model"
                and "versions" as above; "thresholds", where they came from; "run", of the integers that were looked at;
                "files", digests by name; "result", where it is short
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calib8.data import Batch, SampleSource
from calib8.data.digests import Digests, digest_of_all, digests_of
from calib8.data.faces import Seekable
from calib8.data.looking import Examinable
from calib8.errors import DataError
from calib8.reading import file_digest
from calib8.workflow.network import Network

_PACKAGES = ("numpy", "onnx", "onnxruntime", "opencv-python-headless", "protobuf")


class HashedSource(SampleSource):
    """A source that makes a digest of the samples which it gives; of each once, however often it is read.

    Attributes:
        origin: the source that reads them.
    """

    def __init__(self, source: SampleSource) -> None:
        self.origin = source
        self._digests, self._is_known = np.zeros(0, np.uint64), np.zeros(0, bool)  # by the number of the sample
        self.shapes, self.size = source.shapes, source.size
        self.batch_size, self.notes = source.batch_size, source.notes

    def batches(self) -> Iterator[Batch]:
        """See SampleSource."""
        return self._noted(self.origin.batches(), 0)

    def problems(self, *, decode: bool) -> Iterator[str]:
        """See Examinable; nothing is known of a source that is none."""
        return self.origin.problems(decode=decode) if isinstance(self.origin, Examinable) else iter(())

    def without(self, bad: Collection[int]) -> HashedSource:
        """See Examinable."""
        return type(self)(self.origin.without(bad) if isinstance(self.origin, Examinable) else self.origin)

    def samples(self, images: int) -> dict[str, object]:
        """Describe the first so many samples, as far as they were read."""
        digests = self._digests[:images][self._is_known[:images]]
        return {**described(digests), "in_order": digest_of_all(digests)}

    def _noted(self, batches: Iterator[Batch], start: int) -> Iterator[Batch]:
        for batch in batches:
            stop = start + len(next(iter(batch.values())))
            self._make_room(stop)
            new = ~self._is_known[start:stop]
            if new.any():
                self._digests[start:stop][new], self._is_known[start:stop] = digests_of(batch)[new], True
            start = stop
            yield batch

    def _make_room(self, samples: int) -> None:
        if samples > self._digests.size:
            further = max(samples - self._digests.size, self._digests.size)
            self._digests, self._is_known = (np.pad(one, (0, further)) for one in (self._digests, self._is_known))


class SeekableHashedSource(HashedSource):
    """One over a source that need not begin with the first sample."""

    def batches_from(self, start: int) -> Iterator[Batch]:
        """See Seekable."""
        source = self.origin
        return self._noted(source.batches_from(start) if isinstance(source, Seekable) else source.batches(), start)


def hashed(network: Network) -> tuple[Network, HashedSource]:
    """Let a digest be made of a network's samples while they are read."""
    kind = SeekableHashedSource if isinstance(network.samples, Seekable) else HashedSource
    source = kind(network.samples)
    return replace(network, source=source), source


def described(digests: Digests) -> dict[str, object]:
    """Describe samples by their digests, whatever their order."""
    return {"images": digests.size, "digest": digest_of_all(np.sort(digests))}


def recorded(
    prototxt: str | os.PathLike[str],
    caffemodel: str | os.PathLike[str] | None,
    samples: Mapping[str, object] | None,
    words: Sequence[str] = (),
    image_words: Sequence[str] = (),
) -> dict[str, Any]:
    """The keys of a record.

    Args:
        caffemodel: None where `prototxt` is an ONNX model.
        samples: as `HashedSource.samples` describes them; None where thresholds were given.
        words, image_words: of the command.
    """
    content: dict[str, Any] = {"calibrate": list(words), "images": list(image_words)}
    if samples is not None:
        content["samples"] = dict(samples)
    return content | what_computed(prototxt, caffemodel)


def what_computed(prototxt: str | os.PathLike[str], caffemodel: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Digests of the two files, or of an ONNX model, and versions."""
    if caffemodel is None:
        model = {"onnx": digest_or_nothing(prototxt)}
    else:
        model = {"prototxt": digest_or_nothing(prototxt), "caffemodel": digest_or_nothing(caffemodel)}
    return {"model": model, "versions": versions()}


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
    from importlib import metadata  # noqa: PLC0415 - it imports the mail of the standard library

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "another build"
