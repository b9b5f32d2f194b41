"""ReLU: y = max(x, 0) + negative_slope * min(x, 0).

Shapes: top as bottom. Parameters: `negative_slope` 0. Synopsys's clamp the result: `relu6: true` to at most 6,
`maximum` above 0 to at most that, `minimum` other than 0 to at least that, in this order.
Source: BVLC/caffe, src/caffe/layers/relu_layer.cpp, Forward_cpu;
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.arithmetic import leaky_relu_constants
from calib8.layer_kit.base import Call, QuantizeCall, register
from calib8.layer_kit.codes import rectified, two_sided
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.plan import LayerPlan, LeakyReluConstants

_RELU6 = 6.0


class ReLU(Neuron):
    """Rectifier, plain or leaky, or with bounds; ONNX Relu, LeakyRelu, Min, Max."""

    types = ("ReLU",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("relu_param")
        self.negative_slope: float = group.negative_slope
        limits = ([_RELU6] if group.relu6 else []) + ([group.maximum] if group.maximum > 0 else [])
        self.maximum: float | None = min(limits, default=None)
        self.minimum: float | None = group.minimum or None

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

    def quantize(self, q: QuantizeCall) -> LayerPlan:
        if self.passive:
            return LayerPlan()
        tx, ty = q.bottom_thresholds[0], q.top_thresholds[0]
        gt_scale, gt_rshift = leaky_relu_constants(tx / ty)
        le_scale, le_rshift = leaky_relu_constants(self.negative_slope * tx / ty)  # in this order, ties are exact
        return LayerPlan(leaky=LeakyReluConstants(gt_scale, gt_rshift, le_scale, le_rshift))

    def lower_int8(self, g: OnnxBuilder, call: Call, plan: LayerPlan) -> list[str]:
        if plan.leaky is None:
            return [rectified(g, call.bottoms[0])]
        leaky = plan.leaky
        negative = np.array(leaky.le_scale), leaky.le_rshift
        return [two_sided(g, call.bottoms[0], (leaky.gt_scale, leaky.gt_rshift), negative)]


register(ReLU)
