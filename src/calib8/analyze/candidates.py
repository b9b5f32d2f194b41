"""What a search begins with: thresholds to try for each group, or layers to go through."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from calib8.analyze.trials import Trials
from calib8.analyze.units import units_of
from calib8.calibrate.histogram import BlobHistogram
from calib8.calibrate.thresholds import ThresholdOptions, find_threshold

_METHODS = (
    *(("kl", ThresholdOptions(ignore_zeros=zeros)) for zeros in (False, True)),
    *(("kl-fine", ThresholdOptions(ignore_zeros=zeros)) for zeros in (False, True)),
    ("mse", ThresholdOptions()),
    *(("percentile", ThresholdOptions(percent=percent)) for percent in (99.9, 99.99, 99.999)),
    ("max", ThresholdOptions()),
)
"""All threshold methods, some with more than one option."""


def method_thresholds(histogram: BlobHistogram) -> tuple[float, ...]:
    """What the threshold methods find for a blob, each of them once, in ascending order."""
    return tuple(sorted({find_threshold(histogram, method, options) for method, options in _METHODS}))


def candidates_of(
    trials: Trials, histograms: Mapping[str, BlobHistogram], ignored: Collection[str] = ()
) -> dict[str, tuple[float, ...]]:
    """Thresholds to try by group, for groups that are alive and that a layer outside of `ignored` writes."""
    return {
        group: method_thresholds(histograms[group])
        for group, touched in trials.touched.items()
        if group in histograms
        and not histograms[group].dead
        and not (touched.writers and touched.writers.issubset(ignored))
    }


def original_targets(trials: Trials, ignored: Collection[str] = ()) -> list[tuple[str, str]]:
    """The layers that the original's search goes through, each with the group of its top.

    Layers without arithmetic have nothing to tune: those that only move elements, and a BatchNorm, whose Scale stands
    for both.
    """
    model = trials.experiment.model
    group_of = {member: name for name, touched in trials.touched.items() for member in touched.group.members}
    targets = []
    for unit in units_of(model, trials.plan, trials.experiment.needed):
        name = unit.layers[-1]
        op = model.op_of[name]
        if name not in ignored and not (op.passive and op.moves_data) and unit.top in group_of:
            targets.append((name, group_of[unit.top]))
    return targets
