"""What calibration counts of a blob: the distribution of |x| over all samples, streamed.

A value goes to bin `floor(|x|/width + 0.5)` with `width = max|x| / (bins - 1)`, both evaluated in float64:
bin j holds what lies around `j * width`. Two ways to get there:

- two passes over the data: `AbsMax`, then `Histogram` over its maximum. Exactly the formula above.
- one pass: `AdaptiveHistogram` counts into fine bins whose range doubles when a larger |x| arrives, and
  brings them to the formula's bins at the end. The maximum is exact; the class states the bound on the
  counts.

Counting is order-independent: the same values give the same counts in any order, in batches of any size, on
any number of threads. One histogram is fed by one thread at a time.

NaN and infinities are counted apart and take no part in the distribution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.choices import DEFAULT_BINS
from calib8.errors import OptionError
from calib8.measure import counting
from calib8.measure.states import CounterState, exponent_of

BINS_MULTIPLE = 128
MAX_BINS = 1 << 20
DEAD_BELOW = 2.0**-100
"""A blob whose largest |x| is smaller than this counts as dead."""

_MIN_FINE_BINS = 1 << 14
_MAX_FINE_BINS = 1 << 20
_FINE_PER_BIN = 8
_FLOAT32_ROUNDS_BY = 1 + 2.0**-22


def check_bins(bins: int, named: str = "`bins`") -> int:
    """Refuse a number of bins that no histogram can have: it is a multiple of 128, at most 2^20. Returns the number.

    Args:
        named: what the user calls it.

    Raises:
        OptionError: says what was found and what can be chosen.
    """
    if bins < BINS_MULTIPLE or bins > MAX_BINS or bins % BINS_MULTIPLE:
        raise OptionError(
            f"{named} is {bins}; it must be a multiple of {BINS_MULTIPLE} "
            f"from {BINS_MULTIPLE} to {MAX_BINS}, for instance {DEFAULT_BINS}"
        )
    return bins


@dataclass(frozen=True, eq=False)
class BlobHistogram:
    """The distribution of one blob's |x| over all samples.

    Attributes:
        counts: values per bin, shape (bins,); bin j is centred on `j * width`; sums to `samples`.
        width: `maximum / (bins - 1)`, in real units.
        maximum: the largest finite |x|, exact.
        zeros: values that are exactly 0; they are in `counts[0]` too.
        nans: NaN values; not in `counts`, not in `samples`.
        infs: infinities; not in `counts`, not in `samples`.
        samples: finite values.
        beyond: values above `maximum`, in the last bin: the data changed between the two passes.
        exact: whether every value is in the formula's bin; one pass may put it into the one beside.
    """

    counts: NDArray[np.int64]
    width: float
    maximum: float
    zeros: int
    nans: int
    infs: int
    samples: int
    beyond: int = 0
    exact: bool = True

    @property
    def bins(self) -> int:
        """Number of bins."""
        return int(self.counts.size)

    @property
    def dead(self) -> bool:
        """Whether there is no finite value, or none that differs from 0 (largest |x| below `DEAD_BELOW`)."""
        return self.samples == 0 or self.maximum < DEAD_BELOW

    def beyond_threshold(self, threshold: float) -> float:
        """Return the share of the values, 0 to 1, in bins whose centre lies above `threshold`: what it clips.

        A threshold is rounded to float32 on its way here, a centre is not: what is that near is not above.
        """
        place = threshold * _FLOAT32_ROUNDS_BY / self.width if self.width > 0 else np.inf
        first = int(min(np.floor(place) + 1, self.bins))
        return float(self.counts[first:].sum()) / self.samples if self.samples else 0.0

    def without_zeros(self) -> BlobHistogram:
        """Return the same distribution without the values that are exactly 0."""
        counts = self.counts.copy()
        counts[0] -= self.zeros
        return replace(self, counts=counts, samples=self.samples - self.zeros, zeros=0)


class AbsMax:
    """First of two passes: the largest finite |x|.

    Attributes:
        maximum: the largest finite |x| so far; 0 before the first.
    """

    def __init__(self) -> None:
        self.maximum = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in an array of any shape."""
        array = _contiguous(values)
        peak = counting.largest(array)
        if not math.isfinite(peak):
            peak = counting.largest(array[np.isfinite(array)])
        self.maximum = max(self.maximum, peak)


class _Counter(ABC):
    """What the two kinds share: values that are not finite set apart, tallies kept."""

    _exact: ClassVar[bool]

    def __init__(self, table_size: int) -> None:
        self.maximum = 0.0
        self._limit = 0.0  # the largest |x| that the table takes
        self._table = counting.Table(table_size)
        self._zeros = self._nans = self._infs = self._samples = self._beyond = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count an array of any shape."""
        rest = _contiguous(values)
        while True:
            taken, peak, zeros = self._count(rest)
            self.maximum = max(self.maximum, peak)
            self._samples += taken
            self._zeros += zeros
            if taken == rest.size:
                return
            rest = self._admit(rest.reshape(-1)[taken:])

    @property
    def non_finite(self) -> int:
        """NaN values and infinities so far."""
        return self._nans + self._infs

    @abstractmethod
    def result(self) -> BlobHistogram:
        """Return what has been counted so far, in the formula's bins."""

    @abstractmethod
    def state(self) -> CounterState:
        """Take a picture of all that has been counted so far, to be merged with others, or to go on from."""

    def _take(self, state: CounterState) -> None:
        """Go on where a counter of the same bins was."""
        self._table.counts[:] = state.counts
        self._zeros, self._nans, self._infs = state.zeros, state.nans, state.infs
        self._samples, self._beyond = state.samples, state.beyond

    def _state(self, bins: int) -> CounterState:
        counts = self._table.counts.copy()
        tallies = (self._zeros, self._nans, self._infs, self._samples, self._beyond)
        return CounterState(self._exact, bins, self.maximum, counts, *tallies)

    @abstractmethod
    def _count(self, array: NDArray[np.float32]) -> counting.Counted:
        """Count values from the first on, up to one that is NaN or larger than `_limit`, or somewhat before it."""

    @abstractmethod
    def _make_room(self, finite: NDArray[np.float32], peak: float) -> NDArray[np.float32]:
        """Raise the limit to `peak`, or set apart what lies beyond it."""

    def _admit(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Make sure that all of an array can be counted; what is not finite is set apart."""
        peak = counting.largest(array)
        if not math.isfinite(peak):
            finite = array[np.isfinite(array)]
            nans = int(np.count_nonzero(np.isnan(array)))
            self._nans += nans
            self._infs += array.size - finite.size - nans
            array, peak = finite, counting.largest(finite)
        return self._make_room(array, peak) if peak > self._limit else array

    def _histogram(self, counts: NDArray[np.int64]) -> BlobHistogram:
        counts.flags.writeable = False
        width = self.maximum / (counts.size - 1)
        tallies = (self._zeros, self._nans, self._infs, self._samples, self._beyond)
        return BlobHistogram(counts, width, self.maximum, *tallies, self._exact)


class Histogram(_Counter):
    """Second of two passes: counts per bin, exactly as the formula says, over a maximum that is known.

    A larger value than that maximum (data that are not the same in both passes) goes to the last bin and is
    reported in `BlobHistogram.beyond`.

    Args:
        maximum: the largest finite |x| of the first pass.
        bins: number of bins, a multiple of 128.

    Raises:
        OptionError: that many bins are not possible.
    """

    _exact = True

    def __init__(self, maximum: float, bins: int = DEFAULT_BINS) -> None:
        super().__init__(check_bins(bins))
        self.maximum = self._limit = float(maximum)
        # All that is admitted over a maximum of 0 is 0, whatever the divisor.
        self._divisor = self.maximum / (bins - 1) or 1.0

    @classmethod
    def of(cls, state: CounterState) -> Histogram:
        """Make a counter that has counted what a state of exact counts says."""
        counter = cls(state.maximum, state.bins)
        counter._take(state)
        return counter

    def state(self) -> CounterState:
        """Take a picture of all that has been counted so far."""
        return self._state(self._table.bins)

    def result(self) -> BlobHistogram:
        """Return what has been counted so far."""
        return self._histogram(self._table.counts.copy())

    def _count(self, array: NDArray[np.float32]) -> counting.Counted:
        return self._table.count_centred(array, self._divisor, self._limit)

    def _make_room(self, finite: NDArray[np.float32], peak: float) -> NDArray[np.float32]:
        within = finite[np.abs(finite) <= self.maximum]
        beyond = finite.size - within.size
        self._beyond += beyond
        self._table.counts[-1] += beyond
        self._samples += beyond
        return within


class AdaptiveHistogram(_Counter):
    """One pass: fine bins over [0, 2^e), with the smallest 2^e above the largest |x| so far.

    A larger |x| doubles the range and adds the fine bins up in pairs. Widths are powers of two, so that
    scaling and pairing are exact and the fine counts depend on the values alone, not on their order. There
    are 8 fine bins for a bin, within [2^14, 2^20]; at least half of them are in use. More of them would not stay in a
    core's cache.

    `result` gives each of the formula's bins the fine bins inside it. A fine bin across an edge is divided in
    proportion, or goes whole to the side of its middle if both its neighbours are empty (discrete data).

    The bound: `maximum`, `zeros`, `samples` are exact. At every edge between two bins the cumulative count is
    off by at most what the one fine bin across that edge holds; so a value moves by one bin at most (by two with more
    than 2^19 bins), and only from within `width/4` of an edge (default 2048 bins).

    Args:
        bins: number of bins of the result, a multiple of 128.

    Raises:
        OptionError: that many bins are not possible.
    """

    _exact = False

    def __init__(self, bins: int = DEFAULT_BINS) -> None:
        super().__init__(fine_bins(check_bins(bins)))
        self.bins = bins
        self._exponent: int | None = None
        self._scale = 1.0  # any does before the first value that is not 0

    @classmethod
    def of(cls, state: CounterState) -> AdaptiveHistogram:
        """Make a counter that has counted what a state of fine counts says."""
        counter = cls(state.bins)
        counter._reach(state.maximum)
        counter._take(state)
        return counter

    def state(self) -> CounterState:
        """Take a picture of all that has been counted so far."""
        return self._state(self.bins)

    @property
    def fine_width(self) -> float:
        """Width of a fine bin in real units; 0 before the first value that is not 0."""
        return 0.0 if self._exponent is None else math.ldexp(1.0, self._exponent) / self._table.bins

    def result(self) -> BlobHistogram:
        """Return what has been counted so far, in bins of `maximum / (bins - 1)`."""
        if self._exponent is None:
            counts = np.zeros(self.bins, dtype=np.int64)
            counts[0] = self._samples
            return self._histogram(counts)
        fine = self._table.counts  # the table itself: what is taken out for a moment is put back below
        fine[0] -= self._zeros  # zeros belong to bin 0, however the first fine bin is divided
        counts = _rebin(fine, self._samples - self._zeros, self.maximum / (self.bins - 1) / self.fine_width, self.bins)
        fine[0] += self._zeros
        counts[0] += self._zeros
        return self._histogram(counts)

    def _count(self, array: NDArray[np.float32]) -> counting.Counted:
        return self._table.count_scaled(array, self._scale, self._limit)

    def _make_room(self, finite: NDArray[np.float32], peak: float) -> NDArray[np.float32]:
        self._reach(peak)
        return finite

    def _reach(self, peak: float) -> None:
        """Double the range until it holds `peak`."""
        self.maximum = max(self.maximum, peak)
        if self.maximum == 0:
            return
        exponent = exponent_of(self.maximum)
        assert exponent is not None  # the maximum is not 0
        if self._exponent is not None:
            self._table.widen(exponent - self._exponent)
        self._exponent = exponent
        self._scale = math.ldexp(float(self._table.bins), -exponent)
        self._limit = math.ldexp(1 - 2.0**-24, exponent)  # the float32 before 2^exponent


def fine_bins(bins: int) -> int:
    """Return how many fine bins there are for so many bins: a power of two."""
    wanted = 1 << (_FINE_PER_BIN * bins - 1).bit_length()
    return min(max(wanted, _MIN_FINE_BINS), _MAX_FINE_BINS)


def histogram_of(state: CounterState) -> BlobHistogram:
    """Bring what a state holds to the formula's bins."""
    return (Histogram.of(state) if state.exact else AdaptiveHistogram.of(state)).result()


def _rebin(fine: NDArray[np.int64], total: int, width: float, bins: int) -> NDArray[np.int64]:
    """Counts in bins around `j * width` from counts in [k, k + 1), whose sum is `total`. Keeps the sum.

    Works on the cumulative count at every edge `(j - 0.5) * width`, rounded: it cannot decrease, so no count
    is negative.
    """
    edges = (np.arange(1, bins) - 0.5) * width  # in fine bins
    across = np.minimum(edges.astype(np.intp), fine.size - 1)
    part = edges - across
    # Nothing before it and nothing behind it; there is nothing outside the table.
    alone = (fine[np.maximum(across - 1, 0)] == 0) | (across == 0)
    alone &= (fine[np.minimum(across + 1, fine.size - 1)] == 0) | (across == fine.size - 1)
    share = np.where(alone, part > 0.5, part)
    counts = np.empty(bins, dtype=np.int64)
    counts[:-1] = _sums_before(fine, across) + np.floor(share * fine[across] + 0.5).astype(np.int64)
    counts[-1] = total
    counts[1:] -= counts[:-1].copy()  # from cumulative counts to the counts themselves
    return counts


def _sums_before(counts: NDArray[np.int64], ends: NDArray[np.intp]) -> NDArray[np.int64]:
    """The sum of the counts before each end; `ends` ascend, and do not exceed the last place."""
    starts = np.concatenate((np.zeros(1, np.intp), ends))
    between = np.add.reduceat(counts, starts)[:-1]
    between[starts[:-1] == starts[1:]] = 0  # where reduceat gives the count itself
    sums: NDArray[np.int64] = np.cumsum(between)
    return sums


def _contiguous(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)
