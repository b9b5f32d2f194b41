"""Repair: from several sets of thresholds to the one plan that loses least.

    thresholds (several) -> the best set -> passes, one after another -> the best of all plans on the way
                                 thorough: search by output noise, passes again, refitted weights ->

Every choice is made on samples that nothing was solved on (`guard`): which thresholds, by what remains of the error
when weights are float; and at the end which plan, among those behind each pass and the contract's own of every set of
thresholds. So the result is never worse on these samples than the plain contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calib8.engine import EngineOptions
from calib8.errors import QuantizationError
from calib8.lowering import Model
from calib8.measure.collect import CollectOptions
from calib8.quantize import QuantPlan, replan
from calib8.repair.bias_correction import BiasCorrection
from calib8.repair.channel_units import ChannelUnits
from calib8.repair.compensated_rounding import CompensatedRounding
from calib8.repair.guard import Guard, Split, decibels
from calib8.repair.options import RepairOptions
from calib8.repair.output_noise import OUTPUT_NOISE, search_thresholds
from calib8.repair.passes import PlanPass, run_pass
from calib8.repair.refitted_weights import REFITTED, refit_weights
from calib8.repair.whole_multipliers import WholeMultipliers

RIDGES = (1.0, 4.0)
"""How tightly weights are held when they are refitted; each is tried. See `refitted_weights`."""


_SOLVING = (ChannelUnits.name, CompensatedRounding.name, BiasCorrection.name)
_LARGE = 16 << 20  # weights: as many bytes for each plan that is kept
Told = Callable[[str, int, int], None]
"""Called with what is under way, how much of it is done, and of how much."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A plan on the way.

    Attributes:
        name: of the thresholds, or of the pass that has made it.
        plan: of a network of more than 16 million weights without its integers, unless it is the best.
        noise: on the guard's samples; see `guard`.
    """

    name: str
    plan: QuantPlan
    noise: float

    @property
    def decibels(self) -> float:
        """Signal over noise."""
        return decibels(self.noise)


@dataclass(frozen=True, eq=False)
class Repaired:
    """What a repair has found.

    Attributes:
        best: the stage with the least noise; its plan is the result.
        plain: the contract's own plans, one for each set of thresholds, the one that there would be without a repair
            first.
        stages: the plans behind each pass, in order.
        floor: noise that is left with float weights, by set of thresholds.
        guarding: how many samples chose.
        with_boxes: whether noise is the mean of that of values and that of decoded boxes.
    """

    best: Stage
    plain: tuple[Stage, ...]
    stages: tuple[Stage, ...]
    floor: Mapping[str, float]
    guarding: int
    with_boxes: bool = False

    def lines(self) -> list[str]:
        """Say what was chosen, and what it gained."""
        first = self.plain[0]
        floors = ", ".join(f"{name} {decibels(noise):.1f} dB" for name, noise in self.floor.items())
        measure = (
            "signal to noise of values and of decoded boxes, in the mean," if self.with_boxes else "signal to noise"
        )
        found = [f"{measure} of {self.guarding} samples that were held out, all layers in INT8:"]
        found += [f"  {stage.name:<36}{stage.decibels:6.1f} dB" for stage in (*self.plain, *self.stages)]
        if floors:
            found.append(f"with float weights: {floors}")
        gain = self.best.decibels - first.decibels
        return [*found, f"chosen: {self.best.name}, {gain:+.1f} dB against {first.name}"]


def runs_of_samples(sets: int, samples: Split, options: RepairOptions) -> int:
    """Count the samples that a repair runs, each time anew, for a progress line.

    Args:
        sets: how many sets of thresholds there are.
    """
    sets = 1 if "thresholds" in options.without else sets
    solving = sum(name not in options.without for name in _SOLVING)
    judged = 1 + sets + (sets if sets > 1 else 0) + 1 + solving
    passes = solving
    if options.level == "thorough":
        if OUTPUT_NOISE not in options.without:
            judged, passes = judged + 1 + solving + 2, passes + solving
        if REFITTED not in options.without:
            judged += len(RIDGES)
            passes += len(RIDGES) if BiasCorrection.name not in options.without else 0
    return judged * samples.guarding + passes * samples.solving


def _quiet(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


PlanOf = Callable[[str], QuantPlan]
"""From the name of a set of thresholds to its plan."""


def repair(
    model: Model,
    names: Sequence[str],
    plan_of: PlanOf,
    samples: Split,
    options: RepairOptions = RepairOptions(),
    progress: Told = _quiet,
) -> Repaired:
    """Find the plan that loses least.

    Args:
        model: of one sample.
        names: of sets of thresholds; the first one is what the plan without a repair has, and has to be possible.
        samples: to solve on, and to choose on.
        progress: told of samples that were run, and, where it is thorough, of values that are done.

    Raises:
        QuantizationError: the contract cannot express the first set of thresholds.
        Calib8Error: what the samples or a layer in Python raise.
    """
    work = _Work(model, samples, options, progress, runs_of_samples(len(names), samples, options))
    start, floor = _started(work, names if work.does("thresholds") else names[:1], plan_of)
    plain = len(work.stages)
    units = _passed_on(work, WholeMultipliers.name, start)
    if options.level == "thorough":
        _thorough(work, start, units, [stage.plan.thresholds for stage in work.stages[:plain]])
    stages, best = tuple(work.stages), min(work.stages, key=lambda stage: stage.noise)
    return Repaired(best, stages[:plain], stages[plain:], floor, samples.guarding, work.judges_boxes)


def _started(work: _Work, names: Sequence[str], plan_of: PlanOf) -> tuple[QuantPlan, dict[str, float]]:
    """Measure sets of thresholds; the plan to repair, and what each of several loses with float weights.

    One plan after the other: those of a large network do not fit into memory together.
    """
    chosen: QuantPlan | None = None
    floor: dict[str, float] = {}
    for name in names:
        try:
            plan = plan_of(name)
        except QuantizationError:
            if name == names[0]:
                raise
            continue
        work.stage(name, plan)
        start = work.passed(WholeMultipliers, plan)
        if len(names) > 1:
            noise, before = work.floor(start), min(floor.values(), default=math.inf)
            floor[name] = noise
            chosen = start if chosen is None or noise < before else chosen
        else:
            chosen = start
    if chosen is None:
        raise AssertionError("there is a first set of thresholds")
    return chosen, floor if len(floor) > 1 else {}


def _passed_on(work: _Work, name: str, plan: QuantPlan) -> QuantPlan:
    """Run the passes over a plan, and measure it behind each; the plan with its channels' units is returned.

    Args:
        name: of the stage to begin with; later ones that are no pass's alone have it before theirs.
    """
    before = "" if name == WholeMultipliers.name else f"{name}, "
    work.stage(name, plan)
    units = plan
    for one in work.passes():
        plan = work.run(one, plan)
        work.stage(f"{before}{one.name}", plan)
        units = plan if one.name == ChannelUnits.name else units
    return units


def _thorough(work: _Work, start: QuantPlan, units: QuantPlan, others: Sequence[Mapping[str, float]]) -> None:
    """Go on from the standard repair.

    Args:
        start, units: its plan before the passes, and that with units of channels.
        others: the sets of thresholds that were measured.
    """
    if work.does(OUTPUT_NOISE):
        searched = _passed_on(work, OUTPUT_NOISE, work.searched(start, others))
        units = min((units, searched), key=work.floor)
    for ridge in RIDGES if work.does(REFITTED) else ():
        work.stage(f"{REFITTED}, {ridge:g}", work.refitted(units, ridge))


class _Work:
    """Runs passes and measures plans, and counts samples for the progress."""

    def __init__(self, model: Model, samples: Split, options: RepairOptions, progress: Told, total: int) -> None:
        self._model, self._samples, self._options, self._progress = model, samples, options, progress
        self.stages: list[Stage] = []
        self._done, self._total = 0, total
        self._large = sum(blob.size for layer in model.net.layers for blob in layer.blobs) > _LARGE
        self._guard = Guard(model, samples.guard, options.threads)
        self._count(samples.guarding)

    def does(self, name: str) -> bool:
        """Tell whether a part is wanted."""
        return name not in self._options.without

    @property
    def judges_boxes(self) -> bool:
        """Whether decoded boxes are judged, too."""
        return self._guard.judges_boxes

    def passes(self) -> list[PlanPass[Any]]:
        """Make the passes that solve on samples, in their order."""
        solving = self._samples.solving
        known: tuple[PlanPass[Any], ...] = (ChannelUnits(solving), CompensatedRounding(solving), BiasCorrection())
        return [one for one in known if self.does(one.name)]

    def passed(self, kind: type[WholeMultipliers], plan: QuantPlan) -> QuantPlan:
        """Run the pass that observes nothing."""
        return kind(self.does("exact-pools"), self.does("whole-sums")).apply(self._model, plan, {})

    def run(self, one: PlanPass[Any], plan: QuantPlan) -> QuantPlan:
        """Run a pass over the samples to solve on."""
        options = CollectOptions(engine=EngineOptions(threads=self._options.threads))
        before = self._done
        found = run_pass(
            one, self._model, plan, self._samples.solve, options, lambda done: self._count(before + done - self._done)
        )
        self._count(before + self._samples.solving - self._done)
        return found

    def searched(self, plan: QuantPlan, others: Sequence[Mapping[str, float]]) -> QuantPlan:
        """Search thresholds by the noise at the outputs."""
        found = search_thresholds(
            self._model, plan, others, self._samples.solve, self._samples.solving_runs, self._options.threads,
            lambda done, total: self._progress("searching thresholds", done, total),
        )  # fmt: skip
        return self.passed(WholeMultipliers, replan(self._model, plan, found.changes))

    def refitted(self, plan: QuantPlan, ridge: float) -> QuantPlan:
        """Refit weights, and see to the mean errors of what is left."""
        found = refit_weights(
            self._model, plan, ridge, self._samples.solve, self._samples.solving_runs, self._options.threads,
            lambda done, total: self._progress(f"refitting weights, {ridge:g}", done, total),
        )  # fmt: skip
        return self.run(BiasCorrection(), found) if self.does(BiasCorrection.name) else found

    def stage(self, name: str, plan: QuantPlan) -> None:
        """Measure a plan."""
        noise = self._guard.noise(plan)
        self._count(self._samples.guarding)
        self.stages.append(Stage(name, plan, noise))
        if self._large:
            best = min(self.stages, key=lambda stage: stage.noise)
            self.stages = [s if s is best else replace(s, plan=replace(s.plan, forms={})) for s in self.stages]

    def floor(self, plan: QuantPlan) -> float:
        """Measure its thresholds."""
        noise = self._guard.noise_of_values(plan)
        self._count(self._samples.guarding)
        return noise

    def _count(self, samples: int) -> None:
        self._done += samples
        self._progress("repairing", self._done, self._total)
