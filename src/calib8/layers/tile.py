"""Tile: the bottom `tiles` times in a row along one axis.

Shapes: bottom (.., D, ..); top (.., D * tiles, ..). Parameters: `axis`, default 1, negative from the end; `tiles`,
required. Source: BVLC/caffe, src/caffe/layers/tile_layer.cpp, TileLayer::Reshape and Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Tile(Op):
    """Copies side by side; ONNX Tile."""

    types = ("Tile",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("tile_param")
        self.axis: int = group.axis
        if not group.has("tiles"):
            raise RefusedError("has no tile_param.tiles")
        self.tiles: int = group.tiles
        if self.tiles < 1:
            raise RefusedError(f"tile_param.tiles is {self.tiles}; expected at least 1")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = canonical_axis(self.axis, len(bottoms[0]), "tile_param.axis")
        return [tuple(d * self.tiles if i == axis else d for i, d in enumerate(bottoms[0]))]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        axis = canonical_axis(self.axis, len(call.bottom_shapes[0]), "tile_param.axis")
        repeats = [self.tiles if i == axis else 1 for i in range(len(call.bottom_shapes[0]))]
        return [g.node("Tile", call.bottoms[0], g.ints(*repeats))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Tile)
