"""ReLU6: y = min(max(x, 0) + negative_slope * min(x, 0), 6).

Shapes: top as bottom, of any rank. Parameters: `negative_slope`, default 0.
Source: eric612/MobileNet-YOLO, src/caffe/layers/relu6_layer.cpp, ReLU6Layer::Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder

_LIMIT = 6.0


class ReLU6(Neuron):
    """Rectifier that saturates at 6; ONNX Clip, or LeakyRelu and Min."""

    types = ("ReLU6",)

    def __init__(self, fields: Fields) -> None:
        self.negative_slope: float = fields.group("relu6_param").negative_slope

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if self.negative_slope == 0:
            return [g.node("Clip", call.bottoms[0], g.scalar(0.0), g.scalar(_LIMIT))]
        leaky = g.node("LeakyRelu", call.bottoms[0], alpha=self.negative_slope)
        return [g.node("Min", leaky, g.scalar(_LIMIT))]

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        return self.negative_slope == 0 or all(bottoms)


register(ReLU6)
