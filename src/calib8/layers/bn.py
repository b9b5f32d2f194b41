"""BN: one affine step per channel, in two dialects that share the name.

`bn_mode: INFERENCE` (SegNet, after its statistics are merged): y = scale * x + shift; blobs scale, shift.
Otherwise (PSPNet, Sophgo): y = slope * (x - mean) / sqrt(variance + eps) + bias; blobs slope, bias, mean, variance;
`eps` 1e-5; `frozen` and `momentum` are for training.
Shapes: bottom (N, C, ...), four dimensions at most; all blobs (1, C, 1, 1); top as bottom.
Source: alexgkendall/caffe-segnet and sophgo/caffe, src/caffe/layers/bn_layer.cpp, LayerSetUp, Forward_cpu.
Deviation: SegNet's own `bn_mode: LEARN` has two blobs and normalises by the batch: its weights are refused as too few.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layers.batch_norm import lower_affine


class BN(Op):
    """Per-channel scale and shift; ONNX Mul and Add."""

    types = ("BN",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("bn_param")
        self.is_merged: bool = group.bn_mode == "INFERENCE"
        self.eps: float = group.eps
        group.ignore("frozen", "momentum", "scale_filler", "shift_filler")
        if group.icnet:
            raise RefusedError("bn_param.icnet is set, and no public source tells what it computes")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected 2 to 4 (N, C, H, W)")
        return list(bottoms)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(1, bottoms[0][1], 1, 1)] * (2 if self.is_merged else 4)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        slope, bias, *statistics = (b.reshape(-1).astype(np.float64) for b in call.blobs)
        before, scale = np.zeros_like(slope), slope
        if statistics:
            mean, variance = statistics
            with np.errstate(divide="ignore", invalid="ignore"):
                before, scale = -mean, slope / np.sqrt(variance + self.eps)
        return [lower_affine(g, call.bottoms[0], before, scale, bias, len(call.bottom_shapes[0]))]


register(BN)
