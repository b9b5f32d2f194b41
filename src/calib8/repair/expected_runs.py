"""How many samples a repair runs, for its progress."""

from __future__ import annotations

from calib8.repair.bias_correction import BiasCorrection
from calib8.repair.channel_units import ChannelUnits
from calib8.repair.compensated_rounding import CompensatedRounding
from calib8.repair.equalised_channels import EQUALISED
from calib8.repair.guard import Split
from calib8.repair.options import RepairOptions
from calib8.repair.output_noise import OUTPUT_NOISE

MOST_STARTS = 3
"""Where passes may begin: as it is, and with units of channels that were found in two ways."""
_SOLVING = (ChannelUnits.name, CompensatedRounding.name, BiasCorrection.name)
_SOLVED_TOGETHER = (ChannelUnits.name, CompensatedRounding.name)  # see `Work.passes`


def runs_of_samples(sets: int, samples: Split, options: RepairOptions, floored: int, *, refits: bool) -> int:
    """Count the samples that a repair runs, each time anew, for a progress line.

    Args:
        sets: how many sets of thresholds there are.
        floored: on how many samples thresholds are measured with float weights.
        refits: whether weights are refitted; what that runs itself is told apart.
    """
    sets = sets if options.does("thresholds") else 1
    starts = MOST_STARTS if options.does(EQUALISED) else 1
    solving = sum(map(options.does, _SOLVING))
    judging = solving + options.aligns + refits
    judged, floors = 1 + sets + has_moved(options) + judging, 1 + (sets if sets > 1 else 0)
    passes = runs = solving_runs(options, refits=refits)
    if options.does(EQUALISED):
        floors, passes = floors + floors_in_units(sets) + 1, passes + 2
    if options.level == "thorough":
        judged, passes = judged + (starts - 1) * (1 + judging), passes + (starts - 1) * runs
        if options.does(OUTPUT_NOISE):
            judged, passes = judged + 1 + judging, passes + runs
    return judged * samples.guarding + floors * floored + passes * samples.solving


def solving_runs(options: RepairOptions, *, refits: bool) -> int:
    """Count how often the samples to solve on are run for the passes, from where they begin."""
    together = all(map(options.does, _SOLVED_TOGETHER))
    return sum(map(options.does, _SOLVING)) - together + (refits and options.does(BiasCorrection.name))


def has_moved(options: RepairOptions) -> bool:
    """Tell whether the passes may begin with another plan than one that was measured as a set of thresholds."""
    return any(map(options.does, ("exact-pools", "whole-sums", EQUALISED)))


def floors_in_units(sets: int) -> int:
    """Count the plans in units of channels that are measured with float weights, at most."""
    return sets + min(2, sets)
