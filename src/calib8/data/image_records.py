"""Images as the records of a Caffe LMDB, as Caffe's own convert_imageset writes them.

Keys are `00000000_path`, with the number of the image in order and its path as it is listed. Records are Datums: pixels
(C, H, W) of 8 bits in BGR or gray, or the bytes of an image file (`encoded`).
Source: BVLC/caffe, tools/convert_imageset.cpp; src/caffe/util/io.cpp, ReadImageToDatum and CVMatToDatum.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calib8.data.datum import chw
from calib8.data.image_list import IMAGE_SUFFIXES, MAX_PROBLEMS, ListedImage, find_images
from calib8.data.preprocess import Preprocess, resized
from calib8.errors import DataError
from calib8.proto import caffe_pb2
from calib8.reading import is_file, is_folder, visible_paths_in

_LABEL_LIMIT = 2**31


@dataclass(frozen=True)
class RecordOptions:
    """How images become records.

    Attributes:
        preprocess: `size`, `resize`, `short_side` are used; without a size images stay as large as they are.
        gray: one channel instead of three.
        encoded: keep image files: as they are without a size, else as PNG.
    """

    preprocess: Preprocess
    gray: bool = False
    encoded: bool = False


@dataclass(frozen=True)
class LabelledImages:
    """Images in the order of their records, and the names of the labels 0, 1, .. where folders give them."""

    images: tuple[ListedImage, ...]
    classes: tuple[str, ...] = ()

    def shuffled(self, seed: int) -> LabelledImages:
        """Put them in an order that the seed alone decides."""
        images = list(self.images)
        random.Random(seed).shuffle(images)
        return replace(self, images=tuple(images))


def labelled_images(source: Path, classes: Sequence[str] = ()) -> LabelledImages:
    """Find the images of a list, of a folder, or of a folder with a folder for each class; without the last two's
    labels, 0.

    Args:
        source: a text file with `path label` lines, or a folder.
        classes: names of folders in the order of their labels; without it, they are sorted.

    Raises:
        DataError: no images, missing ones, folders that are no class, images beside folders.
    """
    inside = visible_paths_in(source, DataError, "images") if is_folder(source) else []
    folders = [p for p in inside if is_folder(p)]
    if not folders:
        return LabelledImages(tuple(find_images(source, "images")))
    beside = [p.name for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and is_file(p)]
    if beside:
        raise DataError(f"images: {source} holds images ({beside[0]!r}) beside folders; put each image into a folder")
    names = tuple(classes) or tuple(p.name for p in folders)
    strangers = [p.name for p in folders if p.name not in names]
    if strangers:
        raise DataError(f"images: {source} has folders that are no class", [repr(name) for name in strangers])
    images = [ListedImage(str(p), names.index(f.name), str(source)) for f in folders for p in _images_below(f)]
    if not images:
        raise DataError(f"images: {source} holds no images, nor do its folders")
    return LabelledImages(tuple(images), names)


def _images_below(folder: Path) -> list[Path]:
    """All images in a folder and in those in it, which must not be links: they could lead in a circle."""
    found: list[Path] = []
    for path in visible_paths_in(folder, DataError, "images"):
        if is_folder(path) and not path.is_symlink():
            found += _images_below(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES and is_file(path):
            found.append(path)
    return sorted(found)


def image_records(
    images: Sequence[ListedImage], root: Path, options: RecordOptions, progress: Callable[[int], None]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and records. All images are looked at, also behind one that cannot be used.

    Args:
        root: what paths in keys are relative to, if they lie there.
        progress: called with the number of images that are done.

    Raises:
        DataError: images that cannot be used, by name; the first 20.
    """
    maker, problems = _Maker(options), list[str]()
    for index, listed in enumerate(images):
        try:
            record = maker.record(listed)
        except DataError as why:
            problems += why.problems
        else:
            if not problems:
                yield f"{index:08}_{_relative(listed.path, root)}".encode("utf-8", "surrogateescape"), record
        progress(index + 1)
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise DataError(f"{len(problems)} of {len(images)} images cannot be used", problems[:MAX_PROBLEMS] + more)


def _relative(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


class _Maker:
    """Makes records; remembers the shape of the first raw one."""

    def __init__(self, options: RecordOptions) -> None:
        self._options = options
        self._flags = cv2.IMREAD_GRAYSCALE if options.gray else cv2.IMREAD_COLOR
        self._shape: tuple[int, ...] | None = None

    def record(self, listed: ListedImage) -> bytes:
        """Make a serialized Datum. Raises DataError with the image's path and place."""
        image = listed.read(self._flags)
        size = self._options.preprocess.size
        if size is not None:
            try:
                image = resized(image, size, self._options.preprocess)
            except DataError as why:
                raise DataError(f"{listed.place}: {listed.path} {why}") from None
        datum = self._encoded(listed, image) if self._options.encoded else self._raw(listed, image)
        datum.label = _whole(listed)
        data: bytes = datum.SerializeToString(deterministic=True)
        return data

    def _encoded(self, listed: ListedImage, image: NDArray[Any]) -> caffe_pb2.Datum:
        if self._options.preprocess.size is None and self._keeps_file(listed, image):
            return caffe_pb2.Datum(encoded=True, data=listed.bytes())
        return caffe_pb2.Datum(encoded=True, data=cv2.imencode(".png", image)[1].tobytes())

    def _keeps_file(self, listed: ListedImage, image: NDArray[Any]) -> bool:
        """Tell whether the file's own pixels have the wanted channels: readers decode it as it is."""
        try:
            return listed.read(cv2.IMREAD_UNCHANGED).shape == image.shape
        except DataError:  # 16 bits
            return False

    def _raw(self, listed: ListedImage, image: NDArray[Any]) -> caffe_pb2.Datum:
        pixels = np.ascontiguousarray(chw(image))
        self._shape = self._shape or pixels.shape
        if pixels.shape != self._shape:
            raise DataError(
                f"{listed.place}: {listed.path} is {_size(pixels.shape)} pixels, the first one {_size(self._shape)}; "
                "give `size`, or `encoded`"
            )
        channels, height, width = pixels.shape
        return caffe_pb2.Datum(channels=channels, height=height, width=width, data=pixels.tobytes())


def _whole(listed: ListedImage) -> int:
    if float(listed.label).is_integer() and abs(listed.label) < _LABEL_LIMIT:
        return int(listed.label)
    found = "several numbers" if math.isnan(listed.label) else f"{listed.label:g}"
    raise DataError(
        f"{listed.place}: {listed.path} has the label {found}; a record holds one whole number. Leave the labels out, "
        "or keep them in a list of their own"
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[2]}"
