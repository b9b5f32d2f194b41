"""AbsVal: y = |x|.

Shapes: top as bottom, of any rank. No parameters.
Source: BVLC/caffe, src/caffe/layers/absval_layer.cpp, AbsValLayer::Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.onnx_builder import OnnxBuilder


class AbsVal(Neuron):
    """Absolute value; ONNX Abs."""

    types = ("AbsVal",)

    def __init__(self, fields: Fields) -> None:
        del fields  # it has none

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Abs", call.bottoms[0])]

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        return True


register(AbsVal)
