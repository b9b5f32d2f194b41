"""What of a network does not fit into 8 bits, or does nothing: one threshold for each blob and each weight counts.

With one threshold for all channels, a channel whose largest |x| is 1/32 of it has 4 of 127 steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from calib8.analyze.doctor.finding import Finding, Severity
from calib8.analyze.doctor.survey import Survey
from calib8.graph import Layer
from calib8.layers.batch_norm import BatchNorm
from calib8.layers.concat import Concat
from calib8.lowering import Model
from calib8.quantize import QuantPlan, together

_FEW_STEPS = 4
_CODES = 127
_MANY_DEAD = 0.25
_MOST_NAMED = 8
_WEIGHT_RANK = 2  # weights of convolutions and inner products have an axis of outputs and more


def check_network(model: Model, survey: Survey, plan: QuantPlan | None) -> tuple[Finding, ...]:
    """Name layers and blobs that lose more than others.

    Args:
        plan: the integers, whose warnings count; None where there are none yet.
    """
    found = [
        *_batch_norms(model), *_dead(model, survey), *_huge_weights(model), *_wide(model, survey),
        *_vanishing(model, survey), *_warned(plan),
    ]  # fmt: skip
    return tuple(found)


def _batch_norms(model: Model) -> Iterator[Finding]:
    for layer, op in model.pairs:
        if isinstance(op, BatchNorm) and model.net.has_weights:
            for note in op.weight_notes(layer.blobs):
                yield Finding("network", Severity.PROBLEM, layer.name, note)


def _dead(model: Model, survey: Survey) -> Iterator[Finding]:
    for value, peaks in survey.channel_peaks.items():
        dead = int(np.count_nonzero(peaks == 0))
        if peaks.size > 1 and _MANY_DEAD * peaks.size <= dead < peaks.size and model.net.is_read(value):
            text = f"{dead} of its {peaks.size} channels are 0 in all {survey.images} images"
            advice = "the network does not use them, or the images are not of its kind"
            yield Finding("network", Severity.HINT, survey.called[value], text, advice)


def _huge_weights(model: Model) -> Iterator[Finding]:
    found = sorted(((ratio, name) for name, ratio in weight_ratios(model).items()), reverse=True)
    for ratio, name in found[:_MOST_NAMED]:
        if ratio > _CODES / _FEW_STEPS:
            text = (
                f"one channel's largest weight is {ratio:.0f} times the median channel's, which keeps "
                f"{_CODES / ratio:.1f} of {_CODES} steps for its weights"
            )
            advice = "equalise channels across layers before calibrating, or leave the layer in FP32"
            yield Finding("network", Severity.HINT, name, text, advice)


def weight_ratios(model: Model) -> dict[str, float]:
    """By layer with weights: the largest |w| over the median of the channels' largest |w|."""
    found = {}
    for layer in model.net.layers:
        peaks = weight_peaks(layer)
        if peaks.size > 1 and (median := float(np.median(peaks[peaks > 0], axis=0)) if peaks.any() else 0.0) > 0:
            found[layer.name] = float(peaks.max()) / median
    return found


def weight_peaks(layer: Layer) -> NDArray[np.float64]:
    """The largest |w| of each output channel of a layer whose first blob is a kernel or a matrix; else ()."""
    if not layer.blobs or layer.blobs[0].ndim < _WEIGHT_RANK:
        return np.zeros(0)
    rows = layer.blobs[0].reshape(layer.blobs[0].shape[0], -1)
    return np.asarray(np.abs(rows).max(axis=1, initial=0.0), np.float64)


def _wide(model: Model, survey: Survey) -> Iterator[Finding]:
    ratios = {value: ratio for value, ratio in channel_ratios(survey.channel_peaks).items() if model.net.is_read(value)}
    for value in sorted(ratios, key=lambda v: -ratios[v])[:_MOST_NAMED]:
        if ratios[value] > _CODES / _FEW_STEPS:
            text = (
                f"one channel reaches {ratios[value]:.0f} times the median channel, which is left with "
                f"{_CODES / ratios[value]:.1f} of {_CODES} steps"
            )
            yield Finding("network", Severity.HINT, survey.called[value], text, "see `calib8 sensitivity` on it")


def channel_ratios(peaks: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """By value: the largest |x| over the median of the channels' largest |x|, dead channels left out."""
    alive = {value: p[p > 0] for value, p in peaks.items()}
    return {value: float(p.max() / np.median(p)) for value, p in alive.items() if p.size > 1}


def _vanishing(model: Model, survey: Survey) -> Iterator[Finding]:
    for layer, op in model.pairs:
        known = [b for b in layer.bottoms if b in survey.channel_peaks]
        if not isinstance(op, Concat) or len(known) < len(layer.bottoms):
            continue
        peaks = {b: float(survey.channel_peaks[b].max(initial=0.0)) for b in known}
        largest = max(peaks.values())
        for bottom, peak in peaks.items():
            if 0 < peak * _CODES / _FEW_STEPS < largest:
                text = (
                    f"its bottom {model.net.blob_of[bottom]!r} reaches {peak:.3g}, another one {largest:.3g}; with one "
                    f"threshold for both it has {_CODES * peak / largest:.1f} of {_CODES} steps"
                )
                yield Finding(
                    "network", Severity.HINT, layer.name, text, "keep thresholds apart: `concat_quantize=True`"
                )


def _warned(plan: QuantPlan | None) -> Iterator[Finding]:
    for text in together(plan.warnings) if plan is not None else ():
        subject, _, what = text.partition(": ")
        yield Finding("network", Severity.HINT, subject.removeprefix("layer ").strip("'"), what or text)
