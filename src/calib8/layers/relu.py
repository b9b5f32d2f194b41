"""ReLU: y = max(x, 0) + negative_slope * min(x, 0).

Shapes: top as bottom. Parameters: `negative_slope` 0. Synopsys's clamp the result: `relu6: true` to at most 6,
`maximum` above 0 to at most that, `minimum` other than 0 to at least that, in this order.
Source: BVLC/caffe, src/caffe/layers/relu_layer.cpp, Forward_cpu;
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calib8.arithmetic import leaky_relu_constants
from calib8.layer_kit.base import Call, QuantizeCall, register
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.codes import rectified, two_sided
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.form import IntegerForm, SameCodes, expect
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales
from calib8.layer_kit.real_scales import two_sided as two_sided_scales
from calib8.layer_kit.table_row import TableRow, multipliers, require, side

_RELU6 = 6.0


@dataclass(frozen=True)
class LeakyForm(IntegerForm):
    """`sat8(rnd(max(x,0)*gt_scale/2^gt_rshift)) + sat8(rnd(min(x,0)*le_scale/2^le_rshift))`."""

    gt_scale: int
    gt_rshift: int
    le_scale: int
    le_rshift: int

    @property
    def table_shift(self) -> int:
        """The shift of the negative side, as the original has it."""
        return self.le_rshift

    def fill_row(self, row: TableRow) -> None:
        """Write `relu_param`."""
        row.relu_param.gt_scale, row.relu_param.gt_right_shift_width = self.gt_scale, self.gt_rshift
        row.relu_param.le_scale, row.relu_param.le_right_shift_width = self.le_scale, self.le_rshift

    def from_row(self, row: TableRow, bottoms: int) -> LeakyForm:
        """Take the constants of `leakyrelu_param`, or else of `relu_param`."""
        multipliers(row, 0)
        if row.HasField("leakyrelu_param"):
            return LeakyForm(*side(row.leakyrelu_param, "gt"), *side(row.leakyrelu_param, "le"))
        require(row, "relu_param")
        return LeakyForm(*side(row.relu_param, "gt"), *side(row.relu_param, "le"))

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give the step of the bottom, and the slope."""
        return two_sided_scales((self.gt_scale, self.gt_rshift), (self.le_scale, self.le_rshift), top)


class ReLU(Neuron):
    """Rectifier, plain or leaky, or with bounds; ONNX Relu, LeakyRelu, Min, Max."""

    types = ("ReLU",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("relu_param")
        self.negative_slope: float = group.negative_slope
        limits = ([_RELU6] if group.relu6 else []) + ([group.maximum] if group.maximum > 0 else [])
        self.maximum: float | None = min(limits, default=None)
        self.minimum: float | None = group.minimum or None

    def channel_flow(self, call: Call) -> ChannelFlow:
        return ChannelFlow.MIXED if self.is_bounded else ChannelFlow.CARRIED

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if self.negative_slope == 0:
            y = g.node("Relu", call.bottoms[0])
        else:
            y = g.node("LeakyRelu", call.bottoms[0], alpha=self.negative_slope)
        for op_type, limit in (("Min", self.maximum), ("Max", self.minimum)):
            y = y if limit is None else g.node(op_type, y, g.scalar(limit))
        return [y]

    @property
    def is_bounded(self) -> bool:
        """Whether the result is clamped, for which the contract has no integers."""
        return self.maximum is not None or self.minimum is not None

    @property
    def passive(self) -> bool:
        return self.negative_slope == 0 and not self.is_bounded

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        return self.negative_slope == 0 or all(bottoms)

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return "bounds have no integer rule" if self.is_bounded else None

    def quantize(self, q: QuantizeCall) -> IntegerForm:
        if self.passive:
            return SameCodes()
        tx, ty = q.bottom_thresholds[0], q.top_thresholds[0]
        gt_scale, gt_rshift = leaky_relu_constants(tx / ty)
        le_scale, le_rshift = leaky_relu_constants(self.negative_slope * tx / ty)  # in this order, ties are exact
        return LeakyForm(gt_scale, gt_rshift, le_scale, le_rshift)

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        if self.passive:
            return [rectified(g, call.bottoms[0])]
        leaky = expect(form, LeakyForm)
        negative = np.array(leaky.le_scale), leaky.le_rshift
        return [two_sided(g, call.bottoms[0], (leaky.gt_scale, leaky.gt_rshift), negative)]

    def lower_dequantized(self, g: OnnxBuilder, call: Call, form: IntegerForm, scales: RealScales) -> list[str]:
        if self.passive:
            return self.lower(g, call)
        return [g.node("LeakyRelu", call.bottoms[0], alpha=scales.slope)]


register(ReLU)
