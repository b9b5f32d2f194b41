"""How far INT8 values are from the FP32 ones: sums that can be added up over samples, and the figures they give.

With x in FP32 and y in INT8 (in real units), over all elements of all samples:

- cosine = sum x*y / sqrt(sum x^2 * sum y^2)
- signal to noise ratio = 10 log10(sum x^2 / sum (x - y)^2), in dB
- mean squared error = sum (x - y)^2 / elements, in squared real units
- top-1 agreement = share of positions at which x and y are largest in the same channel (axis 1); a position is a
  sample of a classifier, a pixel of a map

and of a tensor of codes:

- saturation = share of the codes that are -128 or 127, where values may have been clipped
- codes in use = share of the 256 codes that occur
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array

CODES = 256
Channels = NDArray[np.intp]
_CHUNK = 1 << 16  # elements at a time in double precision
_MOST_COUNTED = 1 << 23  # OpenCV counts in float32
_NEAR = 4.0  # squared norms whose product follows from their sums
_LARGE_MAP = 512  # positions, from which on argmax takes longer than the way along the memory


@dataclass(frozen=True)
class Comparison:
    """Sums over pairs of values.

    Attributes:
        elements: number of pairs.
        reference, result, product, error: sums of x^2, y^2, x*y and (x - y)^2.
        positions, agreeing: places with a largest channel, and those where it is the same; 0 without channels.
    """

    elements: int = 0
    reference: float = 0.0
    result: float = 0.0
    product: float = 0.0
    error: float = 0.0
    positions: int = 0
    agreeing: int = 0

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(*(a + b for a, b in zip(self._sums(), other._sums(), strict=True)))

    def _sums(self) -> tuple[Any, ...]:
        return tuple(self.__dict__.values())

    @property
    def cosine(self) -> float:
        """1 for equal directions; 0 where one of the two is all zeros and the other is not."""
        if self.error == 0:
            return 1.0
        norms = math.sqrt(self.reference) * math.sqrt(self.result)
        return min(self.product / norms, 1.0) if norms > 0 else 0.0

    @property
    def snr_db(self) -> float:
        """Infinite without an error, minus infinite where FP32 is all zeros and INT8 is not."""
        if self.error == 0:
            return math.inf
        return 10 * math.log10(self.reference / self.error) if self.reference > 0 else -math.inf

    @property
    def mse(self) -> float:
        """In squared real units."""
        return self.error / self.elements if self.elements else 0.0

    @property
    def top1(self) -> float:
        """From 0 to 1; NaN for values without channels."""
        return self.agreeing / self.positions if self.positions else math.nan


class Reference:
    """An array that many others are compared with, and what each comparison needs of it.

    Attributes:
        array: (N, C, ...).
    """

    def __init__(self, array: Array) -> None:
        self.array = array

    @cached_property
    def squares(self) -> float:
        """The sum of x^2."""
        return _squares(self.array)

    @cached_property
    def best(self) -> Channels | None:
        """The channel where each position is largest; None for values without channels."""
        return largest_channel(self.array)


def compare(reference: Array | Reference, result: Array) -> Comparison:
    """Compute the sums for one pair of arrays of the same shape (N, C, ...).

    Raises:
        ValueError: the shapes differ.
    """
    x = reference if isinstance(reference, Reference) else Reference(reference)
    if x.array.shape != result.shape:
        raise ValueError(f"values of the shapes {x.array.shape} and {result.shape} cannot be compared")
    squares, error = _squares(result), _squares(x.array, result)
    product = _product(x, result, squares, error)
    return Comparison(result.size, x.squares, squares, product, error, *_agreement(x.best, result))


def mean_squared_error(reference: Array, result: Array) -> float:
    """Compute the mean of (x - y)^2 over all elements; 0 for none."""
    return _squares(reference, result) / max(reference.size, 1)


def _squares(x: Array, y: Array | None = None) -> float:
    """The sum of x^2, or of (x - y)^2 with differences in float32; summed in double precision."""
    if not x.size:
        return 0.0
    flat = x.reshape(-1)
    return float(cv2.norm(flat, cv2.NORM_L2SQR) if y is None else cv2.norm(flat, y.reshape(-1), cv2.NORM_L2SQR))


def _product(x: Reference, y: Array, squares: float, error: float) -> float:
    """The sum of x*y, from the sums of y^2 and (x - y)^2 where these are good enough for it.

    2 sum x*y = sum x^2 + sum y^2 - sum (x - y)^2. A difference in float32 is off by a part of 2^-24 at most, its square
    by 2^-23, the product by `2^-24 sum (x - y)^2`, and a cosine by that over |x| |y|. With norms a and b within a
    factor of 2 of each other, `sum (x - y)^2 <= (a + b)^2 <= 4.5 a b`: the cosine is off by 2.7e-7 at most, and of a
    result with an error of 20 dB by 6e-10. Where one is far larger, the product would be lost: it is summed by itself.
    """
    if error < math.inf and x.squares <= _NEAR * squares and squares <= _NEAR * x.squares:
        return (x.squares + squares - error) / 2
    one, other = x.array.reshape(-1), y.reshape(-1)
    chunks = (slice(start, start + _CHUNK) for start in range(0, one.size, _CHUNK))
    return math.fsum(float(np.multiply(one[c], other[c], dtype=np.float64).sum()) for c in chunks)


def largest_channel(array: Array) -> Channels | None:
    """Find the first channel (axis 1) where each position is largest, as numpy's argmax; None without channels.

    Args:
        array: (N, C, ...).

    Returns:
        (N, ...).
    """
    if array.ndim < 2 or array.shape[1] < 2:
        return None
    channels = array.shape[1]
    if channels >= 1 << 8 or array.size < _LARGE_MAP * channels:
        return _argmax(array)
    # argmax goes from position to position, across the memory. This goes along it, several positions at a time: those
    # that are the largest get the number of channels from theirs to the last, and the largest of these is the first.
    largest = (array == array.max(axis=1, keepdims=True)).view(np.uint8)
    to_last = np.arange(channels, 0, -1, dtype=np.uint8).reshape(1, -1, *(1,) * (array.ndim - 2))
    ranks = np.multiply(largest, to_last, out=largest).max(axis=1)
    if not ranks.all():  # NaN is the largest, and equals nothing
        return _argmax(array)
    best: Channels = channels - ranks.astype(np.intp)
    return best


def _argmax(array: Array) -> Channels:
    best: Channels = array.argmax(axis=1)
    return best


def _agreement(best: Channels | None, result: Array) -> tuple[int, int]:
    own = largest_channel(result)
    return (0, 0) if best is None else (best.size, int(np.count_nonzero(best == own)))


@dataclass(frozen=True)
class OutputComparison:
    """Comparisons of several values, the outputs of a network: the worst of them, but the sum of their errors."""

    by_value: Mapping[str, Comparison] = field(default_factory=dict)

    def __add__(self, other: OutputComparison) -> OutputComparison:
        names = dict.fromkeys([*self.by_value, *other.by_value])
        none = Comparison()
        return OutputComparison({n: self.by_value.get(n, none) + other.by_value.get(n, none) for n in names})

    @property
    def cosine(self) -> float:
        """The smallest."""
        return min((c.cosine for c in self.by_value.values()), default=1.0)

    @property
    def snr_db(self) -> float:
        """The smallest."""
        return min((c.snr_db for c in self.by_value.values()), default=math.inf)

    @property
    def mse(self) -> float:
        """The sum."""
        return sum(c.mse for c in self.by_value.values())

    @property
    def top1(self) -> float:
        """The smallest; NaN if no value has channels."""
        return min((c.top1 for c in self.by_value.values() if c.positions), default=math.nan)

    def of_classes(self, values: Collection[str]) -> OutputComparison:
        """The same, with a top-1 of these values only: of boxes and plain numbers the largest channel says nothing."""
        return OutputComparison(
            {v: c if v in values else replace(c, positions=0, agreeing=0) for v, c in self.by_value.items()}
        )


def compare_outputs(
    reference: Mapping[str, Array] | Mapping[str, Reference], result: Mapping[str, Array], values: Sequence[str]
) -> OutputComparison:
    """Compare each of these values."""
    return OutputComparison({value: compare(reference[value], result[value]) for value in values})


@dataclass(frozen=True, eq=False)
class CodeUsage:
    """How often each code from -128 to 127 occurs: counts (256,)."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(CODES, np.int64))

    def __add__(self, other: CodeUsage) -> CodeUsage:
        return CodeUsage(self.counts + other.counts)

    @property
    def saturation(self) -> float:
        """Share of the codes at the ends, 0 to 1."""
        total = int(self.counts.sum())
        return float(self.counts[0] + self.counts[-1]) / total if total else 0.0

    @property
    def in_use(self) -> float:
        """Share of the codes that occur, 0 to 1."""
        return int(np.count_nonzero(self.counts)) / CODES


def code_usage(codes: Array) -> CodeUsage:
    """Count the codes of a tensor of codes, uint8, `code + 128`."""
    counts = np.zeros(CODES, np.int64)
    flat = codes.reshape(-1)
    for start in range(0, flat.size, _MOST_COUNTED):
        part = flat[start : start + _MOST_COUNTED].reshape(1, -1)
        counts += cv2.calcHist([part], [0], None, [CODES], [0, CODES]).reshape(-1).astype(np.int64)
    return CodeUsage(counts)


Sums = TypeVar("Sums", Comparison, OutputComparison, CodeUsage)


def total(parts: Iterable[Sums], start: Sums) -> Sums:
    """Add comparisons or usages in their order."""
    return reduce(lambda a, b: a + b, parts, start)
