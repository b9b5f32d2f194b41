"""Exp: y = base ^ (shift + scale * x), computed as exp(log(base) * scale * x) * base ^ shift.

Shapes: top as bottom, of any rank. Parameters: `base`, default -1, which means e; `scale`, default 1; `shift`,
default 0. Source: BVLC/caffe, src/caffe/layers/exp_layer.cpp, ExpLayer::LayerSetUp and Forward_cpu.
"""

from __future__ import annotations

import numpy as np

from calib8.layer_kit.affine_argument import log_of_base
from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Exp(Neuron):
    """Exponential; ONNX Exp."""

    types = ("Exp",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("exp_param")
        log_base = log_of_base(group.base, "exp_param.base")
        self.inner_scale: float = log_base * group.scale
        with np.errstate(over="ignore"):  # C's pow gives infinity without a word
            self.outer_scale = float(np.float32(np.exp(np.float64(log_base * group.shift))))

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        x = call.bottoms[0]
        if self.inner_scale != 1:
            x = g.node("Mul", x, g.scalar(self.inner_scale))
        y = g.node("Exp", x)
        return [g.node("Mul", y, g.scalar(self.outer_scale)) if self.outer_scale != 1 else y]


register(Exp)
