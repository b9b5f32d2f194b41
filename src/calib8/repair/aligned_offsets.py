"""Aligned offsets: of the two roundings of a convolution and its BatchNorm one is left.

A convolution's codes q become sat8(rnd(q * r + B)) behind the BatchNorm, with r what a code is worth behind and B the
offset, in codes of the top. Each rounding adds noise of its own, unless the second one has nothing to round:

- r = 1: q + B is whole where B is. The rest of B, half a code at most, goes into the convolution's bias, which is
  finer. Then rnd(q + B) is the exact value rounded once.
- r = 1/k: codes before are k times as fine, and their steps have to lie evenly around the points where the second
  rounding turns: B at a multiple of 1/k for odd k, and halfway between two for even k.
- r a whole number: the second rounding is done by the first, again where B is whole.

The network computes the same: the bias takes up what the offset gives away, at most half a code of the convolution's
top. `channel_units` chooses r, and knows of it. Without a bias there is nowhere to put the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS, round_half_up
from calib8.layer_kit.form import IntegerForm
from calib8.layer_kit.weighted_sum import WeightedSum
from calib8.lowering import Model
from calib8.measure.counters import Counter
from calib8.quantize import QuantPlan, with_given
from calib8.quantize.channel_units import AffinePair, affine_pairs

Array = NDArray[np.float64]

ALIGNED = "aligned-offsets"
_LARGEST = np.iinfo(np.int16).max


class AlignedOffsets:
    """The pass; see the module's text. It observes nothing, and other passes that give biases come before it.

    Args:
        only: the convolutions that it may give other biases, by name; None for all.
    """

    name = ALIGNED

    def __init__(self, only: Collection[str] | None = None) -> None:
        self._only = only

    def counters(self, model: Model, plan: QuantPlan) -> dict[str, Counter]:
        """Ask for nothing."""
        return {}

    def apply(self, model: Model, plan: QuantPlan, observed: Mapping[str, Counter]) -> QuantPlan:
        """Give convolutions and BatchNorms with units between them other biases and offsets."""
        found: dict[str, IntegerForm] = {}
        for pair, form, bias in _with_bias(model, plan):
            if self._only is not None and pair.convolution.name not in self._only:
                continue
            moved = _moved(pair)
            scale, unit = pair.affine.scale.astype(np.float64), float(1 << pair.affine.rshift)
            # In codes of the convolution's top, then in steps of its accumulator.
            more = np.divide(moved * unit, scale, out=np.zeros_like(moved), where=scale != 0)
            biases = bias.astype(np.float64).reshape(-1) + round_half_up(np.ldexp(more, form.rshift))
            offsets = pair.affine.shift.astype(np.float64).reshape(-1) - round_half_up(moved * unit)
            fits = (np.abs(biases) <= _LARGEST) & (np.abs(offsets) <= _LARGEST)
            biases, offsets = np.where(fits, biases, bias.reshape(-1)), np.where(fits, offsets, pair.affine.shift)
            found[pair.convolution.name] = replace(form, bias=biases.astype(np.int16).reshape(bias.shape))
            found[pair.batch_norm.name] = replace(pair.affine, shift=offsets.astype(np.int16))
        return with_given(plan, found, self.name) if found else plan


def moved_before(model: Model, plan: QuantPlan) -> dict[str, Array]:
    """Say what the pass has added to values between a convolution and its BatchNorm, (C) each, in real units.

    It is what the BatchNorm's integers have less than its offset in FP32.
    """
    found = {}
    for pair, _, _ in _with_bias(model, plan):
        step = plan.thresholds[pair.top] / INT8_LEVELS * plan.channel_units.get(pair.top, np.ones(1))
        there = np.ldexp(pair.affine.shift.astype(np.float64).reshape(-1), -pair.affine.rshift) * step
        known = (pair.factors != 0) & (np.abs(pair.affine.shift.reshape(-1)) < _LARGEST)
        found[pair.between] = np.divide(pair.offsets - there, pair.factors, out=np.zeros(known.shape), where=known)
    return found


def aligned(offsets: Array, ratios: Array) -> Array:
    """Find the nearest offsets with which two roundings are one; those for which there is none stay as they are.

    Args:
        offsets, ratios: B and r of the module's text, of one shape or broadcast.
    """
    with np.errstate(divide="ignore"):
        parts = 1 / ratios
    is_part = np.isfinite(parts) & (parts == np.rint(parts))
    step = np.where(is_part, ratios, 1.0)
    first = np.where(is_part & (np.remainder(np.where(is_part, parts, 1.0), 2) == 0), ratios / 2, 0.0)
    nearest = first + step * np.rint((offsets - first) / step)
    return np.where(is_part | ((ratios == np.rint(ratios)) & (ratios > 0)), nearest, offsets)


def _moved(pair: AffinePair) -> Array:
    """What the offset gives away, (C), in codes of the top."""
    offsets, ratios = (
        np.ldexp(x.astype(np.float64).reshape(-1), -pair.affine.rshift) for x in (pair.affine.shift, pair.affine.scale)
    )
    return np.asarray(offsets - aligned(offsets, np.abs(ratios)))


def _with_bias(model: Model, plan: QuantPlan) -> Iterator[tuple[AffinePair, WeightedSum, NDArray[np.int16]]]:
    """Find convolutions with a bias whose tops have units."""
    for pair in affine_pairs(model, plan.forms):
        form = plan.forms[pair.convolution.name]
        if pair.between in plan.channel_units and isinstance(form, WeightedSum) and form.bias is not None:
            yield pair, form, form.bias
