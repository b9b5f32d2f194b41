"""Repair: from several sets of thresholds to the one plan that loses least.

    thresholds (several) -> the best set -> passes, one after another, refitted weights -> the best of all plans
                        thorough: from other units, and behind a search by output noise, the same again ->

Which thresholds and which units of channels passes begin with is decided by what remains of the error when weights are
float: on samples that nothing was solved on (`guard`) and, of small networks, on others as well. Thresholds come from
all samples alike, and twenty are too few to see a tail. At the end the guard's samples decide which plan is the result:
that behind one of the passes, the contract's own with the thresholds that were begun with, or what there would be
without a repair. So the result is never worse on these samples than the plain contract. All plans have `tail_room`, as
these samples cannot show what it is for: thresholds were found on them, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from calib8.errors import QuantizationError
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.repair.aligned_offsets import ALIGNED
from calib8.repair.channel_units import ChannelUnits
from calib8.repair.equalised_channels import EQUALISED
from calib8.repair.expected_runs import has_moved
from calib8.repair.guard import Split
from calib8.repair.options import RepairOptions
from calib8.repair.output_noise import OUTPUT_NOISE
from calib8.repair.refitted_weights import REFITTED
from calib8.repair.stages import Repaired, Start, ThresholdSets, Told
from calib8.repair.whole_multipliers import WholeMultipliers
from calib8.repair.work import Work

_AS_IT_IS = "as it is"


def _quiet(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def repair(
    model: Model,
    sets: ThresholdSets,
    samples: Split,
    options: RepairOptions = RepairOptions(),
    progress: Told = _quiet,
) -> Repaired:
    """Find the plan that loses least.

    Args:
        model: of one sample.
        sets: what is begun with.
        samples: to solve on, and to choose on.
        progress: told of samples that were run, and, where it is thorough, of values that are done.

    Raises:
        QuantizationError: the contract cannot express the first set of thresholds.
        Calib8Error: what the samples or a layer in Python raise.
    """
    work = Work(model, samples, options, progress, sets)
    sets = sets if work.does("thresholds") else sets.first()
    chosen, floor = _started(work, sets)
    plain = len(work.stages)
    starts = work.starts(chosen, sets, floor)
    _passed_on(work, starts[0], is_new=has_moved(options))
    as_it_is = next(start for start in starts if not start.counted.name)
    if options.level == "standard" and starts[0] is not as_it_is and work.is_broken(plain):
        work.expect_passes()
        _passed_on(work, as_it_is, _AS_IT_IS)
    if options.level == "thorough":
        _thorough(work, _best_start(work, starts, plain), [stage.plan.thresholds for stage in work.stages[:plain]])
    stages = tuple(work.stages)
    begun_with = (
        {sets.names[0], min(floor, key=floor.__getitem__, default="")}
        if work.floored > samples.guarding
        else set(sets.names)
    )
    able = [stage for at, stage in enumerate(stages) if at >= plain or stage.name in begun_with]
    best = min(able, key=lambda stage: stage.noise)
    return Repaired(
        best, stages[:plain], stages[plain:], floor, samples.guarding, work.floored, work.judges_boxes, options.left_out
    )  # fmt: skip


def _started(work: Work, sets: ThresholdSets) -> tuple[Start, dict[str, float]]:
    """Measure sets of thresholds; the plan to repair, and what each of several loses with float weights.

    One plan after the other: those of a large network do not fit into memory together.
    """
    chosen: Start | None = None
    floor: dict[str, float] = {}
    for name in sets.names:
        try:
            plan = sets.plan_of(name)
        except QuantizationError:
            if name == sets.names[0]:
                raise
            continue
        work.stage(name, plan)
        found = work.start(work.passed(WholeMultipliers, plan), partial(_begun, work, sets, name))
        del plan  # where it is not kept, it has to be gone before the next one is made
        if len(sets.names) > 1:
            noise, before = work.floor(found.plan), min(floor.values(), default=math.inf)
            floor[name] = noise
            chosen = found if chosen is None or noise < before else chosen
        else:
            chosen = found
    if chosen is None:
        raise AssertionError("there is a first set of thresholds")
    return chosen, floor if len(floor) > 1 else {}


def _begun(work: Work, sets: ThresholdSets, name: str) -> QuantPlan:
    """Make the plan again that a repair begins with, of a set of thresholds that was measured."""
    return work.passed(WholeMultipliers, work.measured(name) or sets.plan_of(name))


def _passed_on(work: Work, start: Start, name: str = "", *, is_new: bool = True) -> None:
    """Run the passes, and refit weights from where these are rounded; measure the plan behind each.

    Args:
        name: of the stage to begin with, which later ones have before theirs; empty for the first start.
        is_new: whether the plan to begin with has not been measured as a set of thresholds.
    """
    work.counted = start.counted
    before, plan = f"{name}, " if name else "", start.make()
    unrounded = plan
    if is_new:
        work.stage(
            name or (f"{EQUALISED}, {start.counted.name}" if start.counted.name else WholeMultipliers.name), plan
        )
    for together in work.passes():
        observed = work.observed(together, plan)
        for one in together:
            plan = one.apply(work.model, plan, observed.pop(0))  # what a pass has seen goes with it
            work.stage(f"{before}{one.name}", plan)
            unrounded = plan if one.name == ChannelUnits.name else unrounded
    work.stage_aligned(f"{before}{ALIGNED}", plan)
    if work.refits:
        work.stage(f"{before}{REFITTED}", work.refitted(unrounded))


def _best_start(work: Work, starts: Sequence[Start], plain: int) -> Start:
    """Run the passes from all other starts, too; the start that they bring furthest.

    Args:
        plain: how many stages there were before.
    """
    tried = [(min(stage.noise for stage in work.stages[plain:]), starts[0])]
    for start in starts[1:]:
        begun = len(work.stages)
        _passed_on(work, start, start.counted.name or _AS_IT_IS)
        tried.append((min(stage.noise for stage in work.stages[begun:]), start))
    return min(tried, key=lambda one: one[0])[1]


def _thorough(work: Work, start: Start, others: Sequence[Mapping[str, float]]) -> None:
    """Go on from the standard repair, with other thresholds.

    Args:
        start: its plan before the passes.
        others: the sets of thresholds that were measured.
    """
    work.counted = start.counted
    if work.does(OUTPUT_NOISE):
        found = work.searched(start, others)
        _passed_on(work, replace(start, plan=found, make=lambda: found), OUTPUT_NOISE)
