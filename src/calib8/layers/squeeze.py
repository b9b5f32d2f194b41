"""Squeeze: axes of length 1 left out.

Shapes: bottom (..); top the same without the axes in `axis`, or, where none is given, without any axis of length 1.
Parameters: `axis`, repeated, negative from the end; each of length 1.
Source: foss-for-synopsys-dwc-arc-processors/synopsys-caffe, src/caffe/layers/squeeze_layer.cpp, SqueezeLayer::Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Squeeze(Op):
    """Fewer axes, same elements; ONNX Reshape."""

    types = ("Squeeze",)

    def __init__(self, fields: Fields) -> None:
        self.axes: tuple[int, ...] = fields.group("squeeze_param").axis

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        axes = [canonical_axis(a, len(bottom), "squeeze_param.axis") for a in self.axes]
        for axis in axes:
            if bottom[axis] != 1:
                raise RefusedError(f"squeeze_param.axis {axis} has the length {bottom[axis]}, expected 1")
        gone = axes or [i for i, d in enumerate(bottom) if d == 1]
        return [tuple(d for i, d in enumerate(bottom) if i not in gone)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Reshape", call.bottoms[0], g.ints(*call.top_shapes[0]))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Squeeze)
