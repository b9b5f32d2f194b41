"""BatchNorm: y = (x - mean) / sqrt(variance + eps), per channel, with the statistics of training.

Shapes: bottom (N, C, ...); blobs mean (C), variance (C), scale factor (1), by which both are divided (0 means 0);
top as bottom. `use_global_stats: false` would normalise by the batch itself, which is for training: in TEST the stored
statistics are Caffe's default. Source: BVLC/caffe, src/caffe/layers/batch_norm_layer.cpp, lines 10-140.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Shape
from calib8.layers.base import Call, Op, register
from calib8.layers.fields import Fields, RefusedError
from calib8.layers.onnx_builder import OnnxBuilder


class BatchNorm(Op):
    """Per-channel normalisation; ONNX Mul and Add, which onnxruntime folds into a convolution before it."""

    types = ("BatchNorm",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("batch_norm_param")
        self.eps: float = group.eps
        if group.has("use_global_stats") and not group.use_global_stats:
            raise RefusedError("batch_norm_param.use_global_stats is false: statistics of the batch are for training")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(bottoms)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
        return [(channels,), (channels,), (1,)]

    def affine(self, blobs: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer as scale * x + shift, per channel (C), in float64."""
        factor = float(blobs[2].reshape(-1)[0])
        inverse = 0.0 if factor == 0 else 1.0 / factor
        mean, variance = (b.reshape(-1).astype(np.float64) * inverse for b in blobs[:2])
        scale = 1.0 / np.sqrt(variance + self.eps)
        return scale, -mean * scale

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        scale, shift = self.affine(call.blobs)
        return [lower_affine(g, call.bottoms[0], scale, shift, len(call.bottom_shapes[0]))]


def lower_affine(
    g: OnnxBuilder, x: str, scale: NDArray[np.float64] | None, shift: NDArray[np.float64] | None, rank: int
) -> str:
    """scale * x + shift along axis 1, for a value of `rank` dimensions; a part that is None is left out."""
    spread = (-1,) + (1,) * max(rank - 2, 0)
    if scale is not None:
        x = g.node("Mul", x, g.constant(scale.reshape(spread).astype(np.float32)))
    if shift is not None:
        x = g.node("Add", x, g.constant(shift.reshape(spread).astype(np.float32)))
    return x


register(BatchNorm)
