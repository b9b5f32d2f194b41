"""Softmax: y = exp(x - max(x)) / sum(exp(x - max(x))) along one axis.

Shapes: top as bottom. Parameter: `axis` (default 1, may be negative).
Source: BVLC/caffe, src/caffe/layers/softmax_layer.cpp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Softmax(Op):
    """Probabilities along an axis; ONNX Softmax."""

    types = ("Softmax",)

    def __init__(self, fields: Fields) -> None:
        self.axis: int = fields.group("softmax_param").axis

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        canonical_axis(self.axis, len(bottoms[0]), "softmax_param.axis")
        return list(bottoms)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Softmax", call.bottoms[0], axis=self.axis)]

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        return True


register(Softmax)
