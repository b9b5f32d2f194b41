"""Reverse: the elements along one axis in the opposite order.

Shapes: top as bottom, of any rank from 1. Parameters: `axis`, default 0, negative from the end.
Source: hzli-ucas/caffe, src/caffe/layers/reverse_layer.cpp, ReverseLayer::Forward_cpu, with one bottom; its second
bottom, which ends sequences of different lengths, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Reverse(Op):
    """One axis turned round; ONNX Slice with step -1."""

    types = ("Reverse",)

    def __init__(self, fields: Fields) -> None:
        self.axis: int = fields.group("reverse_param").axis

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        canonical_axis(self.axis, len(bottoms[0]), "reverse_param.axis")
        return list(bottoms)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        before_first = np.iinfo(np.int64).min
        return [g.node("Slice", call.bottoms[0], g.ints(-1), g.ints(before_first), g.ints(self.axis), g.ints(-1))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Reverse)
