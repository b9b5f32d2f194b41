"""Normalize: y = scale * x / sqrt(sum of x^2 + eps), the sum over the channels of a pixel or over a whole image.

Shapes: bottom (N, C, H, W), H and W may be missing; blob scale, one number, or (C) with `channel_shared: false`; top as
bottom. Parameters: `across_spatial` true (sum over C, H, W; false: over C), `channel_shared` true, `eps` 1e-10.
Synopsys's `add_eps_before_sqrt: false` (default true) is sqrt(sum of x^2) + eps, with `across_spatial` only.
Source: weiliu89/caffe (SSD), src/caffe/layers/normalize_layer.cpp, LayerSetUp, Forward_cpu;
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Normalize(Op):
    """Division by the L2 norm; ONNX ReduceSumSquare, Sqrt, Div, Mul."""

    types = ("Normalize",)
    unfilled = 1.0

    def __init__(self, fields: Fields) -> None:
        group = fields.group("norm_param")
        self.across_spatial: bool = group.across_spatial
        self.channel_shared: bool = group.channel_shared
        self.eps: float = group.eps
        self.eps_behind_sqrt = not group.add_eps_before_sqrt and self.across_spatial
        group.ignore("scale_filler")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected 2 to 4 (N, C, H, W)")
        return list(bottoms)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [() if self.channel_shared else (bottoms[0][1],)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        rank = len(call.bottom_shapes[0])
        axes = range(1, rank) if self.across_spatial else (1,)
        norm = g.node("ReduceSumSquare", call.bottoms[0], g.ints(*axes))
        eps = g.scalar(self.eps)
        if self.eps_behind_sqrt:
            norm = g.node("Add", g.node("Sqrt", norm), eps)
        else:
            norm = g.node("Sqrt", g.node("Add", norm, eps))
        scale = g.weight(call.blobs[0].reshape((-1,) + (1,) * (rank - 2)))
        return [g.node("Mul", g.node("Div", call.bottoms[0], norm), scale)]


register(Normalize)
