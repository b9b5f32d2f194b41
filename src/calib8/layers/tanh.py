"""TanH: y = tanh(x).

Shapes: top as bottom, of any rank. No parameters but the choice of an engine.
Source: BVLC/caffe, src/caffe/layers/tanh_layer.cpp, TanHLayer::Forward_cpu.
"""

from __future__ import annotations

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class TanH(Neuron):
    """Hyperbolic tangent; ONNX Tanh."""

    types = ("TanH",)

    def __init__(self, fields: Fields) -> None:
        fields.group("tanh_param")

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Tanh", call.bottoms[0])]


register(TanH)
