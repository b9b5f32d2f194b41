"""What is read of a value: its real numbers, or its codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple


# Tuples, since they are keys wherever a network runs, and tuples are hashed fastest. The form keeps the two apart.
class Codes(NamedTuple):
    """The codes of a value: uint8, `code + 128`."""

    value: str
    form: Literal["codes"] = "codes"


class Real(NamedTuple):
    """The real numbers of an input that comes quantised. Those of any other value are what its name alone means."""

    value: str
    form: Literal["real"] = "real"


Reading = str | Codes | Real
"""A name alone means the value as callers give and see it: float32, in real units, or what they have quantised."""


def value_of(reading: Reading) -> str:
    """Return the value that is read."""
    return reading if isinstance(reading, str) else reading.value


def in_order(readings: Iterable[Reading]) -> list[Reading]:
    """Sort readings, so that a set of them makes the same graph every time: codes first."""
    return sorted(readings, key=lambda reading: (_RANKS[type(reading)], value_of(reading)))


_RANKS: dict[type, int] = {Codes: 0, Real: 1, str: 2}
