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
from dataclasses import dataclass, replace

from calib8.arithmetic import average_pooling_constants
from calib8.graph import Shape
from calib8.layer_kit.base import count
from calib8.layer_kit.plan import LeakyReluConstants, PReluRow, shift_of
from calib8.layers import LayerPlan, Op
from calib8.layers.eltwise import Eltwise
from calib8.layers.pooling import Pooling

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


def real_scales(
    op: Op, plan: LayerPlan, bottoms: Sequence[float], top: float, bottom_shapes: Sequence[Shape]
) -> RealScales:
    """The steps of a layer with these integers.

    Args:
        bottoms, top: threshold / 128 of each bottom, and of the tops.
    """
    if plan.leaky is not None:
        return _two_sided(plan.leaky, top, plan.leaky.le_scale)
    if plan.prelu is not None:
        return _two_sided(plan.prelu, top, 1)
    if plan.concat is not None:
        return _multiplied(plan.concat.multipliers, plan.concat.rshifts, top)
    if plan.multipliers:
        return _with_multipliers(op, plan, top, bottom_shapes)
    if plan.rshift is None or plan.fusion_skipped:
        return RealScales(tuple(bottoms), top)
    step = math.ldexp(top, -plan.rshift)
    return RealScales((bottoms[0],) * len(bottoms), top, step / bottoms[0], step, nudge=top * nudge(1, plan.rshift))


def nudge(factor: int, rshift: int) -> float:
    """Half of the distance between the multiples of `factor / 2^rshift`, in codes; 0 if all of them are integers."""
    lowest = factor & -factor  # the power of two in it
    distance = math.ldexp(lowest, -rshift)
    return max(distance / 2, SMALLEST_NUDGE) if 0 < distance < 1 else 0.0


def _two_sided(sides: LeakyReluConstants | PReluRow, top: float, slope: int) -> RealScales:
    """`slope` steps of the negative side, in relation to the positive one."""
    above = math.ldexp(sides.gt_scale, -sides.gt_rshift)
    below = math.ldexp(slope, -sides.le_rshift) / above
    finest = nudge(1, max(sides.gt_rshift, sides.le_rshift))
    return RealScales((top * above,), top, weight=below, slope=below, nudge=top * finest)


def _multiplied(factors: Sequence[int], rshifts: Sequence[int], top: float) -> RealScales:
    steps = tuple(math.ldexp(top * factor, -rshift) for factor, rshift in zip(factors, rshifts, strict=True))
    nudges = filter(None, map(nudge, factors, rshifts))
    return RealScales(steps, top, nudge=top * min(nudges, default=0.0))


def _with_multipliers(op: Op, plan: LayerPlan, top: float, bottom_shapes: Sequence[Shape]) -> RealScales:
    rshift, bottoms = shift_of(plan), len(bottom_shapes)
    if isinstance(op, Pooling) and op.method == "AVE":
        window = count(op.window_size(bottom_shapes[0]))
        factor, shift = average_pooling_constants(window, plan.multipliers[0], rshift)
        sums = _multiplied([factor], [shift], top)
        return replace(sums, bottoms=(window * sums.bottoms[0],))
    scales = _multiplied(plan.multipliers, [rshift] * len(plan.multipliers), top)
    if isinstance(op, Eltwise) and op.operation == "PROD":
        return replace(scales, bottoms=scales.bottoms + (1.0,) * (bottoms - 1))
    return scales
