"""ReLU: y = max(x, 0) + negative_slope * min(x, 0).

Shapes: top as bottom. Source: BVLC/caffe, src/caffe/layers/relu_layer.cpp, lines 8-18.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.arithmetic import leaky_relu_constants
from calib8.graph import Shape
from calib8.layers.base import Call, Op, QuantizeCall, register
from calib8.layers.codes import ZERO, two_sided
from calib8.layers.fields import Fields
from calib8.layers.onnx_builder import OnnxBuilder
from calib8.layers.plan import LayerPlan, LeakyReluConstants


class ReLU(Op):
    """Rectifier, plain or leaky; ONNX Relu and LeakyRelu."""

    types = ("ReLU",)

    def __init__(self, fields: Fields) -> None:
        self.negative_slope: float = fields.group("relu_param").negative_slope

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(bottoms)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if self.negative_slope == 0:
            return [g.node("Relu", call.bottoms[0])]
        return [g.node("LeakyRelu", call.bottoms[0], alpha=self.negative_slope)]

    @property
    def passive(self) -> bool:
        return self.negative_slope == 0

    def quantize(self, q: QuantizeCall) -> LayerPlan:
        if self.passive:
            return LayerPlan()
        ratio = q.bottom_thresholds[0] / q.top_thresholds[0]
        gt_scale, gt_rshift = leaky_relu_constants(ratio)
        le_scale, le_rshift = leaky_relu_constants(self.negative_slope * ratio)
        return LayerPlan(leaky=LeakyReluConstants(gt_scale, gt_rshift, le_scale, le_rshift))

    def lower_int8(self, g: OnnxBuilder, call: Call, plan: LayerPlan) -> list[str]:
        if plan.leaky is None:
            return [g.node("Max", call.bottoms[0], g.constant(np.uint8(ZERO)))]
        leaky = plan.leaky
        negative = np.array(leaky.le_scale), leaky.le_rshift
        return [two_sided(g, call.bottoms[0], (leaky.gt_scale, leaky.gt_rshift), negative)]


register(ReLU)
