"""Parameter: its own weights as a blob.

Shapes: no bottom; one blob and the top, both of `shape`.
Source: BVLC/caffe, include/caffe/layers/parameter_layer.hpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Parameter(Op):
    """A learned constant; ONNX Identity of an initializer."""

    types = ("Parameter",)
    bottoms = (0, 0)

    def __init__(self, fields: Fields) -> None:
        self.shape: Shape = tuple(fields.group("parameter_param").shape.dim)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.shape]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.shape]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("Identity", g.weight(call.blobs[0]))]


register(Parameter)
