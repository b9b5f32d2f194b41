"""Constants that a layer computes when it is lowered: their size follows from a file that anybody may have written."""

from __future__ import annotations

from calib8.layer_kit.fields import RefusedError

MAX_CONSTANT = 1 << 24
"""Largest number of elements of a constant; the largest prior boxes of a known network have 200,000."""


def check_constant(elements: int, what: str) -> None:
    """Raise RefusedError for a constant that would be too large."""
    if elements > MAX_CONSTANT:
        raise RefusedError(f"{what} would have {elements} elements; at most {MAX_CONSTANT} are computed")
