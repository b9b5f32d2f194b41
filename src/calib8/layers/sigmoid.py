"""Sigmoid: y = 1 / (1 + exp(-x)).

Shapes: top as bottom, of any rank. No parameters but the choice of an engine.
Source: BVLC/caffe, src/caffe/layers/sigmoid_layer.cpp, SigmoidLayer::Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Sigmoid(Neuron):
    """Logistic function; ONNX Sigmoid."""

    types = ("Sigmoid",)

    def __init__(self, fields: Fields) -> None:
        fields.group("sigmoid_param")

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Sigmoid", call.bottoms[0])]

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        return True


register(Sigmoid)
