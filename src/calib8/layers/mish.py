"""Mish: y = x * tanh(log(1 + exp(x))).

Shapes: top as bottom, of any rank. No parameters but the choice of an engine.
Source: troyliu0105/caffe, src/caffe/layers/mish_layer.cu, MishForward; Misra 2019, equation 1. Other forks write the
same function as x - 2x / ((1 + exp(x))^2 + 1).
"""

from __future__ import annotations

from calib8.layers.base import Call, register
from calib8.layers.fields import Fields
from calib8.layers.neuron import Neuron
from calib8.layers.onnx_builder import OnnxBuilder


class Mish(Neuron):
    """Smooth rectifier with a dip; ONNX Softplus, Tanh, Mul."""

    types = ("Mish",)

    def __init__(self, fields: Fields) -> None:
        fields.group("mish_param")

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        gate = g.node("Tanh", g.node("Softplus", call.bottoms[0]))
        return [g.node("Mul", call.bottoms[0], gate)]


register(Mish)
