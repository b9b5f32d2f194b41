"""Swish: y = x * sigmoid(beta * x).

Shapes: top as bottom, of any rank. Parameters: `beta`, default 1.
Source: BVLC/caffe, src/caffe/layers/swish_layer.cpp, SwishLayer::Forward_cpu; Ramachandran et al. 2017.
"""

from __future__ import annotations

from calib8.layer_kit.affine_argument import lower_argument
from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Swish(Neuron):
    """Sigmoid-weighted linear unit; ONNX Sigmoid, Mul."""

    types = ("Swish",)

    def __init__(self, fields: Fields) -> None:
        self.beta: float = fields.group("swish_param").beta

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        gate = g.node("Sigmoid", lower_argument(g, call.bottoms[0], self.beta, 0.0))
        return [g.node("Mul", call.bottoms[0], gate)]


register(Swish)
