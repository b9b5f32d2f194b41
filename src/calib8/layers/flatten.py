"""Flatten: the axes from `axis` to `end_axis` become one.

Shapes: bottom (d0, ...); top (d0, ..., d[axis] * ... * d[end_axis], ...). Parameters: `axis` 1, `end_axis` -1, both may
be negative and both belong to the run. Source: BVLC/caffe, src/caffe/layers/flatten_layer.cpp, Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Flatten(Op):
    """Merges axes; ONNX Reshape."""

    types = ("Flatten",)
    shares_memory = True

    def __init__(self, fields: Fields) -> None:
        group = fields.group("flatten_param")
        self.axis: int = group.axis
        self.end_axis: int = group.end_axis

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = bottoms[0]
        start = canonical_axis(self.axis, len(shape), "flatten_param.axis")
        end = canonical_axis(self.end_axis, len(shape), "flatten_param.end_axis") + 1
        if start > end:
            raise RefusedError(f"flatten_param.axis {start} lies beyond end_axis {end - 1}")
        return [(*shape[:start], count(shape[start:end]), *shape[end:])]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Reshape", call.bottoms[0], g.ints(*call.top_shapes[0]))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Flatten)
