"""Padding: a frame of one value around each channel.

Shapes: bottom (N, C, H, W); top (N, C, pad_t + H + pad_b, pad_l + W + pad_r). Parameters: `pad_l`, `pad_r`, `pad_t`,
`pad_b`, `pad_value`, all default 0; `pad_method`, CONSTANT only. BM1880's `pad_param` is refused.
Source: sophgo/caffe, src/caffe/layers/padding_layer.cpp, PaddingLayer::Reshape and Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Padding(Op):
    """Constant frame; ONNX Pad."""

    types = ("Padding",)

    def __init__(self, fields: Fields) -> None:
        if fields.has("pad_param"):
            raise RefusedError("sets pad_param, and no public source tells the order of its pads; use padding_param")
        group = fields.group("padding_param")
        self.before: tuple[int, int] = (group.pad_t, group.pad_l)
        self.after: tuple[int, int] = (group.pad_b, group.pad_r)
        self.value: int = group.pad_value
        group.ignore("pad_method")  # an enum with the one value CONSTANT

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected N, C, H, W")
        sides = zip(self.before, bottoms[0][2:], self.after, strict=True)
        return [(*bottoms[0][:2], *(sum(side) for side in sides))]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        pads = g.ints(0, 0, *self.before, 0, 0, *self.after)
        return [g.node("Pad", call.bottoms[0], pads, g.scalar(self.value))]


register(Padding)
