"""Power: y = (shift + scale * x) ^ power.

Shapes: top as bottom, of any rank. Parameters: `power`, default 1; `scale`, default 1; `shift`, default 0. Where
power * scale is 0 the bottom does not matter: y is 1 for power 0, else shift ^ power.
Source: BVLC/caffe, src/caffe/layers/power_layer.cpp, PowerLayer::LayerSetUp and Forward_cpu.
"""

from __future__ import annotations

import numpy as np

from calib8.layer_kit.affine_argument import lower_argument
from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Power(Neuron):
    """A power of an affine function; ONNX Mul, Add, Pow."""

    types = ("Power",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("power_param")
        self.power: float = group.power
        self.scale: float = group.scale
        self.shift: float = group.shift

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if self.power * self.scale == 0:
            return [g.node("Expand", g.scalar(self._constant()), g.ints(*call.top_shapes[0]))]
        y = lower_argument(g, call.bottoms[0], self.scale, self.shift)
        return [g.node("Pow", y, g.scalar(self.power)) if self.power != 1 else y]

    def _constant(self) -> float:
        if self.power == 0:
            return 1.0
        with np.errstate(all="ignore"):  # C's pow gives infinity or no number without a word
            return float(np.float32(self.shift) ** np.float32(self.power))


register(Power)
