"""The integer contract's notation in exact numbers, and the numbers to try it on."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import strategies as st

MOST = 31
"""The largest right shift."""

thresholds = st.floats(min_value=2.0**-149, width=32, allow_infinity=False)
usual = st.floats(min_value=2.0**-20, max_value=2.0**20, width=32)
shifts = st.integers(0, MOST)


def rnd(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def sat(value: int, bits: int = 8) -> int:
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, value))


def doublings(start: Fraction) -> int:
    """How often to double until 64 is reached, as far as there are shifts; a dead layer never is."""
    count = 0
    while 0 < start * 2**count < 64 and count < MOST:
        count += 1
    return count


def largest_shift(ratio: Fraction, low: int, high: int) -> int | None:
    fitting = [rs for rs in range(MOST + 1) if low <= rnd(ratio * 2**rs) <= high]
    return max(fitting, default=None)
