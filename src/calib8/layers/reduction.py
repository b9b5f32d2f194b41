"""Reduction: all axes from `axis` on become one number, times `coeff`.

SUM: sum(x). ASUM: sum(|x|). SUMSQ: sum(x^2). MEAN: sum(x) / K, K elements each.
Shapes: bottom (d0..d[axis-1], K...); top (d0..d[axis-1]), without dimensions for axis 0. Parameters: `operation`,
default SUM; `axis`, default 0, negative from the end; `coeff`, default 1.
Source: BVLC/caffe, src/caffe/layers/reduction_layer.cpp, ReductionLayer::Reshape and Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, count, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.onnx_builder import OnnxBuilder

_ONNX_NAMES = {"SUM": "ReduceSum", "MEAN": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare"}


class Reduction(Op):
    """Sums over the trailing axes; ONNX ReduceSum, ReduceL1, ReduceSumSquare."""

    types = ("Reduction",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("reduction_param")
        self.operation: str = group.operation
        self.axis: int = group.axis
        self.coeff: float = group.coeff

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0][: canonical_axis(self.axis, len(bottoms[0]), "reduction_param.axis")]]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        bottom, top = call.bottom_shapes[0], call.top_shapes[0]
        size = count(bottom[len(top) :])
        x = g.node("Reshape", call.bottoms[0], g.ints(count(top), size))
        y = g.node(_ONNX_NAMES[self.operation], x, g.ints(1), keepdims=0)
        coeff = self.coeff / size if self.operation == "MEAN" else self.coeff
        if coeff != 1:
            y = g.node("Mul", y, g.scalar(coeff))
        return [g.node("Reshape", y, g.ints(*top))]


register(Reduction)
