"""Slice: parts of the bottom along one axis, one for each top.

Shapes: tops as bottom but for `axis` (default 1, may be negative; `slice_dim` is its old name). `slice_point` holds the
places where all tops but the first begin; without it all parts are equal.
Source: BVLC/caffe, src/caffe/layers/slice_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, canonical_axis, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.named_axis import read_axis
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Slice(Op):
    """Cuts the bottom; ONNX Split."""

    types = ("Slice",)
    tops = (1, UNLIMITED)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("slice_param")
        self.axis = read_axis(group, "slice_dim")
        self.points: tuple[int, ...] = group.slice_point
        self._tops = len(fields.param.top)
        if self.points and len(self.points) != self._tops - 1:
            raise RefusedError(
                f"has {len(self.points)} slice_point for {self._tops} tops; expected one less than tops, or none"
            )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        axis = canonical_axis(self.axis, len(bottom), "slice_param.axis")
        return [(*bottom[:axis], n, *bottom[axis + 1 :]) for n in self._lengths(bottom[axis])]

    def _lengths(self, size: int) -> list[int]:
        if not self.points:
            if size % self._tops:
                raise RefusedError(f"{self._tops} tops cannot be equal parts of {size}; set slice_point")
            return [size // self._tops] * self._tops
        edges = (0, *self.points, size)
        lengths = [end - begin for begin, end in pairwise(edges)]
        if min(lengths) < 1:
            raise RefusedError(f"slice_point is {list(self.points)}; expected to rise, between 1 and {size - 1}")
        return lengths

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if self._tops == 1:
            return [call.bottoms[0]]
        axis = canonical_axis(self.axis, len(call.bottom_shapes[0]), "slice_param.axis")
        lengths = g.ints(*(top[axis] for top in call.top_shapes))
        return g.nodes("Split", call.bottoms[0], lengths, outputs=self._tops, axis=axis)

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Slice)
