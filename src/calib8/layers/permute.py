"""Permute: the axes in another order; axis i of the top is axis order[i] of the bottom.

Shapes: bottom (d0, ...); top (d[order[0]], ...). `order` may name some axes only: the others follow as they stand.
Source: weiliu89/caffe (SSD), src/caffe/layers/permute_layer.cpp, LayerSetUp, Reshape, Permute.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Permute(Op):
    """Other order of the axes; ONNX Transpose."""

    types = ("Permute",)

    def __init__(self, fields: Fields) -> None:
        self.order: tuple[int, ...] = fields.group("permute_param").order
        if len(set(self.order)) != len(self.order):
            raise RefusedError(f"permute_param.order is {list(self.order)}; expected no axis twice")

    def full_order(self, rank: int) -> tuple[int, ...]:
        """Return the order of all axes of a bottom."""
        if any(axis >= rank for axis in self.order):
            raise RefusedError(f"permute_param.order is {list(self.order)}, and the bottom has {rank} dimensions")
        return self.order + tuple(axis for axis in range(rank) if axis not in self.order)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [tuple(bottoms[0][axis] for axis in self.full_order(len(bottoms[0])))]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Transpose", call.bottoms[0], perm=self.full_order(len(call.bottom_shapes[0])))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Permute)
