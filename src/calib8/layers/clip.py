"""Clip: y = max(min, min(x, max)).

Shapes: top as bottom, of any rank. Parameters: `min` and `max`, both required.
Source: BVLC/caffe, src/caffe/layers/clip_layer.cpp, ClipLayer::Forward_cpu.
"""

from __future__ import annotations

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Clip(Neuron):
    """Limits on both sides; ONNX Clip."""

    types = ("Clip",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("clip_param")
        if not (group.has("min") and group.has("max")):
            raise RefusedError("clip_param.min and clip_param.max must both be set")
        self.low: float = group.min
        self.high: float = group.max
        if self.low > self.high:
            raise RefusedError(f"clip_param.min {self.low:g} is above clip_param.max {self.high:g}")

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Clip", call.bottoms[0], g.scalar(self.low), g.scalar(self.high))]


register(Clip)
