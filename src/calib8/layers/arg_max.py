"""ArgMax: the places, or the values, of the top_k largest elements.

Shapes: with `axis`, bottom (.., D, ..) and top (.., top_k, ..): places, or values with `out_max_val`. Without it each
sample is one flat list: bottom (N, ...), top (N, 1, top_k) and ones up to the bottom's rank, or (N, 2, top_k): places,
then values, with `out_max_val`. Places are numbers in float32. Parameters: `top_k`, default 1; `axis`, none by default;
`out_max_val`, default false; `min_first` (Synopsys): the smallest instead of the largest.
Of equal elements the one further back comes first, with `min_first` the one further in front.
Source: BVLC/caffe, src/caffe/layers/argmax_layer.cpp, ArgMaxLayer::Reshape and Forward_cpu (a sort of pairs of value
and place); `min_first`: foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.proto.onnx_messages import TensorProto

_LEAST_RANK = 3


class ArgMax(Op):
    """Largest elements; ONNX ArgMax for one place, else TopK."""

    types = ("ArgMax",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("argmax_param")
        self.top_k: int = group.top_k
        self.axis: int | None = group.axis if group.has("axis") else None
        self.out_max_val: bool = group.out_max_val
        self.min_first: bool = group.min_first
        if self.top_k < 1:
            raise RefusedError("argmax_param.top_k is 0; expected at least 1")

    def lists(self, bottom: Shape) -> tuple[Shape, int]:
        """Shape the bottom into the lists that are searched: give that shape, and the axis along which each lies."""
        if self.axis is None:
            return (bottom[0], count(bottom[1:])), 1
        return bottom, canonical_axis(self.axis, len(bottom), "argmax_param.axis")

    @property
    def gives_places(self) -> bool:
        """Whether the top holds places alone, which are numbers without a distance."""
        return not self.out_max_val

    def class_axis(self, bottom: Shape) -> int | None:
        """Give the axis along which the places of the top are counted; None where that is more than one."""
        if self.axis is not None:
            return self.lists(bottom)[1]
        return 1 if count(bottom[2:]) == 1 else None

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not bottoms[0]:
            raise RefusedError("bottom has no dimensions; expected at least 1")
        lists, axis = self.lists(bottoms[0])
        if self.top_k > lists[axis]:
            raise RefusedError(
                f"argmax_param.top_k is {self.top_k}, more than the {lists[axis]} elements to choose from"
            )
        if self.axis is not None:
            return [(*lists[:axis], self.top_k, *lists[axis + 1 :])]
        ones = (1,) * (len(bottoms[0]) - _LEAST_RANK)
        return [(bottoms[0][0], 2 if self.out_max_val else 1, self.top_k, *ones)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        lists, axis = self.lists(call.bottom_shapes[0])
        x = call.bottoms[0] if self.axis is not None else g.node("Reshape", call.bottoms[0], g.ints(*lists))
        if self.top_k == 1 and not self.out_max_val:
            y = self._lower_one(g, x, axis)
        else:
            values, places = self._lower_several(g, x, lists[axis], axis)
            if self.axis is None and self.out_max_val:
                y = g.node("Concat", places, values, axis=1)
            else:
                y = values if self.out_max_val else places
        return [y if self.axis is not None else g.node("Reshape", y, g.ints(*call.top_shapes[0]))]

    def _lower_one(self, g: OnnxBuilder, x: str, axis: int) -> str:
        if self.min_first:
            place = g.node("ArgMin", x, axis=axis, keepdims=1)
        else:
            place = g.node("ArgMax", x, axis=axis, keepdims=1, select_last_index=1)
        return g.node("Cast", place, to=TensorProto.FLOAT)

    def _lower_several(self, g: OnnxBuilder, x: str, size: int, axis: int) -> tuple[str, str]:
        """Values and places. TopK prefers the front of equal elements, so for the largest the list is turned round."""
        if not self.min_first:
            x = g.node("Slice", x, g.ints(-1), g.ints(np.iinfo(np.int64).min), g.ints(axis), g.ints(-1))
        values, found = g.nodes(
            "TopK", x, g.ints(self.top_k), outputs=2, axis=axis, largest=0 if self.min_first else 1, sorted=1
        )
        places = found if self.min_first else g.node("Sub", g.constant(np.int64(size - 1)), found)
        return values, g.node("Cast", places, to=TensorProto.FLOAT)


register(ArgMax)
