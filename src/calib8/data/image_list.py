"""Lists of image files: a path per line and perhaps a label behind it, as ImageData, `--images` and data_list have.

Source: BVLC/caffe, src/caffe/layers/image_data_layer.cpp, DataLayerSetUp: the label stands behind the last space; a
line without one has the label 0.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.data.datum import decode_image
from calib8.data.files import find_path, read_lines
from calib8.errors import DataError

MAX_PROBLEMS = 20
"""Most missing images that one message names."""
MAX_IMAGE_BYTES = 512 * 2**20
IMAGE_SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"])


@dataclass(frozen=True)
class ListedImage:
    """An image file, its label, and where it stands ("list.txt:12"), for messages."""

    path: Path
    label: int
    place: str

    def read(self, flags: int) -> NDArray[Any]:
        """Read the pixels (H, W[, C]), uint8, BGR. `flags` are OpenCV's, IMREAD_COLOR or IMREAD_GRAYSCALE.

        Raises:
            DataError: the file cannot be read, or is no image.
        """
        try:
            size = self.path.stat().st_size
            if size > MAX_IMAGE_BYTES:
                raise DataError(f"{self.place}: {self.path} has {size} bytes, more than an image has")
            image = decode_image(self.path.read_bytes(), flags)
        except OSError as why:
            raise DataError(f"{self.place}: {self.path} cannot be read: {why.strerror or why}") from None
        if image is None or image.dtype != np.uint8:
            raise DataError(f"{self.place}: {self.path} is damaged or no image that OpenCV reads ({size} bytes)")
        return image


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
    lines = [(number, line.strip()) for number, line in enumerate(read_lines(path, what), 1)]
    images = [_listed(line, f"{path}:{number}", folders, root) for number, line in lines if line]
    return _checked(images, what, path)


def find_images(listing: str | os.PathLike[str], what: str) -> list[ListedImage]:
    """Find the images of a text file with a path per line, of a folder (sorted by name), or one image.

    Raises:
        DataError: see `read_image_list`.
    """
    path = Path(listing)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        return _checked([ListedImage(p, 0, str(path)) for p in files], what, path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _checked([ListedImage(path, 0, what)], what, path)
    return read_image_list(path, what, [path.parent])


def _listed(line: str, place: str, folders: Sequence[Path], root: str) -> ListedImage:
    words = line.rsplit(maxsplit=1)
    whole = find_path(root + line, folders)
    if len(words) == 2 and words[1].lstrip("+-").isdecimal() and not whole.exists():
        return ListedImage(find_path(root + words[0], folders), int(words[1]), place)
    return ListedImage(whole, 0, place)


def _checked(images: list[ListedImage], what: str, path: Path) -> list[ListedImage]:
    if not images:
        raise DataError(f"{what}: {path} holds no images")
    missing = [image for image in images if not image.path.is_file()]
    if missing:
        problems = [f"{image.place}: no file {image.path}" for image in missing[:MAX_PROBLEMS]]
        if len(missing) > MAX_PROBLEMS:
            problems.append(f"and {len(missing) - MAX_PROBLEMS} more")
        raise DataError(f"{what}: {len(missing)} of {len(images)} images in {path} are missing", problems)
    return images
