"""The loop that counts |x| into bins: compiled where it could be, numpy elsewhere, with the same counts.

The compiled module is optional, so that the package installs without a compiler; `COMPILED` says whether it is used.
It takes under 1 ns a value and releases the GIL; numpy takes 2 to 3 ns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

try:
    from calib8.calibrate import _counting  # type: ignore[attr-defined]
except ImportError:  # installed without a compiler
    _counting = None

COMPILED = _counting is not None
_SCRATCH = 0 if _counting is None else int(_counting.SPREAD)
_BLOCK = 1 << 15

Values = NDArray[np.float32]


class Table:
    """Counts of so many bins.

    Attributes:
        counts: int64, shape (bins,).
    """

    def __init__(self, bins: int) -> None:
        self.storage = np.zeros(bins + _SCRATCH, dtype=np.int64)
        self.counts: NDArray[np.int64] = self.storage[:bins]


def largest(values: Values) -> float:
    """The largest |x| of a contiguous array; 0 for an empty one; infinite or NaN if a value is."""
    if COMPILED:
        return float(_counting.largest(values))
    return max(float(values.max()), -float(values.min()), 0.0) if values.size else 0.0


def count_scaled(values: Values, table: Table, scale: float, limit: float) -> tuple[float, int]:
    """`counts[floor(|x| * scale)] += 1` for every value, if none is NaN or larger than `limit`.

    Args:
        values: contiguous.
        scale: a power of two, so that float32 scales exactly.
        limit: a finite float32 number; its bin is in the table.

    Returns:
        The largest |x| (NaN if there is one), and the number of zeros if the values were counted.
    """
    if COMPILED:
        found: tuple[float, int] = _counting.count_scaled(values, table.storage, scale, limit)
        return found
    return _count_if(values, table, limit, lambda block: _scaled(block, scale))


def count_centred(values: Values, table: Table, width: float, limit: float) -> tuple[float, int]:
    """The same with `counts[floor(|x| / width + 0.5)] += 1`, in float64."""
    if COMPILED:
        found: tuple[float, int] = _counting.count_centred(values, table.storage, width, limit)
        return found
    return _count_if(values, table, limit, lambda block: _centred(block, width))


def _count_if(
    values: Values, table: Table, limit: float, bins_of: Callable[[Values], NDArray[np.intp]]
) -> tuple[float, int]:
    peak = largest(values)
    return (peak, _count(values.reshape(-1), table, bins_of)) if peak <= limit else (peak, 0)


def _count(values: Values, table: Table, bins_of: Callable[[Values], NDArray[np.intp]]) -> int:
    zeros = 0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        is_other = np.not_equal(block, 0, out=_scratch.flags[: block.size])
        others = int(np.count_nonzero(is_other))
        zeros += block.size - others
        if 2 * others < block.size:  # without most of its values the block takes less time than it costs to cut
            table.counts[0] += block.size - others
            block = np.compress(is_other, block, out=_scratch.singles[:others])
        np.add.at(table.counts, bins_of(block), 1)
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
