"""BatchNorm: y = (x - mean) / sqrt(variance + eps), per channel, with the statistics of training.

Shapes: bottom (N, C, ...); blobs mean (C), variance (C), scale factor (1), by which both are divided (0 means 0);
top as bottom. `use_global_stats: false` would normalise by the batch itself, which is for training: in TEST the stored
statistics are Caffe's default. Source: BVLC/caffe, src/caffe/layers/batch_norm_layer.cpp, lines 10-140.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import batch_norm_affine, dead_channels
from calib8.graph import Shape
from calib8.layers.base import Call, Op, QuantizeCall, register
from calib8.layers.codes import affine_codes
from calib8.layers.fields import Fields, RefusedError
from calib8.layers.onnx_builder import OnnxBuilder
from calib8.layers.plan import LayerPlan, shift_of
from calib8.layers.weighted_sum import channels, quantize_weighted_sum

ZERO_DEAD_CHANNELS = True
"""Whether channels with next to no variance in training (`arithmetic.dead_channels`) get scale 0 and give beta only.
Their 1/sqrt(var + eps) is huge, and one right shift for all channels would leave the others a few steps."""


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

    def statistics(self, blobs: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance (C), divided by the scale factor."""
        factor = float(blobs[2].reshape(-1)[0])
        inverse = 0.0 if factor == 0 else 1.0 / factor
        mean, variance = (b.reshape(-1).astype(np.float64) * inverse for b in blobs[:2])
        return mean, variance

    def affine(self, blobs: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer as scale * x + shift, per channel (C), in float64."""
        mean, variance = self.statistics(blobs)
        scale = 1.0 / np.sqrt(variance + self.eps)
        return scale, -mean * scale

    def quantize(self, q: QuantizeCall) -> LayerPlan:
        """Alone or with its Scale one affine step; see `pack_affine` for the blobs."""
        mean, variance = self.statistics(q.call.blobs)
        gamma, beta = q.fused_scale or (np.ones_like(mean), np.zeros_like(mean))
        scale, shift = batch_norm_affine(mean, variance, self.eps, gamma, beta)
        dead = dead_channels(variance) if ZERO_DEAD_CHANNELS else np.zeros(variance.shape, dtype=np.bool_)
        scale, shift = np.where(dead, 0.0, scale), np.where(dead, beta, shift)
        plan = quantize_weighted_sum(scale, shift, q.bottom_thresholds[0], q.top_thresholds[0])
        warnings = plan.warnings
        if dead.any():
            which = channels([int(c) for c in np.flatnonzero(dead)])
            warnings += (f"the variance of {which} is below 1/256 of the mean one; taken as dead (scale 0)",)
        return replace(plan, blobs=pack_affine(plan.blobs[0], plan.blobs[1]), warnings=warnings)

    def lower_int8(self, g: OnnxBuilder, call: Call, plan: LayerPlan) -> list[str]:
        scale, shift = unpack_affine(plan.blobs)
        return [affine_codes(g, call.bottoms[0], scale, shift, shift_of(plan), call.bottom_shapes[0])]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        scale, shift = self.affine(call.blobs)
        return [lower_affine(g, call.bottoms[0], scale, shift, len(call.bottom_shapes[0]))]


def pack_affine(scale: NDArray[np.int8], shift: NDArray[np.int16]) -> tuple[NDArray[Any], ...]:
    """The integer blobs of a BatchNorm in an int8 caffemodel, ours: `shift` (C) where the mean was, `scale` (C) where
    the variance was, and 1 as the scale factor. Its Scale, whose work it does, holds gamma 1 and beta 0.
    """
    return shift, scale, np.ones(1, dtype=np.int8)


def unpack_affine(blobs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and shift (C) from the integer blobs of a BatchNorm."""
    return blobs[1], blobs[0]


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
