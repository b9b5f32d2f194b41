"""The blobs of a Net: `NetBlob` holds a value of the last forward pass, `Parameter` a weight.

Both lend their values as live numpy views and notice whether a lent view is still alive somewhere: only then can
values change without a call of ours. All views of a blob lead to one array, its `_lent`, whose end tells.
Source: BVLC/caffe, python/caffe/_caffe.cpp, class_<Blob>.
"""

from __future__ import annotations

import weakref
from typing import Any, ClassVar, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS, dequantize, quantize
from calib8.errors import OptionError
from calib8.graph import Shape
from calib8.python_layers import Blob

Array = NDArray[np.float32]


class LentBlob(Blob):
    """A Blob that knows whether somebody holds a view of its values."""

    _lent: weakref.ref[Any] | None = None
    _view: Array | None = None

    def set_shape(self, shape: Shape) -> None:
        """Reshape, also to a shape without axes."""
        super().reshape(*shape)

    @property
    def values(self) -> Array:
        """The values as they lie in memory now: one array as long as neither storage nor shape changes."""
        if self._view is None or self._view.base is not self._data or self._view.shape != self._shape:
            self._view = super().data
        return self._view

    @property
    def is_lent(self) -> bool:
        """Whether a view that was lent is still alive."""
        return self._lent is not None and self._lent() is not None

    def _lend(self) -> Array:
        whole = self._lent() if self._lent is not None else None
        if whole is None or whole.size != self._data.size:
            # Not a view of _data to numpy, so that the views that users derive keep this array alive, not _data.
            whole = np.asarray(self._data.data)
            self._lent = weakref.ref(whole)
        view: Array = whole[: self.count].reshape(self._shape)
        return view


class Unfinished(Protocol):
    """A forward pass that has left blobs uncomputed."""

    def finish(self) -> None:
        """Compute them."""
        ...


class NetBlob(LentBlob):
    """A blob between layers.

    Attributes:
        pending: the forward pass that would compute the blob's value; None when it is there.
        computed: whether a forward pass has ever written the blob.
        read: whether somebody asked for the values since the last forward pass.
        threshold: after `int8_init`, what a real value of 128 codes is; None before.
        units: of the blob's channels, (C), where the threshold is that of the largest one; None for ones.
        holds_codes: whether the values are codes already: an input that the user quantises.
    """

    def __init__(self, shape: Shape) -> None:
        self.threshold: float | None = None
        self.units: NDArray[np.float64] | None = None
        self.holds_codes = False
        self.pending: Unfinished | None = None
        self.computed = False
        self.read = False
        super().__init__()
        self.set_shape(shape)

    @property
    def data(self) -> Array:
        """The values: a live view, written with `blob.data[...] = values`."""
        self.settle()
        self.read = True
        return self._lend()

    @property
    def int8(self) -> NDArray[np.int8]:
        """The integers that the chip has in this blob, a copy: the codes of `data`, `sat8(rnd(x * 128 / threshold))`.

        Of channels that count in units of their own, x / unit is taken.

        Raises:
            OptionError: the net does not run in INT8, or the blob is a measure (an accuracy, a loss).
        """
        if self.threshold is None:
            raise OptionError(
                "blob.int8: the net does not run in INT8 (call net.int8_init(...) first), or the blob is a measure"
            )
        if self.units is None:
            return quantize(self.data, INT8_LEVELS if self.holds_codes else self.threshold)
        values = self.data
        along = self.units.astype(np.float32).reshape(-1, *(1,) * (values.ndim - 2))
        return quantize(values / along, self.threshold)

    def as_real(self, values: Array) -> Array:
        """Give values of this blob in real units, whatever it holds."""
        if not self.holds_codes or self.threshold is None:
            return values
        return dequantize(quantize(values, INT8_LEVELS), self.threshold)

    @property
    def wanted(self) -> bool:
        """Whether the next forward pass is to compute the blob at once: it was read after the last one, or is lent."""
        lent = self._lent
        return (self.read and self.computed) or (lent is not None and lent() is not None)

    def settle(self) -> None:
        """Compute the value if the last forward pass did not."""
        if self.pending is not None:
            self.pending.finish()

    def reshape(self, *shape: SupportsIndex) -> None:
        """Change the shape; the net follows with `net.reshape()` or in the next forward pass."""
        self.settle()
        super().reshape(*shape)

    def take(self, values: NDArray[Any]) -> None:
        """Take these values, in their shape."""
        self.pending = None
        if self._shape != values.shape:
            self.set_shape(values.shape)
        self.values[...] = values


class Parameter(LentBlob):
    """A weight. What the engine has of it, `settled()`, is never written again; writers get a copy.

    So the engine can tell by identity whether a weight has changed, and a weight that nobody asks for stays where it
    is, in the mapped caffemodel.
    """

    epoch: ClassVar[int] = 0
    """Grows whenever a weight of any net changes, is handed out or is exchanged."""
    _all_copied: ClassVar[weakref.WeakSet[Parameter]] = weakref.WeakSet()

    @classmethod
    def may_have_changed(cls, since: int) -> bool:
        """Tell whether any weight may have changed since `epoch` had a value: not, if none was handed out."""
        return cls.epoch != since or len(cls._all_copied) > 0

    def __init__(self, values: Array) -> None:
        self._settled: Array = values
        self._copied = False
        super().__init__()
        self._shape = values.shape

    @property
    def data(self) -> Array:
        """The values: a live view, written with `blob.data[...] = values`; the next forward pass uses them."""
        self._copy()
        return self._lend()

    def settled(self) -> Array:
        """Give the values as they are now, read-only; the same array as long as they are the same."""
        if self._copied:
            values, is_lent = self.values, self.is_lent
            if not _same_bytes(values, self._settled):
                Parameter.epoch += 1
                self._settled = values.copy() if is_lent else values
                self._settled.flags.writeable = False
            if not is_lent:
                self._drop_copy()
        return self._settled

    def assign(self, values: Array) -> None:
        """Take these values, of the same shape. They are not copied while nobody holds a view."""
        if self.is_lent:
            self.values[...] = values
        else:
            Parameter.epoch += 1
            self._settled = values
            self._drop_copy()

    def reshape(self, *shape: SupportsIndex) -> None:
        """Change the shape. Values stay as they lie in memory as long as the storage is large enough."""
        self._copy()
        super().reshape(*shape)

    def _copy(self) -> None:
        if not self._copied:
            self._data = self._settled.flatten()
            self._copied = True
            self._all_copied.add(self)
            Parameter.epoch += 1

    def _drop_copy(self) -> None:
        self._data = np.zeros(0, np.float32)
        self._view = None  # or it would keep the copy
        self._copied = False
        self._all_copied.discard(self)


def _same_bytes(a: Array, b: Array) -> bool:
    """Compare so that NaN equals itself and 0 differs from -0."""
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))
