"""What a counter has counted, as a value: states of parts of the data add up to the state of the whole.

Adding is associative and commutative, and exact: no count is divided or estimated. That is what lets histograms be
kept in files, be counted on several machines, and go on after an interruption, to the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError
from calib8.measure.counting import add_up

MIN_EXPONENT = -100
MAX_EXPONENT = 128
"""The range of a float32 number ends at 2^128."""


@dataclass(frozen=True, eq=False)
class CounterState:
    """All that a counter of |x| knows.

    Attributes:
        exact: whether bins lie around `j * maximum / (bins - 1)`, by the formula. Else they are fine bins that divide
            [0, 2^e), see `exponent`, and can be made wider.
        bins: bins of the histogram that comes of it, a multiple of 128.
        maximum: of fine bins, the largest finite |x|; of exact ones, the |x| that the bins were laid out for.
        counts: int64; shape (bins,) if exact, else (fine bins,), a power of two. Sums to `samples`.
        zeros: values that are exactly 0, in `counts[0]` too.
        nans, infs: values that are in no bin.
        samples: finite values.
        beyond: values above `maximum`, in the last of exact bins.
    """

    exact: bool
    bins: int
    maximum: float
    counts: NDArray[np.int64]
    zeros: int = 0
    nans: int = 0
    infs: int = 0
    samples: int = 0
    beyond: int = 0

    @property
    def exponent(self) -> int | None:
        """Fine bins divide [0, 2^exponent); None where there is no value but 0."""
        return exponent_of(self.maximum)

    def merge(self, other: CounterState) -> CounterState:
        """Add what two counters have counted: what one of them would have counted of the values of both.

        Raises:
            DataError: counts in bins of another number, or laid out for another maximum.
        """
        if (self.exact, self.bins, self.counts.size) != (other.exact, other.bins, other.counts.size):
            raise DataError(f"histograms of {self.bins} and {other.bins} bins cannot be merged")
        if self.exact and self.maximum != other.maximum:
            raise DataError(
                f"exact counts over the maxima {self.maximum:g} and {other.maximum:g} cannot be merged; "
                "count them over one maximum"
            )
        maximum = max(self.maximum, other.maximum)
        return replace(
            self, maximum=maximum, counts=self._counts_up_to(maximum) + other._counts_up_to(maximum),
            zeros=self.zeros + other.zeros, nans=self.nans + other.nans, infs=self.infs + other.infs,
            samples=self.samples + other.samples, beyond=self.beyond + other.beyond,
        )  # fmt: skip

    def _counts_up_to(self, maximum: float) -> NDArray[np.int64]:
        """The counts in bins that hold a maximum; what is in bin 0 stays there however wide it becomes."""
        exponent, wanted = self.exponent, exponent_of(maximum)
        if self.exact or exponent is None or wanted is None or wanted == exponent:
            return self.counts
        counts = self.counts.copy()
        add_up(counts, wanted - exponent)
        return counts


def exponent_of(maximum: float) -> int | None:
    """Find the smallest e, from `MIN_EXPONENT` on, with 2^e above a largest |x|; None for 0."""
    return None if maximum == 0 else max(math.frexp(maximum)[1], MIN_EXPONENT)
