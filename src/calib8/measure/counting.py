"""The loop that counts |x| into bins: compiled where it could be, numpy elsewhere, with the same counts.

The compiled module is optional, so that the package installs without a compiler; `COMPILED` says whether it is used.
It takes 0.2 to 0.7 ns a value and releases the GIL; numpy takes 2 to 3 ns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

try:
    from calib8.measure import _counting  # type: ignore[attr-defined]
except ImportError:  # installed without a compiler
    _counting = None

_FORM = 3  # of the compiled functions; in a checkout they may be older than this file, until `make setup` builds them
COMPILED = getattr(_counting, "FORM", None) == _FORM
_BLOCK = 1 << 15

Values = NDArray[np.float32]


Counted = tuple[int, float, int]
"""What was counted of an array: how many values, from the first on; the largest |x| of them; how many of them are 0.

Not all are counted where one is NaN or beyond the limit; some of those before it may be missing, too.
"""


class Table:
    """Counts of so many bins.

    Attributes:
        bins: their number.
    """

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self._counts = np.zeros(bins, dtype=np.int64)
        # Compiled code adds to small counters first: what it touches at random is half as large.
        self._recent = np.zeros(bins, dtype=np.uint32) if COMPILED else None
        self._pending = 0  # values that are in the small counters only

    @property
    def counts(self) -> NDArray[np.int64]:
        """The counts, shape (bins,), to be read and written."""
        if self._recent is not None and self._pending:
            self._counts += self._recent
            self._recent[:] = 0
            self._pending = 0
        return self._counts

    def widen(self, doublings: int) -> None:
        """Make the bins 2^doublings times as wide: what is in bin i goes to bin i / 2^doublings."""
        if self._recent is not None:
            add_up(self._recent, doublings)
        add_up(self._counts, doublings)

    def count_scaled(self, values: Values, scale: float, limit: float) -> Counted:
        """Add one to bin `floor(|x| * scale)` for every value, up to a block with a NaN or an |x| beyond `limit`.

        Args:
            values: contiguous, of any shape.
            scale: a power of two, so that float32 scales exactly.
            limit: a finite float32 number; its bin is in the table.
        """
        if self._recent is not None:
            return self._compiled(_counting.count_scaled, values, scale, limit)
        return _count_if(values, self._counts, limit, lambda block: _scaled(block, scale))

    def count_centred(self, values: Values, width: float, limit: float) -> Counted:
        """Do the same with bin `floor(|x| / width + 0.5)`, in float64."""
        if self._recent is not None:
            return self._compiled(_counting.count_centred, values, width, limit)
        return _count_if(values, self._counts, limit, lambda block: _centred(block, width))

    def _compiled(
        self, function: Callable[..., tuple[int, float, int, int]], values: Values, step: float, limit: float
    ) -> Counted:
        taken, peak, zeros, self._pending = function(values, self._recent, self._counts, self._pending, step, limit)
        return taken, peak, zeros


def add_up(counts: NDArray[np.integer], doublings: int) -> None:
    """Add the counts of a power of two of bins in pairs, so many times, in place; zeros fill the rest."""
    size = counts.size
    while doublings > 0 and size > 1:
        doublings, half = doublings - 1, size // 2
        counts[:half] = counts[0:size:2] + counts[1:size:2]
        counts[half:size] = 0
        size = half


def largest(values: Values) -> float:
    """Return the largest |x| of a contiguous array; 0 for an empty one; infinite or NaN if a value is."""
    if COMPILED:
        return float(_counting.largest(values))
    return max(float(values.max()), -float(values.min()), 0.0) if values.size else 0.0


def largest_of_rows(values: Values) -> Values:
    """Return the largest |x| of every row, (R), of (R, n); infinite or NaN where a value is.

    Args:
        values: contiguous, with at least one value in each row.
    """
    if not COMPILED:
        return np.asarray(np.maximum(values.max(axis=1), -values.min(axis=1)))
    found = np.empty(len(values), np.float32)
    _counting.largest_of_rows(values, found)
    return found


def _count_if(
    values: Values, counts: NDArray[np.int64], limit: float, bins_of: Callable[[Values], NDArray[np.intp]]
) -> Counted:
    peak = largest(values)
    return (values.size, peak, _count(values.reshape(-1), counts, bins_of)) if peak <= limit else (0, 0.0, 0)


def _count(values: Values, counts: NDArray[np.int64], bins_of: Callable[[Values], NDArray[np.intp]]) -> int:
    zeros = 0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        is_other = np.not_equal(block, 0, out=_scratch.flags[: block.size])
        others = int(np.count_nonzero(is_other))
        zeros += block.size - others
        if 2 * others < block.size:  # without most of its values the block takes less time than it costs to cut
            counts[0] += block.size - others
            block = np.compress(is_other, block, out=_scratch.singles[:others])
        np.add.at(counts, bins_of(block), 1)
    return zeros


def _scaled(block: Values, scale: float) -> NDArray[np.intp]:
    singles = _scratch.singles[: block.size]
    np.abs(block, out=singles)
    np.multiply(singles, np.float32(scale), out=singles)
    return _truncated(singles)


def _centred(block: Values, width: float) -> NDArray[np.intp]:
    doubles = _scratch.doubles[: block.size]
    np.copyto(doubles, block)
    np.abs(doubles, out=doubles)
    np.divide(doubles, width, out=doubles)
    np.add(doubles, 0.5, out=doubles)
    return _truncated(doubles)


def _truncated(places: NDArray[np.floating]) -> NDArray[np.intp]:
    """Floor, since nothing is negative. By way of int32: processors convert to that several at a time."""
    narrow, bins = _scratch.narrow[: places.size], _scratch.bins[: places.size]
    np.copyto(narrow, places, casting="unsafe")
    np.copyto(bins, narrow)
    return bins


class _Scratch(threading.local):
    """Working memory of one block, per thread. Kept: fresh pages cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self.singles = np.empty(_BLOCK, dtype=np.float32)
        self.doubles = np.empty(_BLOCK, dtype=np.float64)
        self.narrow = np.empty(_BLOCK, dtype=np.int32)
        self.bins = np.empty(_BLOCK, dtype=np.intp)
        self.flags = np.empty(_BLOCK, dtype=np.bool_)


_scratch = _Scratch()
