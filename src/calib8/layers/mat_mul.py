"""MatMul: the product of two matrices, y = A * B^T.

Shapes: bottoms of M*K and N*K elements, whatever their axes; top (M, N). Parameters: `dim_1` M, `dim_2` K, `dim_3` N,
all default 1. Source: sophgo/caffe, src/caffe/layers/matmul_layer.cpp, MatMulLayer::Reshape and Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class MatMul(Op):
    """Product of two bottoms; ONNX Gemm."""

    types = ("MatMul",)
    bottoms = (2, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("matmul_param")
        self.rows: int = group.dim_1
        self.inner: int = group.dim_2
        self.columns: int = group.dim_3

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for place, bottom, rows in zip(("first", "second"), bottoms, (self.rows, self.columns), strict=True):
            if count(bottom) != rows * self.inner:
                raise RefusedError(
                    f"{place} bottom is {bottom}, {count(bottom)} elements, which are no matrix of "
                    f"{rows} x {self.inner} (matmul_param.dim_1 x dim_2 and dim_3 x dim_2)"
                )
        return [(self.rows, self.columns)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        a = g.node("Reshape", call.bottoms[0], g.ints(self.rows, self.inner))
        b = g.node("Reshape", call.bottoms[1], g.ints(self.columns, self.inner))
        return [g.node("Gemm", a, b, transB=1)]

    def multiply_adds(self, call: Call) -> int:
        return self.rows * self.inner * self.columns


register(MatMul)
