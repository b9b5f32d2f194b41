"""What a search begins with: thresholds to try for each group, or layers to go through."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from calib8.analyze.trials import Trials
from calib8.analyze.units import units_of
from calib8.measure.histogram import BlobHistogram
from calib8.measure.thresholds import ThresholdOptions, find_threshold


@dataclass(frozen=True)
class _Way:
    """A method with an option, and whether the original's values are measured or those behind the ReLU."""

    method: str
    options: ThresholdOptions = ThresholdOptions()
    as_written: bool = False


_WAYS = {
    "kl": _Way("kl", as_written=True),
    "kl behind ReLU": _Way("kl"),
    "kl-fine": _Way("kl-fine"),
    "mse": _Way("mse"),
    "percentile 99.9": _Way("percentile", ThresholdOptions(percent=99.9)),
    "percentile 99.99": _Way("percentile", ThresholdOptions(percent=99.99)),
    "percentile 99.999": _Way("percentile", ThresholdOptions(percent=99.999)),
    "max": _Way("max"),
}
"""All threshold methods, some in more than one way."""


def method_thresholds(
    trials: Trials, histograms: Mapping[str, BlobHistogram], ignored: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Find thresholds by every method, for each group that is alive and that a layer outside of `ignored` writes.

    Args:
        histograms: by value, of what groups are measured on either way; others are left out.
    """
    groups = {
        name: touched.group
        for name, touched in trials.touched.items()
        if touched.group.written in histograms
        and touched.group.rectified in histograms
        and not histograms[touched.group.rectified].dead
        and not (touched.writers and touched.writers.issubset(ignored))
    }
    return {
        what: {
            name: find_threshold(histograms[group.measured(as_written=way.as_written)], way.method, way.options)
            for name, group in groups.items()
        }
        for what, way in _WAYS.items()
    }


def candidates_of(methods: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Collect by group what the methods find, each threshold once, in ascending order."""
    groups = dict.fromkeys(group for thresholds in methods.values() for group in thresholds)
    return {group: tuple(sorted({thresholds[group] for thresholds in methods.values()})) for group in groups}


def original_targets(trials: Trials, ignored: Collection[str] = ()) -> list[tuple[str, str]]:
    """List the layers that the original's search goes through, each with the group of its top.

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
