"""What Exp, Log and Power share: an argument shift + scale * x, and a base whose logarithm is a number."""

from __future__ import annotations

import math

from calib8.layer_kit.fields import RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder

NATURAL = -1.0
"""The value of `base` that means e."""


def log_of_base(base: float, field: str) -> float:
    """Return the natural logarithm of a base; 1 for e. Raise RefusedError where it is not a finite number."""
    if base == NATURAL:
        return 1.0
    if not 0 < base < math.inf:
        raise RefusedError(f"{field} is {base:g}; expected a positive number, or -1 for e")
    return math.log(base)


def lower_argument(g: OnnxBuilder, x: str, scale: float, shift: float) -> str:
    """Add the nodes of shift + scale * x; what changes nothing is left out."""
    if scale != 1:
        x = g.node("Mul", x, g.scalar(scale))
    return g.node("Add", x, g.scalar(shift)) if shift != 0 else x
