"""Resizing as pycaffe's calls of scikit-image and scipy do it, without either.

Along each axis a new pixel is a mix of old ones: the nearest one (order 0), two (order 1), or four (order 3).

- with 1 or 3 channels (skimage.transform.resize, mode "constant", no anti-aliasing): pixels have their centres at
  i + 0.5; what lies beyond the outermost centres is mixed with the image's minimum, so enlarged images have dim edges.
  Order 3 is Catmull and Rom's cubic, cut to the image's range;
- otherwise (scipy.ndimage.zoom): the outermost pixels stay the outermost. Order 3 is the cubic B-spline through the old
  pixels, which goes on beyond the edge as in a mirror.

Source: BVLC/caffe, python/caffe/io.py, resize_image; scikit-image 0.10 to 0.13, transform/_warps.py, resize, and
_shared/interpolation.pxd; scipy, ndimage/interpolation.py, zoom. Unser, Splines: a perfect fit, 1999.
Deviations: orders 2, 4 and 5 are refused. Newer scikit-image gives other numbers than Caffe's scripts were written
with: since 0.15 it blurs an image before it shrinks it, and since 0.19 it resizes by scipy.ndimage.zoom, whose order 3
is the B-spline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError, OptionError

Array = NDArray[np.float32]
_CUBIC = 3


def resize_image(im: NDArray[Any], new_dims: Sequence[int] | NDArray[Any], interp_order: int = 1) -> Array:
    """Resize an image.

    Args:
        im: (H, W, K), any numbers.
        new_dims: height and width.
        interp_order: 0 (nearest), 1 (linear) or 3 (cubic).

    Returns:
        (new_dims[0], new_dims[1], K), float32.

    Raises:
        DataError: no image of three axes, or an empty one.
        OptionError: another order, or sizes below 1.
    """
    if im.ndim != 3 or 0 in im.shape:
        raise DataError(f"cannot resize an array of the shape {im.shape}; expected an image (H, W, K)")
    if interp_order not in (0, 1, _CUBIC):
        raise OptionError(f"interp_order is {interp_order}; expected 0 (nearest), 1 (linear) or 3 (cubic)")
    height, width = (int(n) for n in new_dims)
    if height < 1 or width < 1:
        raise OptionError(f"new_dims is {tuple(new_dims)}; height and width must be at least 1")
    centred = im.shape[-1] in (1, 3)
    low = im.min() if centred else 0
    shifted = im.astype(np.float32) - np.float32(low)
    along = _along if interp_order != _CUBIC else _along_cubic if centred else _along_spline
    high = shifted.max()
    for axis, size in enumerate((height, width)):
        shifted = along(shifted, axis, _positions(im.shape[axis], size, centred), interp_order)
    if centred and interp_order == _CUBIC:
        shifted = shifted.clip(0, high)
    resized: Array = shifted + np.float32(low)
    return resized


def _positions(old: int, new: int, centred: bool) -> NDArray[np.floating[Any]]:
    """Find where the new pixels lie among the old ones."""
    if centred:
        return (np.arange(new) + 0.5) * old / new - 0.5
    return np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)


def _along(image: Array, axis: int, positions: NDArray[np.floating[Any]], order: int) -> Array:
    count = image.shape[axis]
    mixed: Array
    if order == 0:
        nearest = np.clip(np.floor(positions + 0.5), 0, count - 1).astype(int)
        mixed = image.take(nearest, axis)
        return mixed
    # Linear: each new pixel mixes its two neighbours by nearness. Beyond the edge there is nothing, of weight 0.
    before = np.floor(positions).astype(int)
    shape = (-1, 1, 1) if axis == 0 else (-1, 1)
    mixed = np.zeros((), np.float32)
    for index, share in ((before, before + 1 - positions), (before + 1, positions - before)):
        weight = np.where((index >= 0) & (index < count), share, 0).astype(np.float32)
        mixed = mixed + np.take(image, np.clip(index, 0, count - 1), axis) * weight.reshape(shape)
    return mixed


def _along_cubic(image: Array, axis: int, positions: NDArray[np.floating[Any]], order: int) -> Array:
    """Catmull and Rom's cubic between four pixels; those beyond the edge are 0."""
    count = image.shape[axis]
    before = np.floor(positions).astype(int)
    x = positions - before
    shares = (
        0.5 * x * (-1 + x * (2 - x)),
        1 + 0.5 * x * x * (3 * x - 5),
        0.5 * x * (1 + x * (4 - 3 * x)),
        0.5 * x * x * (x - 1),
    )
    places = [before + k for k in (-1, 0, 1, 2)]
    inside = [np.where((place >= 0) & (place < count), share, 0) for place, share in zip(places, shares, strict=True)]
    return _mixed(image, axis, [np.clip(place, 0, count - 1) for place in places], inside)


def _along_spline(image: Array, axis: int, positions: NDArray[np.floating[Any]], order: int) -> Array:
    """The cubic B-spline through the pixels."""
    count = image.shape[axis]
    if count == 1:
        return image.take(np.zeros(len(positions), int), axis)
    before = np.floor(positions).astype(int)
    x = positions - before
    third = (1 + 3 * x + 3 * x**2 - 3 * x**3) / 6
    shares = ((1 - x) ** 3 / 6, (4 - 6 * x**2 + 3 * x**3) / 6, third, x**3 / 6)
    period = 2 * (count - 1)
    places = [(before + k) % period for k in (-1, 0, 1, 2)]
    mirrored = [np.where(place < count, place, period - place) for place in places]
    return _mixed(_spline_coefficients(image, axis), axis, mirrored, shares)


def _spline_coefficients(image: Array, axis: int) -> NDArray[np.float64]:
    """Solve for what cubic B-splines at the pixels must be multiplied by to give the pixels (Unser 1999, box 2)."""
    c = np.moveaxis(image.astype(np.float64), axis, 0) * 6
    pole, count = math.sqrt(3) - 2, len(c)
    powers = pole ** np.arange(2 * count - 2)
    whole = np.concatenate([c, c[-2:0:-1]])  # one period of the mirrored pixels
    c[0] = np.tensordot(powers, whole, 1) / (1 - pole ** (2 * count - 2))
    for k in range(1, count):
        c[k] += pole * c[k - 1]
    c[-1] = pole / (pole * pole - 1) * (c[-1] + pole * c[-2])
    for k in range(count - 2, -1, -1):
        c[k] = pole * (c[k + 1] - c[k])
    return np.moveaxis(c, 0, axis)


def _mixed(
    image: NDArray[Any], axis: int, places: Sequence[NDArray[Any]], shares: Sequence[NDArray[np.floating[Any]]]
) -> Array:
    """The sum of pixels at `places` along an axis, times `shares`."""
    shape = (-1, 1, 1) if axis == 0 else (-1, 1)
    parts = [image.take(place, axis) * share.reshape(shape) for place, share in zip(places, shares, strict=True)]
    return np.asarray(sum(parts), np.float32)
