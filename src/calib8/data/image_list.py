"""Lists of image files: a path per line and perhaps a label behind it, as ImageData, `--images` and data_list have.

Source: BVLC/caffe, src/caffe/layers/image_data_layer.cpp, DataLayerSetUp: the label stands behind the last space; a
line without one has the label 0. Deviation: of a fraction, such as regression has, Caffe takes the whole part, and it
opens no file of a line with several labels; here the first is read as it stands, and the second has no label.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.data.datum import decode_image
from calib8.data.files import find_path, read_lines
from calib8.data.image_header import check_image
from calib8.errors import DataError
from calib8.reading import exists, is_file, is_folder, read_file, visible_paths_in

MAX_PROBLEMS = 20
"""Most missing images that one message names."""
MAX_IMAGE_BYTES = 512 * 2**20
_NUMBER = re.compile(r"[+-]?(\d{1,30}\.?\d*|\.\d+)([eE][+-]?\d{1,2})?")
IMAGE_SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"])


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image file and its label, for messages also where it stands ("list.txt:12").

    A label of several numbers is NaN: a blob of labels has one for each image.
    """

    file: str  # a Path takes ten times as much memory, and a list may have a million lines
    label: float
    place: str

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(self.file)

    def read(self, flags: int) -> NDArray[Any]:
        """Read the pixels (H, W[, C]), uint8, BGR. `flags` are OpenCV's, IMREAD_COLOR or IMREAD_GRAYSCALE.

        Raises:
            DataError: the file cannot be read, or is no image.
        """
        data = self.bytes()
        try:
            image = decode_image(data, flags)
        except DataError as why:
            raise DataError(f"{self.place}: {self.path} {why} ({len(data)} bytes)") from None
        if image.dtype != np.uint8:
            raise DataError(f"{self.place}: {self.path} has {image.dtype} pixels; 8 bits are expected")
        return image

    def check(self) -> None:
        """Look at the file's head. Raises DataError, as `read`, without decoding it."""
        data = self.bytes()
        try:
            check_image(data)
        except DataError as why:
            raise DataError(f"{self.place}: {self.path} {why} ({len(data)} bytes)") from None

    def bytes(self) -> bytes:
        """Read the file as it is. Raises DataError if it cannot be read."""
        return read_file(self.path, MAX_IMAGE_BYTES, DataError, self.place)


def read_image_list(path: Path, what: str, folders: Sequence[Path], root: str = "") -> list[ListedImage]:
    """Read the images of a list file; empty lines do not count.

    Args:
        path: the list.
        what: what it is for, for messages.
        folders: where relative paths are looked for, after the working directory.
        root: put in front of every path (ImageData's root_folder).

    Raises:
        DataError: the list cannot be read or is empty, or images are missing: the first 20 by line.
    """
    lines = ((number, line.strip()) for number, line in enumerate(read_lines(path, what), 1))
    images = [_listed(line, f"{path}:{number}", folders, root) for number, line in lines if line]
    return _checked(images, what, path)


def find_images(listing: str | os.PathLike[str], what: str) -> list[ListedImage]:
    """Find the images of a text file with a path per line, of a folder (sorted by name), or one image.

    Raises:
        DataError: see `read_image_list`.
    """
    path = Path(listing)
    if is_folder(path):
        files = [p for p in visible_paths_in(path, DataError, what) if p.suffix.lower() in IMAGE_SUFFIXES]
        return _checked([ListedImage(str(p), 0, str(path)) for p in files], what, path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _checked([ListedImage(str(path), 0, what)], what, path)
    if not exists(path):
        raise DataError(f"{what}: {path} is no file or folder; relative paths start at {Path.cwd()}")
    return read_image_list(path, what, [path.parent])


def label_notes(images: Sequence[ListedImage], what: str) -> tuple[str, ...]:
    """Say which labels are no whole numbers, of which a class has one; () where all are."""
    odd = [image for image in images if not float(image.label).is_integer()]
    if not odd:
        return ()
    first = "several numbers" if math.isnan(odd[0].label) else f"{odd[0].label:g}"
    return (
        f"{what}: {len(odd)} of {len(images)} labels are no whole numbers ({odd[0].place}: {first}), so they name no "
        "classes; calibration needs no labels",
    )


def _listed(line: str, place: str, folders: Sequence[Path], root: str) -> ListedImage:
    """The path is as much of the line as there is a file for; numbers behind it are labels."""
    path, numbers = line, list[float]()
    while not exists(found := find_path(root + path, folders)):
        shorter, number = _without_number(path)
        if number is None:
            break
        path, numbers = shorter, [number, *numbers]
    label = 0 if not numbers else numbers[0] if len(numbers) == 1 else math.nan
    return ListedImage(str(found), label, place)


def _without_number(text: str) -> tuple[str, float | None]:
    """A text without the number that is its last word, and that number; None where it is no number."""
    words = text.rsplit(maxsplit=1)
    if len(words) < 2 or not _NUMBER.fullmatch(words[1]):
        return text, None
    return words[0], float(words[1])


def _checked(images: list[ListedImage], what: str, path: Path) -> list[ListedImage]:
    if not images:
        raise DataError(f"{what}: {path} holds no images")
    missing = [image for image in images if not is_file(image.file)]
    if missing:
        problems = [f"{image.place}: no file {image.path}" for image in missing[:MAX_PROBLEMS]]
        if len(missing) > MAX_PROBLEMS:
            problems.append(f"and {len(missing) - MAX_PROBLEMS} more")
        raise DataError(f"{what}: {len(missing)} of {len(images)} images in {path} are missing", problems)
    return images
