"""Upsample: each element repeated (nearest neighbour), or put back where pooling found it.

One bottom: y[h, w] = x[h div scale_h, w div scale_w]. Two bottoms: the second is the mask of a MAX Pooling, the place
of each maximum in its channel counted row by row; y is the first bottom's elements at these places, and 0 elsewhere.
Shapes: bottom (N, C, H, W), mask the same; top (N, C, H', W') with H' = H * scale_h - pad_out_h, or upsample_h, and W'
likewise. Without a mask upsample_h must be a multiple of H. A place beyond the top stops the run, as it stops Caffe.
Parameters: `size` (BM1880) or `scale` (MobileNet-YOLO, Sophgo, SegNet), default 1; `scale_h` and `scale_w`, in place
of them; `pad_out_h`, `pad_out_w`: one row or column less, with scale 2 and a mask; `upsample_h` and `upsample_w`, which
make the others idle.
Source: sophgo/caffe, src/caffe/layers/upsample_layer.cpp, UpsampleLayer::LayerSetUp, Reshape, Forward_cpu;
alexgkendall/caffe-segnet and eric612/MobileNet-YOLO, the same file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder

_PAD_OUT_SCALE = 2


class Upsample(Op):
    """Repetition, ONNX Resize; or un-pooling, ONNX ScatterElements."""

    types = ("Upsample",)
    bottoms = (1, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("upsample_param")
        self.has_mask = len(fields.param.bottom) > 1
        self.size: tuple[int, int] | None = _read_both(group, "upsample_h", "upsample_w")
        scale = _read_scale(group)
        self.pad_out: tuple[int, int] = (int(group.pad_out_h), int(group.pad_out_w))
        if self.size is None:
            self._check(scale)
        self.scale = scale

    def _check(self, scale: tuple[int, int]) -> None:
        if min(scale) < 1:
            raise RefusedError(f"upsample_param scales by {scale[0]} x {scale[1]}; expected at least 1")
        for name, pad, factor in zip(("pad_out_h", "pad_out_w"), self.pad_out, scale, strict=True):
            if pad and factor != _PAD_OUT_SCALE:
                raise RefusedError(f"upsample_param.{name} needs a scale of {_PAD_OUT_SCALE}, and it is {factor}")
            if pad and not self.has_mask:
                raise RefusedError(f"upsample_param.{name} needs a second bottom, the mask of a Pooling")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        if len(bottom) != 4:
            raise RefusedError(f"bottom has {len(bottom)} dimensions, expected N, C, H, W")
        if self.has_mask and bottoms[1] != bottom:
            raise RefusedError(f"the mask is {bottoms[1]} and the first bottom {bottom}; expected equal shapes")
        if self.size is None:
            rows, columns = (d * s - p for d, s, p in zip(bottom[2:], self.scale, self.pad_out, strict=True))
            return [(*bottom[:2], rows, columns)]
        if not self.has_mask and any(t < d or t % d for t, d in zip(self.size, bottom[2:], strict=True)):
            raise RefusedError(
                f"upsample_h x upsample_w is {self.size[0]} x {self.size[1]}, not a multiple of the bottom's "
                f"{bottom[2]} x {bottom[3]}, and there is no mask"
            )
        return [(*bottom[:2], *self.size)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [_lower_unpooling(g, call) if self.has_mask else _lower_nearest(g, call)]

    @property
    def passive(self) -> bool:
        return not self.has_mask

    @property
    def moves_data(self) -> bool:
        return not self.has_mask


def _lower_nearest(g: OnnxBuilder, call: Call) -> str:
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return g.node("Resize", call.bottoms[0], "", "", g.ints(*call.top_shapes[0]), **how)


def _lower_unpooling(g: OnnxBuilder, call: Call) -> str:
    n, c, *plane = call.bottom_shapes[0]
    flat = g.ints(n, c, count(plane))
    places = g.node("Cast", g.node("Reshape", call.bottoms[1], flat), to=TensorProto.INT64)
    values = g.node("Reshape", call.bottoms[0], flat)
    zeros = g.node("Expand", g.constant(np.float32(0)), g.ints(n, c, count(call.top_shapes[0][2:])))
    y = g.node("ScatterElements", zeros, places, values, axis=2)
    return g.node("Reshape", y, g.ints(*call.top_shapes[0]))


def _read_both(group: Group, high: str, wide: str) -> tuple[int, int] | None:
    """Two fields that belong together; None when neither is set."""
    if group.has(high) != group.has(wide):
        raise RefusedError(f"upsample_param.{high} and {wide} must be set together")
    return (getattr(group, high), getattr(group, wide)) if group.has(high) else None


def _read_scale(group: Group) -> tuple[int, int]:
    pair = _read_both(group, "scale_h", "scale_w")
    named = [name for name in ("scale", "size") if group.has(name)]
    if len(named) + (pair is not None) > 1:
        raise RefusedError("upsample_param sets more than one of scale, size, and scale_h with scale_w; keep one")
    if pair is not None:
        return pair
    factor = getattr(group, named[0]) if named else 1
    return factor, factor


register(Upsample)
