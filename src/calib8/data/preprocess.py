"""From an image file's pixels to a network's input, for networks whose prototxt does not say how.

    top = (pixels - mean) * scale,  pixels in float32 after resizing, flipping and choosing the colours

`letterbox` keeps the aspect ratio and fills up with zeros (before the mean is subtracted), as the BM1880 tools'
general_data_layer does with `padding`. `crop` resizes the short side and cuts the centre out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calib8.boundary import closed_class
from calib8.choices import COLOR_FORMATS, RESIZE_MODES
from calib8.data.faces import Linear
from calib8.data.image_header import max_pixels
from calib8.data.mean import read_mean
from calib8.errors import DataError, OptionError
from calib8.graph import Shape

IMAGE_CHANNELS = (1, 3)
_LARGE = 2**24  # values


@closed_class
@dataclass(frozen=True)
class Preprocess:
    """How images become samples.

    Attributes:
        size: (height, width) of the sample; None takes the network's input.
        resize: "warp" (to size, whatever the aspect ratio), "letterbox" or "crop".
        short_side: for "crop", the length of the short side before the cut; None takes the least that covers size.
        color_format: "bgr", "rgb" or "gray"; None takes "bgr" for an input of 3 channels, "gray" for 1.
        mean: one value, or one per channel in the order of color_format, or the path of a `.binaryproto` or `.npy`.
        scale: factor after the mean is subtracted; one, or one per channel.
        mirror: OpenCV's flip code: 0 upside down, 1 left to right, -1 both; None flips nothing.
        transpose: order of the axes (height, width, channel) = (0, 1, 2) in the sample.
    """

    size: tuple[int, int] | None = None
    resize: str = "warp"
    short_side: int | None = None
    color_format: str | None = None
    mean: tuple[float, ...] | str | os.PathLike[str] = ()
    scale: float | tuple[float, ...] = 1.0
    mirror: int | None = None
    transpose: tuple[int, int, int] = (2, 0, 1)

    def __post_init__(self) -> None:
        """Raises OptionError with all values that have no meaning."""
        problems = [
            f"{name} is {getattr(self, name)!r}, expected {expected}"
            for name, right, expected in (
                ("size", self.size is None or min(self.size) > 0, "positive (height, width)"),
                ("resize", self.resize in RESIZE_MODES, f"one of {', '.join(RESIZE_MODES)}"),
                ("short_side", self.short_side is None or self.short_side > 0, "a positive number"),
                ("color_format", self.color_format in (None, *COLOR_FORMATS), f"one of {', '.join(COLOR_FORMATS)}"),
                ("mirror", self.mirror in (None, -1, 0, 1), "-1, 0, 1 or nothing"),
                ("transpose", sorted(self.transpose) == [0, 1, 2], "an order of 0, 1, 2"),
            )
            if not right
        ]
        if self.short_side is not None and self.resize != "crop":
            problems.append('short_side is given, which only resize "crop" uses')
        if problems:
            raise OptionError("images cannot be prepared like this", problems)


class Preparer:
    """A Preprocess with its mean file read, for one size and number of channels.

    Attributes:
        flags: OpenCV's IMREAD flag with which images must be decoded.
        shape: of a sample, the axes in the order of `transpose`.
    """

    def __init__(self, preprocess: Preprocess, size: tuple[int, int], channels: int) -> None:
        """Raises DataError when channels, colours, mean and scale do not fit."""
        formats = {1: ("gray",), 3: ("bgr", "rgb")}.get(channels, ())
        color = preprocess.color_format or (formats[0] if formats else "")
        if color not in formats:
            raise DataError(
                f"the input has {channels} channels; images give 3 in the color_format bgr or rgb, and 1 in gray. "
                "Arrays come from an HDF5Data layer, a Python layer, or files (`samples=FILE.npz`)"
            )
        self._preprocess = preprocess
        self._size, self._channels = size, channels
        self._swap = color == "rgb"
        self.flags = cv2.IMREAD_GRAYSCALE if color == "gray" else cv2.IMREAD_COLOR
        self._mean = _mean(preprocess.mean, (channels, *size))
        self._scale = _per_channel(preprocess.scale, channels, "scale")
        axes = (*size, channels)
        self.shape: Shape = tuple(axes[axis] for axis in preprocess.transpose)

    @property
    def linear(self) -> Linear:
        """What happens to pixels, channel by channel."""
        channels = self._channels
        mean = np.broadcast_to(self._mean.mean(axis=(0, 1)), channels)
        scale = np.broadcast_to(self._scale.reshape(-1), channels)
        order = "gray" if channels == 1 else "rgb" if self._swap else "bgr"
        return Linear(tuple(map(float, mean)), tuple(map(float, scale)), order)

    def placement(self, image: NDArray[Any]) -> Placement:
        """Say where the pixels of an image (H, W[, C]) lie in the sample.

        Raises:
            DataError: as `apply`.
        """
        return placement_of((image.shape[0], image.shape[1]), self._size, self._preprocess)

    def apply(self, image: NDArray[Any], top: NDArray[np.float32]) -> None:
        """Fill `top` (of the Preparer's shape) from an image (H, W[, 3]) decoded with `flags`."""
        pixels = self._resized(image)
        if self._preprocess.mirror is not None:
            pixels = cv2.flip(pixels, self._preprocess.mirror)
        if pixels.ndim == 2:
            pixels = pixels[:, :, np.newaxis]
        if self._swap:
            pixels = pixels[:, :, ::-1]
        order = self._preprocess.transpose
        np.subtract(pixels.transpose(order), self._mean.transpose(order), out=top)
        with np.errstate(over="ignore"):  # calibration tells of infinities by the blob
            np.multiply(top, self._scale.transpose(order), out=top)

    def _resized(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """In float32. A large image goes channel by channel, which gives the same and takes a third of the memory."""
        if image.ndim == 2 or image.size <= _LARGE:
            return resized(image.astype(np.float32), self._size, self._preprocess)
        channels = (image[:, :, c].astype(np.float32) for c in range(image.shape[2]))
        return np.stack([resized(channel, self._size, self._preprocess) for channel in channels], axis=2)


@dataclass(frozen=True)
class Placement:
    """Where the pixels of an image lie in a sample.

    Attributes:
        inner: (height, width) that the image is resized to.
        offset: how far it is moved down and to the right then; below 0 where it is cut.
        size: (height, width) of the sample.
        mirror: OpenCV's flip code for the sample; None flips nothing.
    """

    inner: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]
    mirror: int | None = None

    def box(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Move a box (x0, y0, x1, y1), in parts of the image's width and height; it may leave the sample."""
        sides = []
        for axis, flips in ((1, (1, -1)), (0, (0, -1))):
            ends = [(box[at] * self.inner[axis] + self.offset[axis]) / self.size[axis] for at in (1 - axis, 3 - axis)]
            sides.append([1 - end for end in reversed(ends)] if self.mirror in flips else ends)
        (x0, x1), (y0, y1) = sides
        return x0, y0, x1, y1

    def map(self, classes: NDArray[Any], void: int) -> NDArray[Any]:
        """Bring a map of classes (H, W) to the sample's pixels; `void` where no pixel of the image lies."""
        height, width = self.inner
        inner = cv2.resize(classes.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        placed = self.fit(inner, void)
        return placed if self.mirror is None else np.asarray(cv2.flip(placed, self.mirror))

    def fit(self, image: NDArray[Any], border: int = 0) -> NDArray[Any]:
        """Move an image of the inner size, cut it and fill up what is free."""
        (height, width), (down, right) = self.size, self.offset
        if self.inner == self.size:
            return image
        if self.inner[0] >= height and self.inner[1] >= width:
            return image[-down : height - down, -right : width - right]
        rest = height - self.inner[0] - down, width - self.inner[1] - right
        return np.asarray(cv2.copyMakeBorder(image, down, rest[0], right, rest[1], cv2.BORDER_CONSTANT, value=border))


def placement_of(image: tuple[int, int], size: tuple[int, int], preprocess: Preprocess) -> Placement:
    """Say where an image (height, width) lies in a sample of `size`, by the Preprocess's way.

    Raises:
        DataError: "crop", and the image is too small for it after its short side is resized.
    """
    inner = size
    if preprocess.resize == "letterbox":
        # The side that is too long by the larger factor fills its space, the other one keeps the aspect ratio.
        ratio = max(image[0] / size[0], image[1] / size[1])
        inner = max(1, int(image[0] / ratio)), max(1, int(image[1] / ratio))
    elif preprocess.resize == "crop":
        # Without a short side: as little as possible, so that the side that is shorter by more is just long enough.
        short_side = preprocess.short_side
        ratio = max(size[0] / image[0], size[1] / image[1]) if short_side is None else short_side / min(image)
        inner = round(image[0] * ratio), round(image[1] * ratio)
        if inner[0] < size[0] or inner[1] < size[1]:
            raise DataError(
                f"is {inner[0]} x {inner[1]} pixels after resizing, smaller than the sample of {size[0]} x {size[1]}"
            )
        # An odd line goes below, or to the right, as it does in letterbox.
        return Placement(inner, (-((inner[0] - size[0]) // 2), -((inner[1] - size[1]) // 2)), size, preprocess.mirror)
    return Placement(inner, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2), size, preprocess.mirror)


def resized(image: NDArray[Any], size: tuple[int, int], preprocess: Preprocess) -> NDArray[Any]:
    """Resize an image (H, W[, C]) of uint8 or float32 to `size` (height, width), by the Preprocess's way.

    Raises:
        DataError: "crop", and the image is too small for it after its short side is resized.
    """
    place = placement_of((image.shape[0], image.shape[1]), size, preprocess)
    return place.fit(_to(image, *place.inner))


def _to(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    if image.shape[:2] == (height, width):
        return image
    if height * width > max_pixels():
        raise DataError(f"would have {height} x {width} pixels after resizing, more than {max_pixels()}")
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def _mean(mean: Any, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Read the mean as (H, W, C) or (1, 1, C)."""
    if not isinstance(mean, str | os.PathLike):
        return _per_channel(mean or 0.0, shape[0], "mean")
    array = read_mean(Path(mean), "mean")
    if array.shape not in (shape, (shape[0], 1, 1)):
        raise DataError(
            f"mean: {mean} has the shape {array.shape}, samples have {shape}; give a file of that size, or one value "
            "per channel"
        )
    return array.transpose(1, 2, 0)


def _per_channel(values: float | Sequence[float], channels: int, name: str) -> NDArray[np.float32]:
    array = np.atleast_1d(np.asarray(values, np.float32))
    if array.shape not in ((1,), (channels,)):
        raise DataError(f"{name} has {array.size} values for {channels} channels; give one, or one per channel")
    if not np.isfinite(array).all():
        raise DataError(f"{name} is {values}; finite numbers are expected")
    return array.reshape(1, 1, -1)
