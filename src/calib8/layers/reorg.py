"""Reorg: squares of stride x stride elements become channels (space to depth), or channels squares.

y[n, (i*s + j)*C + c, h, w] = x[n, c, h*s + i, w*s + j] for 0 <= i, j < s. With `reverse` the other way round:
y[n, c, h*s + i, w*s + j] = x[n, (i*s + j)*C' + c, h, w], C' channels of the top.
Shapes: bottom (N, C, H, W); top (N, C*s^2, H/s, W/s), or (N, C/s^2, H*s, W*s) with `reverse`. What is divided must be
a multiple of the divisor. Parameters: `stride` s, required; `reverse`, default false.
Source: sophgo/caffe, src/caffe/layers/reorg_layer.cpp, ReorgLayer::Forward_cpu. Deviations: forks before it
(gklz1982/caffe-yolov2) call the same reorg_cpu with the bottom's sizes, and so permute like Darknet, which reads the
bottom's memory as if it had C/s^2 channels; and that fork's `reverse` is defined for multiples of s^4 channels only,
where it permutes in yet another way. Here `reverse` is the opposite, as in the earlier forks.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Reorg(Op):
    """Squares to channels; ONNX Reshape, Transpose, Reshape."""

    types = ("Reorg",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("reorg_param")
        self.stride: int = group.stride
        self.reverse: bool = group.reverse
        if self.stride < 1:
            raise RefusedError("has no reorg_param.stride, or it is 0")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected N, C, H, W")
        n, c, h, w = bottoms[0]
        s = self.stride
        if self.reverse:
            if c % (s * s):
                raise RefusedError(f"bottom has {c} channels, not a multiple of stride {s} squared")
            return [(n, c // (s * s), h * s, w * s)]
        if h % s or w % s:
            raise RefusedError(f"bottom is {h} x {w}, not a multiple of stride {s}")
        return [(n, c * s * s, h // s, w // s)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        n, c, h, w = call.bottom_shapes[0]
        s = self.stride
        if self.reverse:
            shape, order = (n, s, s, c // (s * s), h, w), (0, 3, 4, 1, 5, 2)
        else:
            shape, order = (n, c, h // s, s, w // s, s), (0, 3, 5, 1, 2, 4)
        x = g.node("Reshape", call.bottoms[0], g.ints(*shape))
        x = g.node("Transpose", x, perm=order)
        return [g.node("Reshape", x, g.ints(*call.top_shapes[0]))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Reorg)
