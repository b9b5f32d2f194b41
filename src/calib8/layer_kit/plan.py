"""The integers of one layer: what a calibration's files hold of it, and what its INT8 arithmetic needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LeakyReluConstants:
    """Leaky ReLU: `sat8(rnd(max(x,0)*gt_scale/2^gt_rshift)) + sat8(rnd(min(x,0)*le_scale/2^le_rshift))`."""

    gt_scale: int
    gt_rshift: int
    le_scale: int
    le_rshift: int


@dataclass(frozen=True)
class PReluRow:
    """PReLU: as the leaky ReLU, with the slopes in the layer's blob instead of one `le_scale`."""

    gt_scale: int
    gt_rshift: int
    le_rshift: int


@dataclass(frozen=True)
class ConcatRow:
    """Concat with bottoms of different thresholds: `sat8(rnd(x_i * multipliers[i] / 2^rshifts[i]))` each."""

    multipliers: tuple[int, ...]
    rshifts: tuple[int, ...]


def shift_of(plan: LayerPlan) -> int:
    """The right shift of a layer that has one."""
    if plan.rshift is None:
        raise AssertionError("a layer with an accumulator has a right shift")
    return plan.rshift


def prelu_row_of(plan: LayerPlan) -> PReluRow:
    """The constants of a PReLU."""
    if plan.prelu is None:
        raise AssertionError("a PReLU has its constants")
    return plan.prelu


def table_of(plan: LayerPlan) -> NDArray[np.int8]:
    """The table of a layer that has one."""
    if plan.table is None:
        raise AssertionError("a layer that is a function of one code has a table")
    return plan.table


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """What quantising one layer gives. Every integer of an INT8 forward pass is in here.

    Attributes:
        blobs: integer weights in the order and the shapes of the caffemodel (int8 weights, int16 biases).
        rshift: the accumulator's right shift, None for layers without one.
        multipliers: one per bottom (Pooling, Eltwise).
        leaky, prelu, concat: the constants of these layers.
        table: of a layer that is a function of one code: the top's code for the bottom's codes -128 to 127, (256,).
        accumulator_bits: of Eltwise SUM: 16, saturating after every term as the chip does, or 32.
        fusion_skipped: a Scale whose work its BatchNorm does.
        warnings: one sentence each, without the layer's name: saturated biases and the like.
    """

    blobs: tuple[NDArray[Any], ...] = ()
    rshift: int | None = None
    multipliers: tuple[int, ...] = ()
    leaky: LeakyReluConstants | None = None
    prelu: PReluRow | None = None
    concat: ConcatRow | None = None
    table: NDArray[np.int8] | None = None
    accumulator_bits: int = 16
    fusion_skipped: bool = False
    warnings: tuple[str, ...] = ()
