"""Concat: the bottoms one after another along one axis.

Shapes: bottoms equal but for `axis` (default 1, may be negative; `concat_dim` is its old name); top has the sum there.
Source: BVLC/caffe, src/caffe/layers/concat_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calib8.arithmetic import MAX_RSHIFT, pooling_multiplier
from calib8.errors import TableError
from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, QuantizeCall, canonical_axis, register
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.codes import rectified, scaled_sum, unrectified
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.form import IntegerForm, expect
from calib8.layer_kit.named_axis import read_axis
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales, multiplied
from calib8.layer_kit.table_row import MAX_MULTIPLIER, TableRow, in_range, multipliers


@dataclass(frozen=True)
class ConcatForm(IntegerForm):
    """`sat8(rnd(x_i * multipliers[i] / 2^rshifts[i]))` of each bottom; none where all have the top's codes."""

    multipliers: tuple[int, ...] = ()
    rshifts: tuple[int, ...] = ()

    def fill_row(self, row: TableRow) -> None:
        """Write `concat_param`, if bottoms are requantised."""
        if self.rshifts:
            row.concat_param.right_shift_width.extend(self.rshifts)
            row.concat_param.threshold_x_quantized.extend(self.multipliers)
            row.concat_param.need_quantize_num = len(self.rshifts)

    def from_row(self, row: TableRow, bottoms: int) -> ConcatForm:
        """Take `concat_param`, where the row says that bottoms are requantised."""
        multipliers(row, 0)
        if not row.concat_param.need_quantize_num:
            return self
        factors, shifts = row.concat_param.threshold_x_quantized, row.concat_param.right_shift_width
        if not len(factors) == len(shifts) == bottoms:
            raise TableError(
                f"has {len(factors)} multipliers and {len(shifts)} shifts in concat_param, expected {bottoms} each"
            )
        return ConcatForm(
            tuple(in_range(m, "threshold_x_quantized", MAX_MULTIPLIER) for m in factors),
            tuple(in_range(s, "right_shift_width", MAX_RSHIFT) for s in shifts),
        )

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give the steps of the bottoms."""
        return multiplied(self.multipliers, self.rshifts, top) if self.rshifts else super().real_scales(bottoms, top)


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

    def channel_flow(self, call: Call) -> ChannelFlow:
        axis = canonical_axis(self.axis, len(call.bottom_shapes[0]), "concat_param.axis")
        return ChannelFlow.JOINED if axis == 1 else ChannelFlow.MIXED

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if len(call.bottoms) == 1:
            return [call.bottoms[0]]
        return [g.node("Concat", *call.bottoms, axis=self.axis)]

    @property
    def moves_data(self) -> bool:
        return True

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return None

    def quantize(self, q: QuantizeCall) -> ConcatForm:
        """Bring bottoms with other thresholds to the top's; one that has it already gets 128 >> 7, no change."""
        ty = q.top_thresholds[0]
        if all(tx == ty for tx in q.bottom_thresholds):
            return ConcatForm()
        factors, rshifts = zip(*(pooling_multiplier(tx, ty) for tx in q.bottom_thresholds), strict=True)
        return ConcatForm(factors, rshifts)

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        own = expect(form, ConcatForm)
        if not own.rshifts:
            before = [name for name in (unrectified(g, x) for x in call.bottoms) if name is not None]
            if not len(before) == len(call.bottoms) > 1:
                return self.lower(g, call)
            # One node instead of several, and a pooling may come before it.
            return [rectified(g, self.lower(g, replace(call, bottoms=tuple(before)))[0])]
        rows = zip(call.bottoms, own.multipliers, own.rshifts, strict=True)
        bottoms = (x if mult == 1 << rshift else scaled_sum(g, [(x, mult)], rshift) for x, mult, rshift in rows)
        return self.lower(g, replace(call, bottoms=tuple(bottoms)))


register(Concat)
