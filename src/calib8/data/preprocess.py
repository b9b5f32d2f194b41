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

from calib8.data.faces import Linear
from calib8.data.mean import read_mean
from calib8.errors import DataError, OptionError
from calib8.graph import Shape

RESIZE_MODES = ("warp", "letterbox", "crop")
COLOR_FORMATS = ("bgr", "rgb", "gray")
IMAGE_CHANNELS = (1, 3)
_LARGE = 2**24  # values


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


def resized(image: NDArray[Any], size: tuple[int, int], preprocess: Preprocess) -> NDArray[Any]:
    """Resize an image (H, W[, C]) of uint8 or float32 to `size` (height, width), by the Preprocess's way.

    Raises:
        DataError: "crop", and the image is too small for it after its short side is resized.
    """
    if preprocess.resize == "letterbox":
        return _letterbox(image, *size)
    if preprocess.resize == "crop":
        return _crop(image, *size, preprocess.short_side)
    return _to(image, *size)


def _to(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def _letterbox(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize the image as large as it fits, in the middle; an odd line of padding goes below, or to the right."""
    # The side that is too long by the larger factor fills its space, the other one keeps the aspect ratio.
    ratio = max(image.shape[0] / height, image.shape[1] / width)
    image = _to(image, max(1, int(image.shape[0] / ratio)), max(1, int(image.shape[1] / ratio)))
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    bottom, right = height - image.shape[0] - top, width - image.shape[1] - left
    return np.asarray(cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0))


def _crop(image: NDArray[Any], height: int, width: int, short_side: int | None) -> NDArray[Any]:
    old_h, old_w = image.shape[:2]
    # Without a short side: as little as possible, so that the side that is shorter by more is just long enough.
    ratio = max(height / old_h, width / old_w) if short_side is None else short_side / min(old_h, old_w)
    new_h, new_w = round(old_h * ratio), round(old_w * ratio)
    if new_h < height or new_w < width:
        raise DataError(f"is {new_h} x {new_w} pixels after resizing, smaller than the sample of {height} x {width}")
    image = _to(image, new_h, new_w)
    top, left = (new_h - height) // 2, (new_w - width) // 2
    return image[top : top + height, left : left + width]


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
