"""Log: y = log(shift + scale * x) / log(base).

Shapes: top as bottom, of any rank. Parameters: `base`, default -1, which means e; `scale`, default 1; `shift`,
default 0. As in Caffe the logarithm of 0 is -infinity, and that of a negative number is not a number.
Source: BVLC/caffe, src/caffe/layers/log_layer.cpp, LogLayer::LayerSetUp and Forward_cpu.
"""

from __future__ import annotations

from calib8.layer_kit.affine_argument import log_of_base, lower_argument
from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Log(Neuron):
    """Logarithm; ONNX Log."""

    types = ("Log",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("log_param")
        log_base = log_of_base(group.base, "log_param.base")
        if log_base == 0:
            raise RefusedError("log_param.base is 1, whose logarithm is 0")
        self.base_scale: float = 1 / log_base
        self.scale: float = group.scale
        self.shift: float = group.shift

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        y = g.node("Log", lower_argument(g, call.bottoms[0], self.scale, self.shift))
        return [g.node("Mul", y, g.scalar(self.base_scale)) if self.base_scale != 1 else y]


register(Log)
