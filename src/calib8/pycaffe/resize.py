"""Resizing as pycaffe's calls of scikit-image and scipy do it, without either.

Along each axis a new pixel is a mix of two old ones (order 1), or the nearest old one (order 0):

- with 1 or 3 channels (skimage.transform.resize, mode "constant", no anti-aliasing): pixels have their centres at
  i + 0.5; what lies beyond the outermost centres is mixed with the image's minimum, so enlarged images have dim edges;
- otherwise (scipy.ndimage.zoom): the outermost pixels stay the outermost.

Source: BVLC/caffe, python/caffe/io.py, resize_image; scikit-image 0.10 to 0.13, transform/_warps.py, resize.
Deviations: orders above 1 are refused; newer versions of scikit-image blur an image before they shrink it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError, OptionError

Array = NDArray[np.float32]


def resize_image(im: NDArray[Any], new_dims: Sequence[int] | NDArray[Any], interp_order: int = 1) -> Array:
    """Resize an image.

    Args:
        im: (H, W, K), any numbers.
        new_dims: height and width.
        interp_order: 0 (nearest) or 1 (linear).

    Returns:
        (new_dims[0], new_dims[1], K), float32.

    Raises:
        DataError: no image of three axes, or an empty one.
        OptionError: another order, or sizes below 1.
    """
    if im.ndim != 3 or 0 in im.shape:
        raise DataError(f"cannot resize an array of the shape {im.shape}; expected an image (H, W, K)")
    if interp_order not in (0, 1):
        raise OptionError(f"interp_order is {interp_order}; expected 0 (nearest) or 1 (linear)")
    height, width = (int(n) for n in new_dims)
    if height < 1 or width < 1:
        raise OptionError(f"new_dims is {tuple(new_dims)}; height and width must be at least 1")
    centred = im.shape[-1] in (1, 3)
    low = im.min() if centred else 0
    shifted = im.astype(np.float32) - np.float32(low)
    for axis, size in enumerate((height, width)):
        shifted = _along(shifted, axis, _positions(im.shape[axis], size, centred), interp_order)
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
