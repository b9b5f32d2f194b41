"""BN: one affine step per channel, in two dialects that share the name.

`bn_mode: INFERENCE` (SegNet and ENet, after their statistics are merged): y = scale * x + shift; blobs scale, shift.
Otherwise (PSPNet, Sophgo): y = slope * (x - mean) / sqrt(variance + eps) + bias; blobs slope, bias, mean, variance;
`eps` 1e-5. In a Net that was opened in TRAIN, unless `frozen`, mean and variance are those of the batch, and a pass
moves the blobs: mean = (1 - t) * m + t * mean, variance likewise, t `momentum` 0.9.
Shapes: bottom (N, C, ...), four dimensions at most; all blobs (1, C, 1, 1); top as bottom.
In integers the affine step of BatchNorm and Scale; the file's blobs are the factor where scale or slope was, the offset
where shift or bias was, then 0 and 1.
Source: alexgkendall/caffe-segnet and sophgo/caffe, src/caffe/layers/bn_layer.cpp, LayerSetUp, Forward_cpu.
Deviation: SegNet's own `bn_mode: LEARN` has two blobs and normalises by the batch: its weights are refused as too few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Phase, Shape
from calib8.layer_kit.base import Call, ChannelAffine, LiveBlob, Op, QuantizeCall, RandomNumbers, register
from calib8.layer_kit.batch_statistics import normalized, statistics_of_batch
from calib8.layer_kit.codes import affine_codes
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.form import IntegerForm, Integers, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales
from calib8.layer_kit.weighted_sum import WeightedSum, quantize_weighted_sum
from calib8.layers.batch_norm import along_channels, lower_affine, normalisation_affine, quantize_normalisation

_UNFILLED = ("", 0.0)


@dataclass(frozen=True, eq=False)
class WithStatistics(WeightedSum):
    """A factor and an offset for each channel, in a file that has blobs for mean and variance behind them."""

    @property
    def blobs(self) -> tuple[Integers, ...]:
        """Factor, offset, and a mean of 0 with a variance of 1."""
        shape = self.weights.shape
        return (*super().blobs, np.zeros(shape, dtype=np.int8), np.ones(shape, dtype=np.int8))


class BN(Op):
    """Per-channel scale and shift; ONNX Mul and Add."""

    types = ("BN",)
    neutral_blobs = (0.0, 0.0, 0.0, 1.0)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("bn_param")
        self.is_merged: bool = group.bn_mode == "INFERENCE"
        self.eps: float = group.eps
        self.momentum: float = group.momentum
        frozen = bool(group.frozen)
        self.trains = fields.phase == Phase.TRAIN and not (self.is_merged or frozen)
        self.kind = "host" if self.trains else "onnx"
        merged, others = (("scale_filler", 0.0), ("shift_filler", 0.0)), (("slope_filler", 0.0), ("bias_filler", 0.0))
        self.fillers = merged if self.is_merged else (*others, _UNFILLED, ("", float(frozen)))
        self._live: Sequence[LiveBlob] = ()
        group.ignore("scale_filler", "shift_filler")
        if group.icnet:
            raise RefusedError("bn_param.icnet is set, and no public source tells what it computes")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected 2 to 4 (N, C, H, W)")
        return list(bottoms)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(1, bottoms[0][1], 1, 1)] * (2 if self.is_merged else 4)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        slope, bias, *statistics = _flat(call.blobs)
        before, scale = np.zeros_like(slope), slope
        if statistics:
            mean, variance = statistics
            with np.errstate(divide="ignore", invalid="ignore"):
                before, scale = -mean, slope / np.sqrt(variance + self.eps)
        return [lower_affine(g, call.bottoms[0], before, scale, bias, len(call.bottom_shapes[0]))]

    def join_net(self, numbers: RandomNumbers, blobs: Sequence[LiveBlob]) -> None:
        self._live = blobs

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        """Normalise by the batch, in TRAIN, and move the stored statistics towards it."""
        slope, bias, *stored = (blob.data for blob in self._live)
        mean, variance = statistics_of_batch(bottoms[0])
        for blob, statistic in zip(stored, (mean, variance), strict=True):
            blob[...] = self.momentum * blob + (1 - self.momentum) * statistic.reshape(blob.shape)
        return [normalized(bottoms[0], mean, slope.reshape(-1) / np.sqrt(variance + self.eps), bias.reshape(-1))]

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return "statistics of the batch have no integer rule" if self.trains else None

    def quantize(self, q: QuantizeCall) -> WeightedSum:
        first, second, *statistics = _flat(q.call.blobs)
        shape = q.call.blobs[0].shape
        tx, ty = q.bottom_thresholds[0], q.top_thresholds[0]
        if not statistics:
            return quantize_weighted_sum(first.reshape(shape), second.reshape(shape), tx, ty, q.refinement)
        mean, variance = statistics
        step = quantize_normalisation(q, mean, variance, self.eps, first, second)
        bias = None if step.bias is None else step.bias.reshape(shape)
        return WithStatistics(step.weights.reshape(shape), bias, step.rshift, step.warnings)

    def channel_affine(self, call: Call) -> ChannelAffine | None:
        slope, bias, *statistics = _flat(call.blobs)
        if not statistics:
            return ChannelAffine(slope, bias)
        mean, variance = statistics
        return normalisation_affine(mean, variance, self.eps, slope, bias)

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        own, bottom = expect(form, WeightedSum), call.bottom_shapes[0]
        along = along_channels(len(bottom))
        shift = None if own.bias is None else own.bias.reshape(along)
        return [affine_codes(g, call.bottoms[0], own.weights.reshape(along), shift, own.rshift, bottom)]

    def lower_dequantized(self, g: OnnxBuilder, call: Call, form: IntegerForm, scales: RealScales) -> list[str]:
        along = along_channels(len(call.bottom_shapes[0]))
        factor, offset = (g.weight(blob.reshape(along)) for blob in form.blobs[:2])
        return [g.node("Add", g.node("Mul", call.bottoms[0], factor), offset)]


def _flat(blobs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    return [blob.reshape(-1).astype(np.float64) for blob in blobs]


register(BN)
