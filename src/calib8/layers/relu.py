"""ReLU: y = max(x, 0) + negative_slope * min(x, 0).

Shapes: top as bottom. Source: BVLC/caffe, src/caffe/layers/relu_layer.cpp, lines 8-18.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layers.base import Call, Op, register
from calib8.layers.fields import Fields
from calib8.layers.onnx_builder import OnnxBuilder


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


register(ReLU)
