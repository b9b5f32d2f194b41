"""Whole factors: what a layer multiplies a channel by is a whole number of steps, where its top has units; and offsets.

A BatchNorm behind a Concat, a sum or a pooling has one 8-bit factor for each channel and one right shift for all, and
so has a Scale alone: of a factor of 5 steps rounding takes up to a tenth, and no other weights could make up for it.
Where the channels of its top have units (`equalised_channels`), one that is smaller or larger by that tenth makes the
factor exact, and the weights that read the channel take it up. Between a convolution and a BatchNorm `channel_units`
does it.

A BatchNorm behind a convolution without a bias adds an offset of b codes. Where b is whole and a code before is worth
one behind, what was rounded before is whole behind, and not rounded again. A bias would see to that
(`aligned_offsets`). Without one, the unit of the channel becomes larger or smaller by a sixteenth at most, so that b
is whole: from 8 codes on that is always enough.

Factors of few steps go down, not to the nearest: a larger factor makes values larger, which might be clipped. Factors
below one step stay as they are, and so do those of channels that share their unit with what other layers write.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.weighted_sum import WeightedSum
from calib8.layers.batch_norm import AffineChannels
from calib8.layers.scale import Scale
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.quantize.channel_units import affine_pairs, batch_norm_factors, is_before_batch_norm
from calib8.repair.equalised_channels import ChannelClasses

Array = NDArray[np.float64]

_LARGEST = 127
_LARGEST_STEPS = 65  # at least, of the largest factor: below 64 the contract would double once more
_FEW = 16  # steps
_NEARLY = 0.02  # of a step
_MOVED = 1 / 16  # of a unit, for an offset


def whole_factors(model: Model, plan: QuantPlan, classes: ChannelClasses) -> Array | None:
    """Find what units of classes have to be multiplied by, (classes); None for nothing.

    Args:
        model: the network, whose channels may count in units already.
        plan: of that network.
    """
    times = [(top, _times(exact)) for top, exact in _steps(model, plan)]
    times += [(top, _times_of_offsets(offsets)) for top, offsets in _offsets(model, plan)]
    if not times:
        return None
    found, writers = np.ones(classes.count), _writers(model, classes)
    for of, own in ((classes.of[top], own) for top, own in times if top in classes.of):
        alone = (of >= 0) & (writers[of] == 1)
        found[of[alone]] = own[alone]
    return found if (found != 1).any() else None


def _steps(model: Model, plan: QuantPlan) -> Iterator[tuple[str, Array]]:
    """Yield tops whose channels have a factor each, (C), in steps of their right shift that are not rounded yet."""
    of_pairs = {scale.name for scale in model.batch_norm_pairs.values()}
    for layer, op in model.pairs:
        form, scale = plan.forms.get(layer.name), model.batch_norm_pairs.get(layer.name)
        if isinstance(form, AffineChannels) and scale is not None and not is_before_batch_norm(model, layer.bottoms[0]):
            factors, top = batch_norm_factors(model, layer), scale.tops[0]
        elif isinstance(form, WeightedSum) and isinstance(op, Scale) and layer.name not in of_pairs:
            factors, top = op.affine(layer.blobs)[0].astype(np.float64), layer.tops[0]
        else:
            continue
        yield top, np.abs(factors) * (plan.thresholds[layer.bottoms[0]] / plan.thresholds[top] * 2.0**form.rshift)


def _offsets(model: Model, plan: QuantPlan) -> Iterator[tuple[str, Array]]:
    """Yield tops of BatchNorms behind convolutions without a bias, and their offsets, (C), in codes."""
    for pair in affine_pairs(model, plan.forms):
        if len(pair.convolution.blobs) == 1:
            yield pair.top, pair.offsets * (INT8_LEVELS / plan.thresholds[pair.top])


def _writers(model: Model, classes: ChannelClasses) -> NDArray[np.intp]:
    """Count how many channels of layers with weights write each class."""
    counts = np.zeros(classes.count, np.intp)
    for layer, op in model.pairs:
        if op.channel_flow(model.call(layer)) is ChannelFlow.WEIGHTED:
            for of in (classes.of[top] for top in layer.tops if top in classes.of):
                np.add.at(counts, of[of >= 0], 1)
    return counts


def _times(exact: Array) -> Array:
    """Give what units have to be multiplied by, so that numbers of steps become whole."""
    steps = np.where(exact >= _FEW, np.rint(exact), np.floor(exact + _NEARLY))
    if exact.max() >= _LARGEST_STEPS - 1:
        steps[np.argmax(exact)] = max(steps.max(), _LARGEST_STEPS)
    times: Array = np.divide(exact, np.clip(steps, 1, _LARGEST), out=np.ones_like(exact), where=exact >= 1)
    return times


def _times_of_offsets(offsets: Array) -> Array:
    """Give what units have to be multiplied by, so that offsets become whole; 1 where that is too much."""
    times: Array = np.divide(offsets, np.rint(offsets), out=np.ones_like(offsets), where=np.abs(offsets) >= 0.5)
    return np.where(np.abs(times - 1) <= _MOVED, times, 1.0)
