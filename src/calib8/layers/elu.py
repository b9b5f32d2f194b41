"""ELU, the exponential linear unit: y = x for x > 0, alpha * (exp(x) - 1) for x <= 0.

Shapes: top as bottom, of any rank. Parameters: `alpha`, default 1.
Source: BVLC/caffe, src/caffe/layers/elu_layer.cpp, ELULayer::Forward_cpu; Clevert et al. 2015, equation 15.
"""

from __future__ import annotations

from calib8.layers.base import Call, register
from calib8.layers.fields import Fields
from calib8.layers.neuron import Neuron
from calib8.layers.onnx_builder import OnnxBuilder


class ELU(Neuron):
    """Exponential linear unit; ONNX Elu."""

    types = ("ELU",)

    def __init__(self, fields: Fields) -> None:
        self.alpha: float = fields.group("elu_param").alpha

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Elu", call.bottoms[0], alpha=self.alpha)]


register(ELU)
