"""Threshold: y = 1 for x > threshold, else 0.

Shapes: top as bottom, of any rank. Parameters: `threshold`, default 0.
Source: BVLC/caffe, src/caffe/layers/threshold_layer.cpp, ThresholdLayer::Forward_cpu.
"""

from __future__ import annotations

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.proto.onnx_messages import TensorProto


class Threshold(Neuron):
    """Step function; ONNX Greater, Cast."""

    types = ("Threshold",)

    def __init__(self, fields: Fields) -> None:
        self.threshold: float = fields.group("threshold_param").threshold

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        above = g.node("Greater", call.bottoms[0], g.scalar(self.threshold))
        return [g.node("Cast", above, to=TensorProto.FLOAT)]


register(Threshold)
