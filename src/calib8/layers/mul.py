"""Mul: y = a * b, element by element; axes of length 1, and axes that one of them lacks in front, are repeated.

Shapes: bottom a; b the second bottom, or a blob of the shape `mul_shape`; top as NumPy broadcasts them.
Parameters: `mul_shape`, with one bottom.
Source: foss-for-synopsys-dwc-arc-processors/synopsys-caffe, src/caffe/layers/mul_layer.cpp, MulLayer::Reshape and
Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Mul(Op):
    """Product with repetition; ONNX Mul."""

    types = ("Mul",)
    bottoms = (1, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("mul_param")
        self.has_blob = len(fields.param.bottom) == 1
        self.blob_shape: Shape = group.mul_shape

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        a, b = bottoms[0], self.blob_shape if self.has_blob else bottoms[1]
        rank = max(len(a), len(b))
        pairs = list(zip(_filled(a, rank), _filled(b, rank), strict=True))
        if any(m != n and 1 not in (m, n) for m, n in pairs):
            raise RefusedError(f"factors are {a} and {b}; expected equal lengths, or 1, from the last axis on")
        return [tuple(n if m == 1 else m for m, n in pairs)]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.blob_shape] if self.has_blob else []

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        factor = g.weight(call.blobs[0]) if self.has_blob else call.bottoms[1]
        return [g.node("Mul", call.bottoms[0], factor)]


def _filled(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + shape


register(Mul)
