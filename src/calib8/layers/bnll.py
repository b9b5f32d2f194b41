"""BNLL, the binomial normal log likelihood: y = log(1 + exp(x)), computed as max(x, 0) + log(1 + exp(-|x|)).

Shapes: top as bottom, of any rank. No parameters.
Source: BVLC/caffe, src/caffe/layers/bnll_layer.cpp, BNLLLayer::Forward_cpu. Deviation: the logarithm's argument is
rounded to float32, so y is 0 for x below -17, where Caffe (in double) has exp(x).
"""

from __future__ import annotations

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class BNLL(Neuron):
    """Smooth rectifier; ONNX Softplus."""

    types = ("BNLL",)

    def __init__(self, fields: Fields) -> None:
        del fields  # it has none

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Softplus", call.bottoms[0])]


register(BNLL)
