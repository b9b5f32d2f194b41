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
_BLOCK = 1 << 15

Values = NDArray[np.float32]
Table = NDArray[np.int64]


def largest(values: Values) -> float:
    """The largest |x| of a flat contiguous array; 0 for an empty one; infinite or NaN if a value is."""
    if COMPILED:
        return float(np.array(_counting.largest_bits(values), np.uint32).view(np.float32))
    return max(float(values.max()), -float(values.min()), 0.0) if values.size else 0.0


def count_scaled(values: Values, table: Table, scale: float) -> int:
    """`table[floor(|x| * scale)] += 1` for every value; returns the number of zeros among them.

    Args:
        values: flat, contiguous, finite.
        scale: a power of two, so that float32 scales exactly.
    """
    if COMPILED:
        return int(_counting.count_scaled(values, table, scale))
    return _count(values, table, lambda block: _scaled(block, scale))


def count_centred(values: Values, table: Table, width: float) -> int:
    """`table[floor(|x| / width + 0.5)] += 1`, in float64, for every value; returns the number of zeros."""
    if COMPILED:
        return int(_counting.count_centred(values, table, width))
    return _count(values, table, lambda block: _centred(block, width))


def _count(values: Values, table: Table, bins_of: Callable[[Values], NDArray[np.intp]]) -> int:
    zeros = 0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        others = _without_most_zeros(block)
        table[0] += block.size - others.size
        zeros += block.size - int(np.count_nonzero(block))
        np.add.at(table, bins_of(others), 1)
    return zeros


def _without_most_zeros(block: Values) -> Values:
    """The block without its zeros where they are the most: a run of equal bins makes each addition wait."""
    is_other = np.not_equal(block, 0, out=_scratch.flags[: block.size])
    others = int(np.count_nonzero(is_other))
    return block if 2 * others >= block.size else np.compress(is_other, block, out=_scratch.singles[:others])


def _scaled(block: Values, scale: float) -> NDArray[np.intp]:
    singles, bins = _scratch.singles[: block.size], _scratch.bins[: block.size]
    np.abs(block, out=singles)
    np.multiply(singles, np.float32(scale), out=singles)
    np.copyto(bins, singles, casting="unsafe")
    return bins


def _centred(block: Values, width: float) -> NDArray[np.intp]:
    doubles, bins = _scratch.doubles[: block.size], _scratch.bins[: block.size]
    np.abs(block, out=doubles, dtype=np.float64)
    np.divide(doubles, width, out=doubles)
    np.add(doubles, 0.5, out=doubles)
    np.copyto(bins, doubles, casting="unsafe")  # truncates, which is floor: nothing is negative
    return bins


class _Scratch(threading.local):
    """Working memory of one block, per thread. Kept: fresh pages cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self.singles = np.empty(_BLOCK, dtype=np.float32)
        self.doubles = np.empty(_BLOCK, dtype=np.float64)
        self.bins = np.empty(_BLOCK, dtype=np.intp)
        self.flags = np.empty(_BLOCK, dtype=np.bool_)


_scratch = _Scratch()
