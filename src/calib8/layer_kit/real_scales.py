"""What the integers of a layer are worth in real numbers.

A float layer over dequantised values computes what the integer contract computes if the steps are chosen for it. With
s_x = tx/128 and s_y = ty/128, the top is quantised in steps of s_y, and a layer of

- weights:     reads its bottom in steps of s_x, W in steps of s_y / (s_x * 2^rs), B in steps of s_y / 2^rs; then
               sum x*W + B = s_y * (sum xq*Wq + Bq) / 2^rs
- multipliers: reads bottom i in steps of s_y * mult_i / 2^rs, which is what 8 bits can hold of tx_i/128; a PROD reads
               one bottom in steps of s_y * mult / 2^rs, the others in steps of 1
- two sides:   reads its bottom in steps of s_y * gt / 2^gt_rs, and its slope is (le / 2^le_rs) / (gt / 2^gt_rs)
- nothing, or a table, reads its bottoms in their own steps

Results are then multiples of s_y / 2^rs, and between a tie and the next one lies room: half of that, added before the
top is quantised, makes ties round up, as the contract has it, whatever ONNX does with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_NUDGE = 2.0**-16
"""In steps of the top: less is lost in float32 beside 127 steps."""


@dataclass(frozen=True)
class RealScales:
    """Real units per step.

    Attributes:
        bottoms: of each bottom's codes.
        top: of the tops' codes.
        weight, bias: of weights of 8 bits, and of biases of 16.
        slope: of the negative side of a leaky ReLU, a ratio.
        nudge: what to add to the tops before they are quantised.
    """

    bottoms: tuple[float, ...]
    top: float
    weight: float = 0.0
    bias: float = 0.0
    slope: float = 0.0
    nudge: float = 0.0


def weighted(bottoms: Sequence[float], top: float, rshift: int) -> RealScales:
    """Give the scales of a sum with weights and a bias; all bottoms share the first one's step."""
    step = math.ldexp(top, -rshift)
    return RealScales((bottoms[0],) * len(bottoms), top, step / bottoms[0], step, nudge=top * nudge(1, rshift))


def multiplied(factors: Sequence[int], rshifts: Sequence[int], top: float) -> RealScales:
    """Give the scales of a layer that multiplies the codes of bottom i by `factors[i] / 2^rshifts[i]`."""
    steps = tuple(math.ldexp(top * factor, -rshift) for factor, rshift in zip(factors, rshifts, strict=True))
    nudges = filter(None, map(nudge, factors, rshifts))
    return RealScales(steps, top, nudge=top * min(nudges, default=0.0))


def two_sided(positive: tuple[int, int], negative: tuple[int, int], top: float) -> RealScales:
    """Give the scales of a layer with one factor and shift for positive codes and another pair for negative ones."""
    (gt_scale, gt_rshift), (le_scale, le_rshift) = positive, negative
    above = math.ldexp(gt_scale, -gt_rshift)
    below = math.ldexp(le_scale, -le_rshift) / above
    finest = nudge(1, max(gt_rshift, le_rshift))
    return RealScales((top * above,), top, weight=below, slope=below, nudge=top * finest)


def nudge(factor: int, rshift: int) -> float:
    """Give half of the distance between the multiples of `factor / 2^rshift`, in codes; 0 if all are integers."""
    lowest = factor & -factor  # the power of two in it
    distance = math.ldexp(lowest, -rshift)
    return max(distance / 2, SMALLEST_NUDGE) if 0 < distance < 1 else 0.0
