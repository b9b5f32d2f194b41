"""Upsample: a larger image, by repetition, by interpolation, or from the places that a Pooling found.

One bottom: y[h, w] = gain * x[h * H div H', w * W div W'], gain 1 where nothing is said of it. With `mode: BILINEAR`
between the corners' centres, as Interp. Two bottoms: the second is the mask of a MAX Pooling, the place of each
maximum in its channel counted row by row; y is the first bottom's elements at these places, and 0 elsewhere.
Shapes: bottom (N, C, H, W), mask the same; top (N, C, H', W'). A place beyond the top stops the run, as it stops Caffe.
Forks agree on the name only, and each has its own fields for H' x W':
`size` (BM1880) or `scale` (MobileNet-YOLO, TensorRT-Yolov3, Sophgo), a factor for both; SegNet and HiSilicon:
`scale_h` and `scale_w`, in place of them, `pad_out_h`, `pad_out_w`: one row or column less, with scale 2 and a mask;
`upsample_h` and `upsample_w`, the size itself, which makes the others idle (without a mask a multiple of H x W);
Ascend: `stride`, or `stride_h` and `stride_w`, the factors, beside which `scale` is the gain; caffe_plus: `height` and
`width`, the size itself, or `height_scale` and `width_scale`, factors, with `mode`, default BILINEAR; in its files a
second bottom gives the size. Where no field is set, forks take factors of 1 or of 2: refused.
Source: sophgo/caffe, src/caffe/layers/upsample_layer.cpp, UpsampleLayer::LayerSetUp, Reshape, Forward_cpu;
alexgkendall/caffe-segnet, eric612/MobileNet-YOLO and jnulzl/caffe_plus, the same file; Ascend: Huawei, ATC's guide to
networks of Caffe, its section on Upsample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.proto.onnx_messages import TensorProto

_PAD_OUT_SCALE = 2
_CAFFE_PLUS = ("height", "width", "height_scale", "width_scale")
_ASCEND = ("stride", "stride_h", "stride_w")
_OTHERS = ("size", "scale_h", "scale_w", "upsample_h", "upsample_w", "pad_out_h", "pad_out_w")
_LEAST_OF_CAFFE_PLUS = 2


class Upsample(Op):
    """Repetition, ONNX Resize or Gather; interpolation, ONNX Resize; or un-pooling, ONNX ScatterElements."""

    types = ("Upsample",)
    bottoms = (1, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("upsample_param")
        _refuse_mixtures(group)
        two = len(fields.param.bottom) > 1
        self.is_caffe_plus: bool = _is_set(group, _CAFFE_PLUS) or (two and group.has("mode"))
        self.takes_size: bool = two and self.is_caffe_plus
        self.has_mask: bool = two and not self.is_caffe_plus
        self.bilinear: bool = self.is_caffe_plus and group.mode == "BILINEAR"
        self.gain = 1.0
        self.pad_out: tuple[int, int] = (int(group.pad_out_h), int(group.pad_out_w))
        self.size: tuple[int, int] | None = None
        self.scale: tuple[int, int] = (1, 1)
        if self.is_caffe_plus:
            self._read_caffe_plus(group)
        else:
            self._read_others(group)

    def _read_caffe_plus(self, group: Group) -> None:
        size = _read_both(group, "height", "width")
        scale = _read_both(group, "height_scale", "width_scale")
        if min(*(size or (_LEAST_OF_CAFFE_PLUS,)), *(scale or (_LEAST_OF_CAFFE_PLUS,))) < _LEAST_OF_CAFFE_PLUS:
            raise RefusedError("upsample_param sets a height, a width or a scale of them below 2, the least there is")
        self.size, self.scale = size, scale or (1, 1)

    def _read_others(self, group: Group) -> None:
        if group.has("mode") and group.mode != "NEAREST":
            raise RefusedError("upsample_param.mode BILINEAR needs height and width, or height_scale and width_scale")
        self.size = _read_both(group, "upsample_h", "upsample_w")
        if _is_set(group, _ASCEND):
            self.gain, self.scale = float(group.scale), _read_stride(group)
            if not math.isfinite(self.gain):
                raise RefusedError(f"upsample_param.scale is {self.gain}; expected a finite number")
        else:
            self.scale = _read_scale(group, is_needed=self.size is None)
        if self.size is None:
            self._check(self.scale)

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
        if any(len(shape) != 4 for shape in bottoms):
            raise RefusedError(f"bottom has {len(bottom)} dimensions, expected N, C, H, W")
        if self.takes_size:
            return [(*bottom[:2], *bottoms[1][2:])]
        if self.has_mask and bottoms[1] != bottom:
            raise RefusedError(f"the mask is {bottoms[1]} and the first bottom {bottom}; expected equal shapes")
        if self.size is None:
            rows, columns = (d * s - p for d, s, p in zip(bottom[2:], self.scale, self.pad_out, strict=True))
            return [(*bottom[:2], rows, columns)]
        if not (self.has_mask or self.is_caffe_plus):
            _check_multiple(self.size, bottom)
        return [(*bottom[:2], *self.size)]

    def channel_flow(self, call: Call) -> ChannelFlow:
        return ChannelFlow.CARRIED if self.moves_data else ChannelFlow.MIXED

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        if self.has_mask:
            y = _lower_unpooling(g, call)
        elif self.bilinear:
            how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
            y = g.node("Resize", call.bottoms[0], "", "", g.ints(*call.top_shapes[0]), **how)
        else:
            y = _lower_nearest(g, call)
        return [y if self.gain == 1 else g.node("Mul", y, g.scalar(self.gain))]

    @property
    def passive(self) -> bool:
        return self.moves_data

    @property
    def moves_data(self) -> bool:
        return not (self.has_mask or self.bilinear) and self.gain == 1


def _check_multiple(size: tuple[int, int], bottom: Shape) -> None:
    if any(t < d or t % d for t, d in zip(size, bottom[2:], strict=True)):
        raise RefusedError(
            f"upsample_h x upsample_w is {size[0]} x {size[1]}, not a multiple of the bottom's "
            f"{bottom[2]} x {bottom[3]}, and there is no mask"
        )


def _lower_nearest(g: OnnxBuilder, call: Call) -> str:
    pairs = list(zip(call.bottom_shapes[0][2:], call.top_shapes[0][2:], strict=True))
    if all(top % bottom == 0 for bottom, top in pairs):
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return g.node("Resize", call.bottoms[0], "", "", g.ints(*call.top_shapes[0]), **how)
    y = call.bottoms[0]
    for axis, (bottom, top) in enumerate(pairs, 2):  # Resize divides floats, which may end below a whole number
        y = g.node("Gather", y, g.ints(*(i * bottom // top for i in range(top))), axis=axis)
    return y


def _lower_unpooling(g: OnnxBuilder, call: Call) -> str:
    n, c, *plane = call.bottom_shapes[0]
    flat = g.ints(n, c, count(plane))
    places = g.node("Cast", g.node("Reshape", call.bottoms[1], flat), to=TensorProto.INT64)
    values = g.node("Reshape", call.bottoms[0], flat)
    zeros = g.node("Expand", g.constant(np.float32(0)), g.ints(n, c, count(call.top_shapes[0][2:])))
    y = g.node("ScatterElements", zeros, places, values, axis=2)
    return g.node("Reshape", y, g.ints(*call.top_shapes[0]))


def _is_set(group: Group, names: Sequence[str]) -> bool:
    return any(group.has(name) for name in names)


def _refuse_mixtures(group: Group) -> None:
    """Fields of forks that do not know each other's."""
    used = [[n for n in names if group.has(n)] for names in (_CAFFE_PLUS, _ASCEND, _OTHERS)]
    if group.has("scale") and used[0]:
        used.append(["scale"])
    named = [names for names in used if names]
    if len(named) > 1:
        mixed = ", ".join(name for names in named for name in names)
        raise RefusedError(f"upsample_param sets {mixed}: fields of forks that do not have each other's; keep one kind")


def _read_both(group: Group, high: str, wide: str) -> tuple[int, int] | None:
    """Two fields that belong together; None when neither is set."""
    if group.has(high) != group.has(wide):
        raise RefusedError(f"upsample_param.{high} and {wide} must be set together")
    return (getattr(group, high), getattr(group, wide)) if group.has(high) else None


def _read_stride(group: Group) -> tuple[int, int]:
    pair = _read_both(group, "stride_h", "stride_w")
    if pair is not None and group.has("stride"):
        raise RefusedError("upsample_param sets stride, and stride_h with stride_w; keep one")
    return pair or (group.stride, group.stride)


def _read_scale(group: Group, *, is_needed: bool) -> tuple[int, int]:
    pair = _read_both(group, "scale_h", "scale_w")
    named = [name for name in ("scale", "size") if group.has(name)]
    if len(named) + (pair is not None) > 1:
        raise RefusedError("upsample_param sets more than one of scale, size, and scale_h with scale_w; keep one")
    if pair is not None:
        return pair
    if not named and is_needed:
        raise RefusedError(
            "sets no size, and forks differ in what they take then (a factor of 1, or of 2); set upsample_param.scale, "
            "or upsample_h and upsample_w"
        )
    factor = getattr(group, named[0]) if named else 1
    if not float(factor).is_integer():
        raise RefusedError(f"upsample_param.scale is {factor:g}; expected a whole number, the factor of both sides")
    return int(factor), int(factor)


register(Upsample)
