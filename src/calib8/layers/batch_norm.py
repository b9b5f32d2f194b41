"""BatchNorm: y = (x - mean) / sqrt(variance + eps), per channel, with the statistics of training.

Shapes: bottom (N, C, ...); blobs mean (C), variance (C), scale factor (1), by which both are divided (0 means 0);
top as bottom. `eps` 1e-5. `use_global_stats: false`, the default in TRAIN, normalises by the batch itself: mean and
variance of each channel over all images and places. In a Net that was opened in TRAIN (`caffe.Net`) a pass also moves
the blobs: mean = m + f * mean, variance = v * n/(n - 1) + f * variance, factor = 1 + f * factor, with m and v of the
batch, n numbers in a channel, f `moving_average_fraction` 0.999. In TEST it is refused.
NVIDIA's `scale_bias: true`, which a `scale_filler` or a `bias_filler` implies, adds gamma (C) and beta (C) to the
blobs, y = gamma * ... + beta; then eps is at least 1e-5, and neither the scale factor nor `use_global_stats` counts in
TEST; in TRAIN its blobs stay as they are. Synopsys's `add_eps_before_sqrt: false` is sqrt(variance) + eps.
Source: BVLC/caffe, src/caffe/layers/batch_norm_layer.cpp, LayerSetUp, Forward_cpu; NVIDIA/caffe and
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import batch_norm_affine, dead_channels
from calib8.errors import QuantizationError
from calib8.graph import Array, Phase, Shape
from calib8.layer_kit.base import Call, ChannelAffine, LiveBlob, Op, QuantizeCall, RandomNumbers, Weights, register
from calib8.layer_kit.batch_statistics import normalized, statistics_of_batch, unbiased
from calib8.layer_kit.channel_flow import ChannelFlow, Units
from calib8.layer_kit.codes import affine_codes
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.form import IntegerForm, Integers, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales, weighted
from calib8.layer_kit.table_row import TableRow, multipliers, right_shift
from calib8.layer_kit.weighted_sum import WeightedSum, channels, quantize_weighted_sum
from calib8.layers.scale import Scale

_NVIDIA_EPS = 1e-5
_UNFILLED = ("", 0.0)

ZERO_DEAD_CHANNELS = True
"""Whether channels with next to no variance in training (`arithmetic.dead_channels`) get scale 0 and give beta only.
Their 1/sqrt(var + eps) is huge, and one right shift for all channels would leave the others a few steps."""


@dataclass(frozen=True, eq=False)
class AffineChannels(IntegerForm):
    """`sat8(rnd((xq*scale[c] + shift[c]) / 2^rs))`, one factor and one offset for each channel.

    The blobs in an int8 caffemodel are ours, since no real file with a BatchNorm is public: `shift` where the mean was,
    `scale` where the variance was, and 1 as the scale factor; with gamma and beta blobs of its own, ones and zeros.

    Attributes:
        scale, shift: (C), 8 and 16 bits.
        rshift: rs.
        has_gamma: whether the layer has blobs for gamma and beta.
    """

    scale: NDArray[np.int8]
    shift: NDArray[np.int16]
    rshift: int
    has_gamma: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def blobs(self) -> tuple[Integers, ...]:
        """Shift, scale and the factor; see the class."""
        ones, zeros = np.ones(self.scale.shape, dtype=np.int8), np.zeros(self.shift.shape, dtype=np.int16)
        return (self.shift, self.scale, np.ones(1, dtype=np.int8), *((ones, zeros) if self.has_gamma else ()))

    @property
    def accumulator_shift(self) -> int:
        """The accumulator's shift."""
        return self.rshift

    def with_blobs(self, blobs: Sequence[Integers]) -> AffineChannels:
        """Take scale and shift; the other blobs are not computed with."""
        return replace(self, shift=blobs[0], scale=blobs[1], warnings=())

    def fill_row(self, row: TableRow) -> None:
        """Write the shift."""
        row.right_shift_width = self.rshift

    def from_row(self, row: TableRow, bottoms: int) -> AffineChannels:
        """Take the shift of a row."""
        rshift = right_shift(row)
        multipliers(row, 0)
        return replace(self, rshift=rshift)

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give the steps of bottom, scale and shift."""
        return weighted(bottoms, top, self.rshift)


class BatchNorm(Op):
    """Per-channel normalisation; ONNX Add and Mul."""

    types = ("BatchNorm",)
    takes_channel_units = True  # of its bottom
    neutral_blobs = (0.0, 1.0, 1.0, 1.0, 1.0)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("batch_norm_param")
        self.scale_bias: bool = _has_gamma_and_beta(group)
        self.eps: float = max(group.eps, _NVIDIA_EPS) if self.scale_bias else group.eps
        self.fillers = (_UNFILLED,) * 3 + (("scale_filler", 1.0), ("bias_filler", 0.0)) * self.scale_bias
        self.eps_before_sqrt: bool = group.add_eps_before_sqrt
        # Of training; buffers; and blobs that a fused layer of Intel's would have, when it has any.
        group.ignore("update_global_stats", "icnet", "bias_term")
        self.fraction: float = group.moving_average_fraction
        is_test = fields.phase == Phase.TEST
        self.trains = not (group.use_global_stats if group.has("use_global_stats") else is_test)
        if is_test and self.trains and not self.scale_bias:
            raise RefusedError("batch_norm_param.use_global_stats is false: statistics of the batch are for training")
        self.trains = self.trains and not is_test  # NVIDIA's has no statistics of the batch in TEST
        self.kind = "host" if self.trains else "onnx"
        self._live: Sequence[LiveBlob] = ()
        if group.relu:
            raise RefusedError("batch_norm_param.relu is set; write the ReLU as a layer of its own")
        if group.has("use_weight_bias") and group.use_weight_bias:
            raise RefusedError("batch_norm_param.use_weight_bias is set; write gamma and beta as a Scale layer")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(bottoms)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        per_channel: Shape = (bottoms[0][1] if len(bottoms[0]) > 1 else 1,)
        return [per_channel, per_channel, (1,)] + [per_channel] * (2 * self.scale_bias)

    def weight_notes(self, blobs: Sequence[NDArray[np.float32]]) -> list[str]:
        if self.scale_bias or blobs[2].any() or not (blobs[0].any() or blobs[1].any()):
            return []
        return [
            "its scale factor (the third blob) is 0, so that mean and variance count as 0, in Caffe as well, and they "
            "are not 0; a converter may have left the factor out: set it to 1"
        ]

    def statistics(self, blobs: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance (C), such that the layer divides by sqrt(variance + eps)."""
        factor = 1.0 if self.scale_bias else float(blobs[2].reshape(-1)[0])
        inverse = 0.0 if factor == 0 else 1.0 / factor
        mean, variance = (b.reshape(-1).astype(np.float64) * inverse for b in blobs[:2])
        return mean, variance if self.eps_before_sqrt else (np.sqrt(variance) + self.eps) ** 2 - self.eps

    def gamma_and_beta(self, blobs: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gamma and beta (C) of the layer itself; 1 and 0 without `scale_bias`."""
        if self.scale_bias:
            return blobs[3].reshape(-1).astype(np.float64), blobs[4].reshape(-1).astype(np.float64)
        return np.ones(blobs[0].size), np.zeros(blobs[0].size)

    def channel_flow(self, call: Call) -> ChannelFlow:
        plain = self.kind == "onnx" and self.eps_before_sqrt and len(call.bottom_shapes[0]) > 1
        return ChannelFlow.TAKEN if plain and (self.scale_bias or call.blobs[2].all()) else ChannelFlow.MIXED

    def blobs_in_units(self, call: Call, bottom: Units | None, top: Units | None) -> tuple[Array, ...]:
        """Divide the mean by the units, and the variance with its eps by their squares."""
        if bottom is None:
            return tuple(call.blobs)
        mean, variance = self.statistics(call.blobs)
        factor = 1.0 if self.scale_bias else float(call.blobs[2].reshape(-1)[0])
        moved = mean / bottom * factor, np.maximum((variance + self.eps) / bottom**2 - self.eps, 0) * factor
        return (*(blob.astype(np.float32).reshape(call.blobs[0].shape) for blob in moved), *call.blobs[2:])

    def join_net(self, numbers: RandomNumbers, blobs: Sequence[LiveBlob]) -> None:
        self._live = blobs

    def run(self, bottoms: Sequence[NDArray[np.float32]], call: Call) -> list[NDArray[np.float32]]:
        """Normalise by the batch, in TRAIN, and move the stored statistics towards it."""
        blobs = [blob.data for blob in self._live]
        mean, variance = statistics_of_batch(bottoms[0])
        gamma, beta = self.gamma_and_beta(blobs)
        if not self.scale_bias:
            blobs[0][...] = mean + self.fraction * blobs[0]
            blobs[1][...] = unbiased(variance, bottoms[0].shape) + self.fraction * blobs[1]
            blobs[2][...] = 1 + self.fraction * blobs[2]
        divisor = np.sqrt(variance + self.eps) if self.eps_before_sqrt else np.sqrt(variance) + self.eps
        with np.errstate(divide="ignore", invalid="ignore"):
            return [normalized(bottoms[0], mean, gamma / divisor, beta)]

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return "statistics of the batch have no integer rule" if self.trains else None

    def takes_over(self, follower: Op, bottoms: Sequence[Shape]) -> bool:
        return isinstance(follower, Scale) and len(bottoms[0]) > 1 and follower.is_per_channel(bottoms)

    def quantize(self, q: QuantizeCall) -> AffineChannels:
        return self._quantize(q, *self.gamma_and_beta(q.call.blobs))

    def quantize_with(self, q: QuantizeCall, follower: Op, blobs: Weights) -> tuple[IntegerForm, IntegerForm]:
        """Make one affine step with its Scale: both rows of the calibration table carry its shift."""
        if not isinstance(follower, Scale):
            raise AssertionError(f"a BatchNorm takes over no {type(follower).__name__}")
        (gamma, beta), (factor, offset) = self.gamma_and_beta(q.call.blobs), follower.affine(blobs)
        own = self._quantize(q, gamma * factor, beta * factor + offset)
        return own, follower.skipped(blobs, own.rshift)

    def affine(
        self, blobs: Sequence[NDArray[np.float32]], follower: Op | None, weights: Weights
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute what the layer, with the Scale behind it, multiplies each channel by and adds: (C) each.

        Dead channels have a factor of 0.
        """
        gamma, beta = self.gamma_and_beta(blobs)
        if isinstance(follower, Scale):
            times, plus = follower.affine(weights)
            gamma, beta = gamma * times, beta * times + plus
        return normalisation(*self.statistics(blobs), self.eps, gamma, beta)[:2]

    def _quantize(self, q: QuantizeCall, gamma: NDArray[np.float64], beta: NDArray[np.float64]) -> AffineChannels:
        step = quantize_normalisation(q, *self.statistics(q.call.blobs), self.eps, gamma, beta)
        if step.bias is None:
            raise AssertionError("a BatchNorm has an offset")
        warnings = step.warnings + tuple(self.weight_notes(q.call.blobs))
        return AffineChannels(step.weights, step.bias, step.rshift, self.scale_bias, warnings)

    def channel_affine(self, call: Call) -> ChannelAffine | None:
        gamma, beta = self.gamma_and_beta(call.blobs)
        return normalisation_affine(*self.statistics(call.blobs), self.eps, gamma, beta)

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        own, bottom = expect(form, AffineChannels), call.bottom_shapes[0]
        along = along_channels(len(bottom))
        return [
            affine_codes(g, call.bottoms[0], own.scale.reshape(along), own.shift.reshape(along), own.rshift, bottom)
        ]

    def lower_dequantized(self, g: OnnxBuilder, call: Call, form: IntegerForm, scales: RealScales) -> list[str]:
        own, along = expect(form, AffineChannels), along_channels(len(call.bottom_shapes[0]))
        scale, shift = (g.weight(v.reshape(along)) for v in (own.scale, own.shift))
        return [g.node("Add", g.node("Mul", call.bottoms[0], scale), shift)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        mean, variance = self.statistics(call.blobs)
        gamma, beta = self.gamma_and_beta(call.blobs)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = gamma / np.sqrt(variance + self.eps)
        return [lower_affine(g, call.bottoms[0], -mean, scale, beta, len(call.bottom_shapes[0]))]


def normalisation(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    eps: float,
    gamma: NDArray[np.float64],
    beta: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Compute factor and offset of every channel, (C) each, and which are taken as dead: factor 0, offset beta."""
    scale, shift = batch_norm_affine(mean, variance, eps, gamma, beta)
    dead = dead_channels(variance) if ZERO_DEAD_CHANNELS else np.zeros(variance.shape, dtype=np.bool_)
    return np.where(dead, 0.0, scale), np.where(dead, beta, shift), dead


def normalisation_affine(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    eps: float,
    gamma: NDArray[np.float64],
    beta: NDArray[np.float64],
) -> ChannelAffine | None:
    """Give gamma * (x - mean) / sqrt(variance + eps) + beta, (C) each, as one factor and one offset a channel.

    None where they are not finite.
    """
    try:
        return ChannelAffine(*batch_norm_affine(mean, variance, eps, gamma, beta))
    except QuantizationError:
        return None


def quantize_normalisation(
    q: QuantizeCall,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    eps: float,
    gamma: NDArray[np.float64],
    beta: NDArray[np.float64],
) -> WeightedSum:
    """Quantise gamma * (x - mean) / sqrt(variance + eps) + beta, (C) each, as one factor and one offset a channel."""
    scale, shift, dead = normalisation(mean, variance, eps, gamma, beta)
    unit = q.bottom_units[0] if q.bottom_units else None
    if unit is not None:
        scale = scale * unit  # a code of the channel is worth less; the offset is real
    step = quantize_weighted_sum(scale, shift, q.bottom_thresholds[0], q.top_thresholds[0], q.refinement)
    if not dead.any():
        return step
    which = channels([int(c) for c in np.flatnonzero(dead)])
    said = f"the variance of {which} is below 1/256 of the mean one; taken as dead (scale 0)"
    return replace(step, warnings=(*step.warnings, said))


def _has_gamma_and_beta(group: Group) -> bool:
    """Whether the blobs are NVIDIA's five. Intel's `bias_filler` stands beside a `filler`, and fills no blob here."""
    implied = group.has("scale_filler") or (group.has("bias_filler") and not group.has("filler"))
    return bool(group.scale_bias) or implied


def lower_affine(
    g: OnnxBuilder,
    x: str,
    before: NDArray[np.float64],
    scale: NDArray[np.float64],
    after: NDArray[np.float64],
    rank: int,
) -> str:
    """Add (x + before) * scale + after along axis 1, for a value of `rank` dimensions; additions of 0 are left out.

    The mean goes first, as in Caffe: with a large scale its product with the scale would cancel badly.
    """
    spread = along_channels(rank)
    for op_type, term in (("Add", before), ("Mul", scale), ("Add", after)):
        if op_type == "Mul" or np.any(term):
            x = g.node(op_type, x, g.constant(term.reshape(spread).astype(np.float32)))
    return x


def along_channels(rank: int) -> Shape:
    """Return the shape in which numbers of channels stand along axis 1 of `rank` dimensions."""
    return (-1,) + (1,) * max(rank - 2, 0)


register(BatchNorm)
