"""Axpy: y = a * x + z, with one factor a per channel of each sample.

Shapes: bottoms a (N, C) or (N, C, 1, 1), x (N, C, ...) and z as x; top as x. No parameters.
Source: hujie-frank/SENet, src/caffe/layers/axpy_layer.cpp, AxpyLayer::Reshape and Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Axpy(Op):
    """Channel-wise scaling and a sum, of squeeze-and-excitation networks; ONNX Mul, Add."""

    types = ("Axpy",)
    bottoms = (3, 3)

    def __init__(self, fields: Fields) -> None:
        del fields  # it has none

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        a, x, z = bottoms
        if len(x) < 2 or a[:2] != x[:2] or count(a) != count(x[:2]):
            raise RefusedError(f"first bottom is {a} and second {x}; expected one factor per sample and channel")
        if x != z:
            raise RefusedError(f"second bottom is {x} and third {z}; expected equal shapes")
        return [x]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        a, x, z = call.bottoms
        spread = (*call.bottom_shapes[1][:2], *(1 for _ in call.bottom_shapes[1][2:]))
        if call.bottom_shapes[0] != spread:
            a = g.node("Reshape", a, g.ints(*spread))
        return [g.node("Add", g.node("Mul", a, x), z)]


register(Axpy)
