"""What the layers with weights have seen: windows of codes, and their moments.

Codes are whole numbers, and so are sums of their products: the moments are exact, whatever the order of the samples,
the number of threads, or the library that multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import quantize
from calib8.engine.entrance import enter
from calib8.layer_kit.window_product import WindowProduct

_SIGN = np.uint8(0x80)  # `code + 128` in a byte differs from the code's own byte by this bit
_ROWS, _FEW_ROWS = 1 << 10, 1 << 7  # windows that are multiplied at a time
_EXACT = 1 << 24  # up to which float32 adds whole numbers exactly: 2^10 products of two codes, at most 2^14 each


def codes_of(values: NDArray[Any], threshold: float) -> NDArray[np.int8]:
    """Turn real values into codes, as `arithmetic.quantize` does, in compiled code where there is some.

    Args:
        values: any floats; those of a forward pass are float32.
        threshold: in real units.
    """
    if values.dtype != np.float32:
        return quantize(values, threshold)
    codes = np.empty(values.shape, np.uint8)
    enter(np.ascontiguousarray(values), threshold, codes)
    return np.bitwise_xor(codes, _SIGN, out=codes).view(np.int8)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a layer is to compute over its windows.

    Attributes:
        weights: (G, O, K), real.
        means: of the outputs, (G, O).
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over windows of codes.

    Attributes:
        count: number of windows.
        sums: of x, (G, K); whole numbers.
        products: of x x^T, (G, K, K); whole numbers.
    """

    count: int
    sums: NDArray[np.float64]
    products: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """E[x], (G, K), in codes."""
        return self.sums / self.count

    @property
    def second(self) -> NDArray[np.float64]:
        """E[x x^T], (G, K, K)."""
        return self.products / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        """E[x x^T] - E[x] E[x]^T, (G, K, K). The difference is taken of whole numbers below 2^53, exactly."""
        found = self.products * self.count  # one matrix of a wide layer takes 42 MB, so the rest is done in place
        found -= self.sums[:, :, None] * self.sums[:, None, :]
        found /= float(self.count) ** 2
        return found

    def chosen(self, weights: NDArray[np.float64], *, centred: bool) -> Callable[[NDArray[np.float64]], Wanted]:
        """Say what integers are to be near, as a function of real weights: here the weights themselves.

        Args:
            weights: of the layer, or some of its rows, (G, O, K), to judge by what is best.
            centred: whether only what is left of the mean counts, since an offset takes the mean.
        """
        return lambda rows: Wanted(rows, np.einsum("gok,gk->go", rows, self.means))


class Windows(Protocol):
    """What a layer's weights are solved over.

    Attributes:
        widest: so many inputs are solved together at most.
    """

    widest: int

    @property
    def count(self) -> int:
        """Number of windows."""

    def mean_squares(self) -> NDArray[np.float64]:
        """Compute E[x^2] of every input, (G, K)."""

    def moments(self, first: int = 0, last: int | None = None) -> Moments:
        """Compute the moments of a range of the K inputs, all by default."""


class InputWindows:
    """Codes of windows of a value, some of each sample, kept.

    Args:
        op: the layer that reads the value.
        threshold: of the value, in real units.
        per_sample: how many windows of a sample are kept; all of them where there are fewer.
    """

    widest = 1536  # a matrix of them takes 19 MB, and three are alive

    def __init__(self, op: WindowProduct, threshold: float, per_sample: int) -> None:
        self._op, self._threshold, self._per_sample = op, threshold, per_sample
        self._parts: list[NDArray[np.int8]] = []

    def add(self, values: NDArray[Any]) -> None:
        """Take in a value of one sample, in real units."""
        self.add_codes(codes_of(values, self._threshold))

    def add_codes(self, codes: NDArray[np.int8]) -> None:
        """Take in a value of one sample, as codes."""
        self.add_windows(self._op.product_windows(codes, self._per_sample))

    def add_windows(self, windows: NDArray[np.int8]) -> None:
        """Take in windows of one sample, (G, n, K)."""
        self._parts.append(windows)

    @property
    def parts(self) -> Sequence[NDArray[np.int8]]:
        """The windows of each sample, (G, n, K)."""
        return self._parts

    @property
    def count(self) -> int:
        """Number of windows so far."""
        return sum(part.shape[1] for part in self._parts)

    def mean_squares(self) -> NDArray[np.float64]:
        """Compute E[x^2] of every input, (G, K)."""
        sums = [np.square(part, dtype=np.int64).sum(axis=1) for part in self._parts]
        return np.asarray(sum(sums) / self.count, dtype=np.float64)

    def moments(self, first: int = 0, last: int | None = None) -> Moments:
        """Compute the moments of a range of the K inputs, all by default."""
        if not self._parts:
            raise AssertionError("nothing was observed")
        return moments_of(np.concatenate([part[:, :, first:last] for part in self._parts], axis=1))


def moments_of(windows: NDArray[np.int8]) -> Moments:
    """Compute the moments of windows of codes, (G, n, K)."""
    return Moments(windows.shape[1], windows.sum(axis=1, dtype=np.float64), exact_products(windows, windows))


def exact_products(left: NDArray[np.integer[Any]], right: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Sum the products of whole numbers over windows, (G, n, K) and (G, n, L), exactly: (G, K, L).

    In float32 where it adds them exactly, which takes half the time; of one array with itself, in half of that.
    """
    largest = max(1, _largest(left) * _largest(right))
    is_exact = largest * _FEW_ROWS <= _EXACT
    kind, count = (np.float32, min(_ROWS, _EXACT // largest)) if is_exact else (np.float64, _ROWS)
    found = np.zeros((len(left), left.shape[2], right.shape[2]))
    for start in range(0, left.shape[1], count):
        rows = slice(start, start + count)
        one: NDArray[np.floating[Any]] = left[:, rows].astype(kind)
        # The same array, not another one that is equal: the library then computes one half and copies the other.
        other: NDArray[np.floating[Any]] = one if right is left else right[:, rows].astype(kind)
        found += one.transpose(0, 2, 1) @ other
    return found


def _largest(values: NDArray[np.integer[Any]]) -> int:
    return max(int(values.max()), -int(values.min()))
