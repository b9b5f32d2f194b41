"""Concat: the bottoms one after another along one axis.

Shapes: bottoms equal but for `axis` (default 1, may be negative; `concat_dim` is its old name); top has the sum there.
Source: BVLC/caffe, src/caffe/layers/concat_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from calib8.arithmetic import pooling_multiplier
from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, QuantizeCall, canonical_axis, register
from calib8.layer_kit.codes import scaled_sum
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.named_axis import read_axis
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.plan import ConcatRow, LayerPlan


class Concat(Op):
    """Joins bottoms; ONNX Concat."""

    types = ("Concat",)
    bottoms = (1, UNLIMITED)

    def __init__(self, fields: Fields) -> None:
        self.axis = read_axis(fields.group("concat_param"), "concat_dim")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first = bottoms[0]
        axis = canonical_axis(self.axis, len(first), "concat_param.axis")
        rests = {b[:axis] + b[axis + 1 :] for b in bottoms}
        if len({len(b) for b in bottoms}) > 1 or len(rests) > 1:
            shapes = ", ".join(str(list(b)) for b in bottoms)
            raise RefusedError(f"bottoms may differ on axis {axis} only, and have shapes {shapes}")
        return [(*first[:axis], sum(b[axis] for b in bottoms), *first[axis + 1 :])]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if len(call.bottoms) == 1:
            return [call.bottoms[0]]
        return [g.node("Concat", *call.bottoms, axis=self.axis)]

    @property
    def moves_data(self) -> bool:
        return True

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return None

    def quantize(self, q: QuantizeCall) -> LayerPlan:
        """Bottoms with other thresholds are brought to the top's; one that has it already gets 128 >> 7, no change."""
        ty = q.top_thresholds[0]
        if all(tx == ty for tx in q.bottom_thresholds):
            return LayerPlan()
        multipliers, rshifts = zip(*(pooling_multiplier(tx, ty) for tx in q.bottom_thresholds), strict=True)
        return LayerPlan(concat=ConcatRow(multipliers, rshifts))

    def lower_int8(self, g: OnnxBuilder, call: Call, plan: LayerPlan) -> list[str]:
        if plan.concat is None:
            return self.lower(g, call)
        rows = zip(call.bottoms, plan.concat.multipliers, plan.concat.rshifts, strict=True)
        bottoms = (x if mult == 1 << rshift else scaled_sum(g, [(x, mult)], rshift) for x, mult, rshift in rows)
        return self.lower(g, replace(call, bottoms=tuple(bottoms)))


register(Concat)
