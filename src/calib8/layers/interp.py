"""Interp: bilinear interpolation between the corners' centres.

y[h, w] is x at row h * (H - 1) / (H' - 1) and column w * (W - 1) / (W' - 1) (row 0 for H' = 1), interpolated linearly.
Shapes: bottom (N, C, H0, W0); `pad_beg` and `pad_end`, both at most 0, first cut their number of rows and columns off:
H = H0 + pad_beg + pad_end. Top (N, C, H', W'), the first of these that is set:
`shrink_factor` s alone: H' = (H - 1) div s + 1; `zoom_factor` z alone: H' = H + (H - 1) * (z - 1); `height` and
`width`: these; shrink_factor and zoom_factor: first the one, then the other; `full_zoom_factor` f (Synopsys): H * f.
`use_blob_size: true` (soeaver/caffe-model) comes before all of them: the height and width of a second bottom.
Of networks that come from ONNX: `coordinates`, which says where the centre of a pixel of the top lies in the bottom, as
ONNX's Resize does (align_corners, half_pixel, pytorch_half_pixel, asymmetric), and `scale_h` and `scale_w`, what rows
and columns are multiplied by, where that is not H' / H; places beyond the border are on it.
Source: hszhao/PSPNet, src/caffe/util/interp.cpp, caffe_cpu_interp2; the order of the forms:
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, src/caffe/layers/interp_layer.cpp, InterpLayer::Reshape.
DeepLab (gpapan/caffe) allows only one form, so that its files mean the same. `use_blob_size`: twmht/TensorRT-Caffe,
its plugin for this layer; ermig1979/Synet, its reader of Caffe's layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder

_COORDINATES = ("align_corners", "half_pixel", "pytorch_half_pixel", "asymmetric")
_FACTORS = ("shrink_factor", "zoom_factor", "full_zoom_factor")


class Interp(Op):
    """Bilinear resizing; ONNX Slice, Resize."""

    types = ("Interp",)
    bottoms = (1, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("interp_param")
        self.cut: tuple[int, int] = (-group.pad_beg, -group.pad_end)
        if min(self.cut) < 0:
            raise RefusedError("interp_param.pad_beg or pad_end is above 0; Caffe only cuts, with numbers below 0")
        self.shrink, self.zoom, self.full_zoom = (_read_factor(group, name) for name in _FACTORS)
        self.coordinates: str = group.coordinates
        self.scale: tuple[float, float] = (group.scale_h, group.scale_w)
        if self.coordinates not in _COORDINATES:
            raise RefusedError(
                f"interp_param.coordinates is {self.coordinates!r}; expected {' or '.join(_COORDINATES)}"
            )
        if not all(math.isfinite(s) and s >= 0 for s in self.scale):
            raise RefusedError(f"interp_param.scale_h and scale_w are {self.scale}; expected above 0")
        sides = (group.has("height"), group.has("width"))
        self.size: tuple[int, int] | None = (group.height, group.width) if all(sides) else None
        self.takes_size: bool = group.use_blob_size
        if self.takes_size != (len(fields.param.bottom) == 2):
            raise RefusedError("use_blob_size and a second bottom, of which it is the size, go together")
        if not self.takes_size and not any((self.shrink, self.zoom, self.full_zoom, self.size)):
            raise RefusedError("sets no output size; set height and width, zoom_factor or shrink_factor")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for bottom in bottoms:
            if len(bottom) != 4:
                raise RefusedError(f"bottom has {len(bottom)} dimensions, expected N, C, H, W")
        kept = tuple(d - sum(self.cut) for d in bottoms[0][2:])
        if min(kept) < 1:
            raise RefusedError(f"pad_beg and pad_end leave {kept[0]} x {kept[1]} of the bottom")
        top = bottoms[1][2:] if self.takes_size else tuple(self._length(d, i) for i, d in enumerate(kept))
        if min(top) < 1:
            raise RefusedError(f"the top would be {top[0]} x {top[1]}; expected at least 1 x 1")
        return [(*bottoms[0][:2], *top)]

    def _length(self, size: int, i: int) -> int:
        """Rows (i = 0) or columns (i = 1) of the top."""
        if self.size is not None and bool(self.shrink) == bool(self.zoom):
            return self.size[i]
        if self.shrink or self.zoom:
            shrunk = (size - 1) // (self.shrink or 1) + 1
            return shrunk + (shrunk - 1) * ((self.zoom or 1) - 1)
        return size * (self.full_zoom or 1)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        x, (h, w), top = call.bottoms[0], call.bottom_shapes[0][2:], call.top_shapes[0]
        before, after = self.cut
        if before or after:
            x = g.node("Slice", x, g.ints(before, before), g.ints(h - after, w - after), g.ints(2, 3))
        kept = (h - before - after, w - before - after)
        if kept == top[2:] and not any(self.scale):
            return [x]
        how = {"mode": "linear", "coordinate_transformation_mode": self.coordinates}
        if not any(self.scale):
            return [g.node("Resize", x, "", "", g.ints(*top), **how)]
        factors = [own or large / small for own, large, small in zip(self.scale, top[2:], kept, strict=True)]
        return [g.node("Resize", x, "", g.constant(np.array([1, 1, *factors], np.float32)), **how)]


def _read_factor(group: Group, name: str) -> int | None:
    if not group.has(name):
        return None
    factor: int = getattr(group, name)
    if factor < 1:
        raise RefusedError(f"interp_param.{name} is {factor}; expected at least 1")
    return factor


register(Interp)
