"""Layers that are matrices times windows of their bottom: what solves for their weights sees them so.

A top's element is a row of a matrix times one window, stretched out: y[o] = sum_k W[o, k] x[k] + b[o], with K numbers
in a window. Groups have matrices and windows of their own.

Source: im2col of BVLC/caffe, src/caffe/util/im2col.cpp, whose columns these windows are.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array
from calib8.layer_kit.spatial import Window, conv_output_shape

_REMEMBERED = 4096  # so many places at most: they are asked for once for every value and sample


class WindowProduct(ABC):
    """A layer with weights that is a matrix times windows of its bottom."""

    @abstractmethod
    def product_windows(self, bottom: Array, count: int) -> Array:
        """Pick windows, spread evenly over the bottom: (groups, n, K), n at most `count`, of the bottom's type."""

    @abstractmethod
    def product_matrix(self, weights: Array) -> Array:
        """See weights, in the shape of the layer's blob, as matrices: (groups, O/groups, K)."""

    @abstractmethod
    def product_weights(self, matrices: Array) -> Array:
        """Bring matrices, (groups, O/groups, K), to the order of the weights' blob; the number of axes is free."""


def evenly(total: int, count: int) -> NDArray[np.intp]:
    """Pick at most `count` of `total` places, at equal distances, each in the middle of its part; not to be written."""
    return _evenly(total, count) if count <= _REMEMBERED else _places(total, count)


@functools.lru_cache(512)
def _evenly(total: int, count: int) -> NDArray[np.intp]:
    places = _places(total, count)
    places.setflags(write=False)
    return places


def _places(total: int, count: int) -> NDArray[np.intp]:
    n = min(total, count)
    return ((2 * np.arange(n, dtype=np.int64) + 1) * total // (2 * n)).astype(np.intp)


def windows(bottom: Array, window: Window, count: int) -> Array:
    """Pick windows over a bottom (N, C, spatial...), zeros in the pads: (n, C, kernel...)."""
    places = conv_output_shape(bottom.shape[2:], window)
    padded = _padded(bottom, window)
    chosen = evenly(len(bottom) * math.prod(places), count)
    image, *place = np.unravel_index(chosen, (len(bottom), *places))
    found = np.empty((len(chosen), bottom.shape[1], *window.kernel), bottom.dtype)
    axes = list(zip(place, window.stride, window.dilation, strict=True))
    for offset in np.ndindex(*window.kernel):
        at = tuple(p * stride + o * dilation for (p, stride, dilation), o in zip(axes, offset, strict=True))
        found[(slice(None), slice(None), *offset)] = padded[(image, slice(None), *at)]
    return found


def _padded(bottom: Array, window: Window) -> Array:
    """Put zeros around a bottom; np.pad takes four times as long on small ones."""
    if not any((*window.pad, *window.pad_end)):
        return bottom
    sizes = [n + a + b for n, a, b in zip(bottom.shape[2:], window.pad, window.pad_end, strict=True)]
    padded = np.zeros((*bottom.shape[:2], *sizes), bottom.dtype)
    inside = [slice(a, a + n) for n, a in zip(bottom.shape[2:], window.pad, strict=True)]
    padded[(slice(None), slice(None), *inside)] = bottom
    return padded
