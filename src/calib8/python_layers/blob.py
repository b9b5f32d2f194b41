"""Blob and BlobVec as a Python layer sees them. Source: BVLC/caffe, src/caffe/blob.cpp; python/caffe/_caffe.cpp."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

MAX_AXES = 32
MAX_COUNT = 2**31 - 1


class Blob:
    """An n-dimensional float32 array whose storage stays in place while it is large enough."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._shape: tuple[int, ...] = ()
        self._data: NDArray[np.float32] = np.zeros(0, np.float32)
        self._diff: NDArray[np.float32] = np.zeros(0, np.float32)
        self.has_shape = False
        if shape:
            self.reshape(*shape)

    def reshape(self, *shape: SupportsIndex) -> None:
        """Change the shape. Values stay as they lie in memory as long as the storage is large enough.

        Raises:
            TypeError: a size is no whole number.
            ValueError: a negative size, or more axes or values than a Caffe blob can have.
        """
        dims = tuple(operator.index(n) for n in shape)
        if len(dims) > MAX_AXES or any(n < 0 for n in dims) or math.prod(dims) > MAX_COUNT:
            raise ValueError(f"a blob cannot have the shape {dims}: at most {MAX_AXES} axes and {MAX_COUNT} values")
        self._shape = dims
        self.has_shape = True
        if self.count > self._data.size:
            self._data = np.zeros(self.count, np.float32)

    @property
    def data(self) -> NDArray[np.float32]:
        """The values: a view, written with `blob.data[...] = values`."""
        return self._data[: self.count].reshape(self._shape)

    @property
    def diff(self) -> NDArray[np.float32]:
        """The gradients: a view; zero until somebody writes them."""
        if self.count > self._diff.size:
            self._diff = np.zeros(self.count, np.float32)
        return self._diff[: self.count].reshape(self._shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of every axis."""
        return self._shape

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self._shape)

    @property
    def num(self) -> int:
        """Size of axis 0, or 1 (Caffe's LegacyShape)."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Size of axis 1, or 1."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Size of axis 2, or 1."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Size of axis 3, or 1."""
        return self._legacy(3)

    def _legacy(self, axis: int) -> int:
        if len(self._shape) > 4:
            raise ValueError(f"num, channels, height and width have no meaning in a blob of {len(self._shape)} axes")
        return self._shape[axis] if axis < len(self._shape) else 1


class BlobVec(list[Blob]):
    """The weights of a layer."""

    def add_blob(self, *shape: SupportsIndex) -> None:
        """Append a blob of zeros."""
        blob = Blob()
        blob.reshape(*shape)
        self.append(blob)
