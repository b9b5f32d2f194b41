"""HardSigmoid: y = min(max(alpha * x + beta, 0), 1).

Shapes: top as bottom, of any rank. Parameters: `alpha`, default 0.2; `beta`, default 0.5.
Source: foss-for-synopsys-dwc-arc-processors/synopsys-caffe, src/caffe/layers/hard_sigmoid_layer.cpp,
HardSigmoidLayer::Forward_cpu.
"""

from __future__ import annotations

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class HardSigmoid(Neuron):
    """Sigmoid in straight lines; ONNX HardSigmoid."""

    types = ("HardSigmoid",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("hard_sigmoid_param")
        self.alpha: float = group.alpha
        self.beta: float = group.beta

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("HardSigmoid", call.bottoms[0], alpha=self.alpha, beta=self.beta)]


register(HardSigmoid)
