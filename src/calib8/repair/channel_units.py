"""Channel units: codes between a convolution and its BatchNorm count in units of their channel.

On this chip all channels of a value share one threshold, and all weights of a layer one scale. A BatchNorm behind a
convolution multiplies every channel by a factor of its own, so a channel's unit u can be moved from the one to the
other: the convolution's weights W[c] / u[c] and the BatchNorm's factor s[c] * u[c] give the same numbers. In effect the
convolution has weights, and its top a range, per channel.

The units of a layer follow from the noise behind the BatchNorm. With the range a = u * T of a channel's codes, r = s *
a / t what a code is worth behind in codes of the top, and d the right shift of the convolution's weights, a channel
loses

    error(r) + p r^2 rho 4^-d,   rho = w * K/12 * E[x^2]   (K inputs x in codes; w = 0.6 after compensation)

- what values lose, which `affine_noise` measures, and what weights do, of which a ReLU lets a part p through - while a
must be large enough for the channel's weights, and its bias, to fit: a >= max|W[c]| * tx * 2^d / 127. So the best
ranges are known for each d; d is the best of all. Without that bound, channels that hardly ever move would get weights
a million times too large.

Only those r are tried of which the BatchNorm's factor is a whole number of steps, so that its 8 bits are exact; its
right shift is the best one, too. Channels that the BatchNorm takes for dead, or multiplies by 0, get the layer's range.

What a value means is in the plan (`QuantPlan.channel_units`), so that blobs have real units wherever they are read, and
wherever one of the two layers runs in FP32. Files need not hold it: the BatchNorm's factor is exact, and so tells the
unit to whoever has the FP32 network (`quantize.channel_units`).

Source: the equivalence of neighbouring scales is that of Nagel et al., Data-Free Quantization Through Weight
Equalization and Bias Correction, 2019, section 4.1, with a BatchNorm in the place of a second convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.layer_kit.weighted_sum import PLAIN
from calib8.layer_kit.window_product import WindowProduct
from calib8.lowering import Model
from calib8.quantize import QuantPlan, fold_groups, refined
from calib8.quantize.channel_units import AffinePair, affine_pairs, rectified_top
from calib8.repair.affine_noise import RATIOS, noise_behind, room
from calib8.repair.channel_values import ChannelValues, kept_per_sample, scattered
from calib8.repair.input_windows import codes_of
from calib8.repair.unseen_maxima import unseen_maxima

Array = NDArray[np.float64]

_OF_BOTTOM = 4096  # codes of a sample whose squares are averaged
_COMPENSATION = 0.6
_LARGEST_CODE = 127
_MOST_DOUBLINGS = 20
_LARGEST_STEPS = 65  # at least, of the largest factor: below 64 the contract would double once more
_LARGEST_BIAS = np.iinfo(np.int16).max
_RSHIFTS = (7, 6, 5, 4, 3)  # of the BatchNorm: where two are as good, the finer one
_CLOSE = 1e-9
_MATERIAL = 0.5
"""What a range clips of samples that were not seen counts from this share of the least error on."""


class ChannelUnits:
    """The pass; see the module's text.

    Args:
        samples: how many there will be.
        aligns: whether `aligned_offsets` comes later.
        has_room: whether ranges have room for larger values than those that were seen.
    """

    name = "channel-units"

    def __init__(self, samples: int, *, aligns: bool = True, has_room: bool = True) -> None:
        self._samples, self._aligns, self._has_room = samples, aligns, has_room

    def counters(self, model: Model, plan: QuantPlan) -> dict[str, Seen]:
        """Ask for values of the convolutions' tops, and for their bottoms' mean squares."""
        pairs = _alone(model, plan)
        channels = sum(pair.factors.size for pair in pairs)
        per_sample = kept_per_sample(channels, self._samples)
        found: dict[str, Seen] = {}
        for pair in pairs:
            bottom = pair.convolution.bottoms[0]
            found.setdefault(bottom, Seen()).squares = MeanSquare(plan.thresholds[bottom])
            found.setdefault(pair.between, Seen()).channels = ChannelValues(per_sample)
        return found

    def apply(self, model: Model, plan: QuantPlan, observed: Mapping[str, Seen]) -> QuantPlan:
        """Choose units and thresholds, and quantise convolutions and BatchNorms with them."""
        units: dict[str, Array] = dict(plan.channel_units)
        thresholds, layers = dict(plan.thresholds), []
        for pair in _alone(model, plan):
            ranges = _ranges(model, plan, pair, observed, aligns=self._aligns, has_room=self._has_room)
            if ranges is not None:
                thresholds[pair.between] = threshold = float(np.float32(ranges.max()))
                units[pair.between] = ranges / threshold
                layers += [pair.convolution.name, pair.batch_norm.name]
        plan = replace(plan, thresholds=thresholds, channel_units=units)
        return refined(model, plan, dict.fromkeys(layers, PLAIN), self.name)


def _alone(model: Model, plan: QuantPlan) -> list[AffinePair]:
    """List the pairs whose value between them shares its threshold with no other one."""
    alone = {g.name for g in fold_groups(model, plan.enable_concat_quantize) if len(g.members) == 1}
    return [pair for pair in affine_pairs(model, plan.forms) if pair.between in alone]


class MeanSquare:
    """The mean square of a value's codes, from some of each sample.

    Args:
        threshold: of the value, in real units.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._sum = self._count = 0

    def add(self, values: NDArray[Any]) -> None:
        """Take in a value of one sample."""
        flat = values.reshape(-1)
        codes = codes_of(flat[scattered(flat, flat.size, _OF_BOTTOM)], self._threshold).astype(np.int32)
        self._sum, self._count = self._sum + int(np.square(codes).sum(dtype=np.int64)), self._count + codes.size

    @property
    def mean(self) -> float:
        """E[x^2], in squared codes."""
        return self._sum / max(self._count, 1)


@dataclass
class Seen:
    """What is observed of one value: as a bottom of convolutions, as a top of one, or both."""

    squares: MeanSquare | None = None
    channels: ChannelValues | None = None

    def add(self, values: NDArray[Any]) -> None:
        """Take in a value of one sample."""
        for counter in (self.squares, self.channels):
            if counter is not None:
                counter.add(values)


def _ranges(
    model: Model, plan: QuantPlan, pair: AffinePair, observed: Mapping[str, Seen], *, aligns: bool, has_room: bool
) -> Array | None:
    """Choose the range of every channel, (C), in real units; None where all channels are dead."""
    top, bottom = observed[pair.between].channels, observed[pair.convolution.bottoms[0]].squares
    op = model.op_of[pair.convolution.name]
    if top is None or bottom is None or not isinstance(op, WindowProduct):
        raise AssertionError("observed what was asked for")
    if not top.seen:
        return None
    live = pair.factors != 0
    ends = top.ends[0][live], top.ends[1][live]
    if not np.any(ends):
        return None
    tx, ty = plan.thresholds[pair.convolution.bottoms[0]], plan.thresholds[pair.batch_norm.tops[0]]
    weights = op.product_matrix(pair.convolution.blobs[0])
    needs = np.abs(weights).max(axis=2).reshape(-1).astype(np.float64) * tx / _LARGEST_CODE
    if len(pair.convolution.blobs) > 1:
        bias = np.abs(pair.convolution.blobs[1].reshape(-1)).astype(np.float64)
        needs = np.maximum(needs, bias * INT8_LEVELS / _LARGEST_BIAS)
    worth = np.abs(pair.factors[live]) / ty
    rectified = rectified_top(model, pair.batch_norm) is not None
    has_bias = aligns and len(pair.convolution.blobs) > 1
    errors, share = noise_behind(
        top.values()[live], pair.factors[live], pair.offsets[live], ty, rectified=rectified, has_bias=has_bias
    )
    needed = room(ends, pair.factors[live], pair.offsets[live], ty, rectified=rectified)
    if has_room and top.maxima.samples > 1:
        ends = top.ends_without[0][live], top.ends_without[1][live]
        without = room(ends, pair.factors[live], pair.offsets[live], ty, rectified=rectified)
        # In codes of the top.
        unseen = unseen_maxima(needed * _LARGEST_CODE, without * _LARGEST_CODE, top.maxima.samples, top.places)
        at_least = unseen.clipped(unseen.largest) / top.places
        counts = at_least > _MATERIAL * errors.min(axis=1)
        errors[counts] += unseen.clipped(RATIOS[:, None] * _LARGEST_CODE).T[counts] / top.places
    errors[needed[:, None] > RATIOS] = math.inf
    noise = _COMPENSATION * weights.shape[2] / 12 * bottom.mean
    ratios = _least_noise(errors, share * noise, needs[live] * worth)
    if ratios is None:
        return None
    ranges = np.empty(live.shape)
    ranges[live] = ratios / worth
    ranges[~live] = ranges[live].max()
    return ranges


def _least_noise(errors: Array, weights: Array, needs: Array) -> Array | None:
    """Choose for every channel what a code is worth behind the BatchNorm; see the module's text.

    Args:
        errors: of the values by `RATIOS`, (C, ratios).
        weights: what the weights' noise at a right shift of 0 is, in squared codes of the channel, (C).
        needs: the least ratio that the weights and the bias have room in, at a right shift of 0, (C).

    Returns:
        One of `RATIOS` for every channel, (C); None where weights have no room in any.
    """
    found, least = None, math.inf
    every = np.arange(len(errors))
    for doublings in range(_MOST_DOUBLINGS):
        costs = errors + (weights * math.ldexp(1, -2 * doublings))[:, None] * RATIOS**2
        costs[np.ldexp(needs, doublings)[:, None] * (1 - _CLOSE) > RATIOS] = math.inf
        for rshift in _RSHIFTS:
            steps = np.ldexp(RATIOS, rshift)
            able = np.flatnonzero((steps == np.rint(steps)) & (steps <= _LARGEST_CODE))
            best = able[np.argmin(costs[:, able], axis=1)]
            # The contract doubles on below 64 steps: one channel has to have more, the one that it costs least.
            if not (steps[best] >= _LARGEST_STEPS).any() and np.isfinite(costs[every, best]).all():
                large = able[steps[able] >= _LARGEST_STEPS]
                more = costs[:, large] - costs[every, best][:, None]
                channel, at = np.unravel_index(np.argmin(more), more.shape)
                best[channel] = large[at]
            cost = float(costs[every, best].sum())
            if cost < least:
                found, least = RATIOS[best], cost
    return found
