"""Repair: from several sets of thresholds to the one plan that loses least.

    thresholds (several) -> the best set -> passes, one after another -> the best of all plans on the way
                                 thorough: search by output noise, passes again, refitted weights ->

Which thresholds and which units of channels passes begin with is decided by what remains of the error when weights are
float: on samples that nothing was solved on (`guard`) and, of small networks, on others as well. Thresholds come from
all samples alike, and twenty are too few to see a tail. At the end the guard's samples decide which plan is the result:
that behind one of the passes, the contract's own with the thresholds that were begun with, or what there would be
without a repair. So the result is never worse on these samples than the plain contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from calib8.engine import EngineOptions
from calib8.errors import QuantizationError
from calib8.layer_kit.form import SameCodes
from calib8.lowering import Model
from calib8.measure.collect import CollectOptions, collect
from calib8.measure.counters import Counter
from calib8.measure.histogram import BlobHistogram
from calib8.quantize import QuantPlan, make_plan, replan
from calib8.repair.bias_correction import BiasCorrection
from calib8.repair.channel_units import ChannelUnits
from calib8.repair.compensated_rounding import CompensatedRounding
from calib8.repair.equalised_channels import (
    CLEARLY,
    EQUALISED,
    LEAST_NOISE,
    WORTH_IT,
    EqualisedChannels,
    InChannelUnits,
    Units,
)
from calib8.repair.guard import Guard, Split, decibels
from calib8.repair.options import RepairOptions
from calib8.repair.output_noise import OUTPUT_NOISE, products_of_a_run, search_thresholds
from calib8.repair.passes import PlanPass, observe
from calib8.repair.refitted_weights import REFITTED, refit_weights
from calib8.repair.whole_multipliers import WholeMultipliers

RIDGES = (1.0, 4.0)
"""How tightly weights are held when they are refitted; each is tried. See `refitted_weights`."""


_SOLVING = (ChannelUnits.name, CompensatedRounding.name, BiasCorrection.name)
_SOLVED_TOGETHER = (ChannelUnits.name, CompensatedRounding.name)  # see `_Work.passes`
_MOST_STARTS = 3  # as it is, and with units of channels that were found in two ways
_BROKEN = 4.0  # times the noise
_AS_IT_IS = "as it is"
_FLOOR_PRODUCTS = 1e9  # of the samples beside the guard's that thresholds are measured on, each time
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
        in_units: distributions of |x|, each channel in its unit, of the values that equalised channels are of.
    """

    name: str
    plan: QuantPlan
    noise: float
    in_units: Mapping[str, BlobHistogram] = field(default_factory=dict)

    @property
    def decibels(self) -> float:
        """Signal over noise."""
        return decibels(self.noise)


@dataclass(frozen=True, eq=False)
class Repaired:
    """What a repair has found.

    Attributes:
        best: the stage with the least noise of those that can be the result; see the module's text.
        plain: the contract's own plans, one for each set of thresholds, the one that there would be without a repair
            first.
        stages: the plans behind each pass, in order.
        floor: noise that is left with float weights, by set of thresholds.
        guarding: how many samples chose.
        floored: on how many samples the floor was measured; see the module's text.
        with_boxes: whether noise is the mean of that of values and that of decoded boxes.
        left_out: parts that would have moved thresholds, where these were given and are kept.
    """

    best: Stage
    plain: tuple[Stage, ...]
    stages: tuple[Stage, ...]
    floor: Mapping[str, float]
    guarding: int
    floored: int
    with_boxes: bool = False
    left_out: tuple[str, ...] = ()

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
            more = f", of {self.floored} samples, which choose the thresholds" if self.floored > self.guarding else ""
            found.append(f"with float weights{more}: {floors}")
        if self.left_out:
            found.append(f"thresholds stay as they are given; left out, as they move them: {', '.join(self.left_out)}")
        gain = self.best.decibels - first.decibels
        return [*found, f"chosen: {self.best.name}, {gain:+.1f} dB against {first.name}"]


def runs_of_samples(sets: int, samples: Split, options: RepairOptions, floored: int) -> int:
    """Count the samples that a repair runs, each time anew, for a progress line.

    Args:
        sets: how many sets of thresholds there are.
        floored: on how many samples thresholds are measured with float weights.
    """
    sets = sets if options.does("thresholds") else 1
    starts = _MOST_STARTS if options.does(EQUALISED) else 1
    solving = sum(map(options.does, _SOLVING))
    judged, floors = 1 + sets + _has_moved(options) + solving, 1 + (sets if sets > 1 else 0)
    passes = runs = solving - all(map(options.does, _SOLVED_TOGETHER))
    if options.does(EQUALISED):
        floors, passes = floors + _floors_in_units(sets) + (sets == 1), passes + 2
    if options.level == "thorough":
        judged, passes = judged + (starts - 1) * (1 + solving), passes + (starts - 1) * runs
        if options.does(OUTPUT_NOISE):
            judged, floors, passes = judged + 1 + solving, floors + 2, passes + runs
        if options.does(REFITTED):
            judged += len(RIDGES)
            passes += len(RIDGES) if options.does(BiasCorrection.name) else 0
    return judged * samples.guarding + floors * floored + passes * samples.solving


def _has_moved(options: RepairOptions) -> bool:
    """Tell whether the passes may begin with another plan than one that was measured as a set of thresholds."""
    return any(map(options.does, ("exact-pools", "whole-sums", EQUALISED)))


def _floors_in_units(sets: int) -> int:
    """Count the plans in units of channels that are measured with float weights, at most."""
    return sets + min(2, sets)


def _quiet(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class ThresholdSets:
    """Sets of thresholds that are tried.

    Attributes:
        names: the first one is what the plan without a repair has, and has to be possible.
        plan_of: from a name to the contract's own plan.
        threshold_of: from a name, and a distribution that no plan has been made of yet, to a threshold.
        nan: whether samples may make a value NaN; where it is known that none does, the repair takes less time.
    """

    names: Sequence[str]
    plan_of: Callable[[str], QuantPlan]
    threshold_of: Callable[[str, BlobHistogram], float]
    nan: bool = True

    def first(self) -> ThresholdSets:
        """Return the first one alone."""
        return replace(self, names=self.names[:1])


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
    work = _Work(model, samples, options, progress, len(sets.names), nan=sets.nan)
    sets = sets if work.does("thresholds") else sets.first()
    chosen, floor = _started(work, sets)
    plain = len(work.stages)
    starts = work.starts(chosen, sets, floor)
    units = _passed_on(work, starts[0], is_new=_has_moved(options))
    as_it_is = next(start for start in starts if not start.counted.name)
    if options.level == "standard" and starts[0] is not as_it_is and work.is_broken(plain):
        work.expect_passes()
        _passed_on(work, as_it_is, _AS_IT_IS)
    if options.level == "thorough":
        start, units = _best_start(work, starts, units, plain)
        _thorough(work, start, units, [stage.plan.thresholds for stage in work.stages[:plain]])
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


@dataclass(frozen=True, eq=False)
class Counted:
    """How channels are counted.

    Attributes:
        name: how their units were chosen; empty for none.
        network: in these units.
        in_units: as `Stage` has it.
    """

    name: str
    network: InChannelUnits
    in_units: Mapping[str, BlobHistogram] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Start:
    """Where passes may begin.

    Attributes:
        counted: the network.
        plan: before the passes; of a large network without the integers of its layers: only whether a layer has some.
        make: makes it with them.
        noise: with float weights, where it was measured.
    """

    counted: Counted
    plan: QuantPlan
    make: Callable[[], QuantPlan]
    noise: float = math.inf


def _started(work: _Work, sets: ThresholdSets) -> tuple[Start, dict[str, float]]:
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


def _begun(work: _Work, sets: ThresholdSets, name: str) -> QuantPlan:
    """Make the plan again that a repair begins with, of a set of thresholds that was measured."""
    return work.passed(WholeMultipliers, work.measured(name) or sets.plan_of(name))


def _passed_on(work: _Work, start: Start, name: str = "", *, is_new: bool = True) -> QuantPlan:
    """Run the passes, and measure the plan behind each; that with units before BatchNorms is returned.

    Args:
        name: of the stage to begin with, which later ones have before theirs; empty for the first start.
        is_new: whether the plan to begin with has not been measured as a set of thresholds.
    """
    work.counted = start.counted
    before, plan = f"{name}, " if name else "", start.make()
    units = plan
    if is_new:
        work.stage(
            name or (f"{EQUALISED}, {start.counted.name}" if start.counted.name else WholeMultipliers.name), plan
        )
    for together in work.passes():
        for one, observed in zip(together, work.observed(together, plan), strict=True):
            plan = one.apply(work.model, plan, observed)
            work.stage(f"{before}{one.name}", plan)
            units = plan if one.name == ChannelUnits.name else units
    return units


def _best_start(work: _Work, starts: Sequence[Start], units: QuantPlan, plain: int) -> tuple[Start, QuantPlan]:
    """Run the passes from all other starts, too; the start that they bring furthest, with units before BatchNorms.

    Args:
        units: what they have made of the first one.
        plain: how many stages there were before.
    """
    tried = [(min(stage.noise for stage in work.stages[plain:]), starts[0], units)]
    for start in starts[1:]:
        begun = len(work.stages)
        units = _passed_on(work, start, start.counted.name or _AS_IT_IS)
        tried.append((min(stage.noise for stage in work.stages[begun:]), start, units))
    return min(tried, key=lambda one: one[0])[1:]


def _thorough(work: _Work, start: Start, units: QuantPlan, others: Sequence[Mapping[str, float]]) -> None:
    """Go on from the standard repair.

    Args:
        start, units: its plan before the passes, and that with units of channels.
        others: the sets of thresholds that were measured.
    """
    work.counted = start.counted
    if work.does(OUTPUT_NOISE):
        found = work.searched(start.make(), others)
        searched = _passed_on(work, replace(start, plan=found, make=lambda: found), OUTPUT_NOISE)
        units = min((units, searched), key=work.floor)
    for ridge in RIDGES if work.does(REFITTED) else ():
        work.stage(f"{REFITTED}, {ridge:g}", work.refitted(units, ridge))


class _Work:
    """Runs passes and measures plans, and counts samples for the progress.

    Args:
        sets: how many sets of thresholds there are.
        nan: whether samples may make a value NaN.

    Attributes:
        floored: on how many samples thresholds are measured with float weights.
        counted: how the channels of the network that is gone on with are counted.
        stages: what was measured so far.
    """

    def __init__(
        self, model: Model, samples: Split, options: RepairOptions, progress: Told, sets: int, *, nan: bool
    ) -> None:
        self._samples, self._options, self._progress, self._nan = samples, options, progress, nan
        self.counted = Counted("", InChannelUnits(model))
        self.stages: list[Stage] = []
        self._large = sum(blob.size for layer in model.net.layers for blob in layer.blobs) > _LARGE
        more = min(samples.solving_runs, int(_FLOOR_PRODUCTS / max(products_of_a_run(model), 1)))
        if self._large or 2 * more * samples.per_run < samples.guarding:  # a few more are not worth another FP32 pass
            more = 0
        self.floored = samples.guarding + more * samples.per_run
        self._done, self._total = 0, runs_of_samples(sets, samples, options, self.floored)
        self._guard = Guard(model, samples.guard, options.threads, nan=nan)
        self._count(samples.guarding)
        self._wide = Guard(model, samples.wider(more), options.threads, nan=nan) if more else self._guard
        self._count(self.floored)

    @property
    def model(self) -> Model:
        """The network that is gone on with, its channels counted as `counted` says."""
        return self.counted.network.model

    def does(self, name: str) -> bool:
        """Tell whether a part is wanted."""
        return self._options.does(name)

    @property
    def judges_boxes(self) -> bool:
        """Whether decoded boxes are judged, too."""
        return self._guard.judges_boxes

    def passes(self) -> list[list[PlanPass[Any]]]:
        """Make the passes that solve on samples, in their order; those that are observed together are in one list.

        What compensated rounding looks at are bottoms of layers with weights, and units of channels are those of values
        that only a BatchNorm reads: neither their thresholds nor what they hold in FP32 are moved.
        """
        solving = self._samples.solving
        known: tuple[tuple[PlanPass[Any], ...], ...] = (
            (ChannelUnits(solving), CompensatedRounding(solving)),
            (BiasCorrection(),),
        )
        wanted = [[one for one in together if self.does(one.name)] for together in known]
        return [together for together in wanted if together]

    def passed(self, kind: type[WholeMultipliers], plan: QuantPlan) -> QuantPlan:
        """Run the pass that observes nothing."""
        return kind(self.does("exact-pools"), self.does("whole-sums")).apply(self.model, plan, {})

    def starts(self, as_it_is: Start, sets: ThresholdSets, floor: Mapping[str, float]) -> list[Start]:
        """Find where passes can begin, the best first: in units of channels, chosen in one way or another, or as it is.

        Args:
            as_it_is: the network without units.
            sets: thresholds are found in the distributions of channels in units as each of them finds its own.
            floor: what those sets lose that were measured.
        """
        if not self.does(EQUALISED):
            return [as_it_is]
        choice, measured = EqualisedChannels(self.model, as_it_is.plan), _floors_in_units(len(sets.names))
        if not choice.counters:
            self._count(2 * self._samples.solving + (measured + (not floor)) * self.floored)
            return self._all_of([as_it_is])
        self._observe(choice.counters)
        ways = choice.ways()
        self._observe(ways.counters)
        as_it_is = replace(as_it_is, noise=min(floor.values()) if floor else self.floor(as_it_is.plan))
        found = self._in_units(ways.least_noise, as_it_is, sets, sets.names)
        # Most of what one way has shown holds for the other one.
        noise = {name: start.noise for name, start in found.items()}
        likely = dict.fromkeys(min(of, key=of.__getitem__) for of in (floor, noise) if of) or sets.names[:1]
        others = self._in_units(ways.by_range, as_it_is, sets, likely)
        self._count((measured - len(sets.names) - len(likely)) * self.floored)
        best = [min(one.values(), key=lambda start: start.noise) for one in (found, others) if one]
        # What weights lose is not in these figures, and the first way is the one that sees to them.
        best.sort(key=lambda start: start.noise * (CLEARLY if start.counted.name == LEAST_NOISE else 1))
        worth_it = [start for start in best if start.noise < as_it_is.noise * WORTH_IT]
        return self._all_of([*worth_it, as_it_is, *(start for start in best if start not in worth_it)])

    def _all_of(self, starts: list[Start]) -> list[Start]:
        """Count those that there might have been as done, and give what there is."""
        if self._options.level == "thorough":
            passes = self.passes()
            judged = 1 + sum(map(len, passes))
            each = judged * self._samples.guarding + len(passes) * self._samples.solving
            self._count((_MOST_STARTS - len(starts)) * each)
        return starts

    def _in_units(self, units: Units, as_it_is: Start, sets: ThresholdSets, names: Iterable[str]) -> dict[str, Start]:
        """Measure these sets of thresholds with channels in units, as far as the contract can express them."""
        found: dict[str, Start] = {}
        before, self.counted = as_it_is.plan, Counted(units.name, units.network(), units.histograms)

        def made(name: str) -> QuantPlan:
            thresholds = {**before.thresholds, **units.thresholds(partial(sets.threshold_of, name))}
            plan = make_plan(self.model, thresholds, before.enable_concat_quantize)
            return self.passed(WholeMultipliers, plan)

        for name in names:
            try:
                start = self.start(made(name), partial(made, name))
            except QuantizationError:
                self._count(self.floored)
                continue
            found[name] = replace(start, noise=self.floor(start.plan))
        self.counted = as_it_is.counted
        return found

    def _observe(self, counters: Mapping[str, Counter]) -> None:
        """Show counters the samples to solve on."""
        options, count = CollectOptions(engine=EngineOptions(threads=self._options.threads)), self._counting()
        collect(self.model, self._samples.solve, counters, options, count)
        count(self._samples.solving)

    def _counting(self) -> Callable[[int], None]:
        """Give what counts the samples of a pass, told how many are done."""
        before = self._done
        return lambda done: self._count(before + done - self._done)

    def observed(self, passes: Sequence[PlanPass[Any]], plan: QuantPlan) -> list[dict[str, Any]]:
        """Run the samples to solve on, and give what each pass asks for."""
        options, count = CollectOptions(engine=EngineOptions(threads=self._options.threads)), self._counting()
        found = observe(passes, self.model, plan, self._samples.solve, options, count)
        count(self._samples.solving)
        return found

    def searched(self, plan: QuantPlan, others: Sequence[Mapping[str, float]]) -> QuantPlan:
        """Search thresholds by the noise at the outputs."""
        found = search_thresholds(
            self.model, plan, others, self._samples.solve, self._samples.solving_runs, self._options.threads,
            lambda done, total: self._progress("searching thresholds", done, total), nan=self._nan,
        )  # fmt: skip
        return self.passed(WholeMultipliers, replan(self.model, plan, found.changes))

    def refitted(self, plan: QuantPlan, ridge: float) -> QuantPlan:
        """Refit weights, and see to the mean errors of what is left."""
        found = refit_weights(
            self.model, plan, ridge, self._samples.solve, self._samples.solving_runs, self._options.threads,
            lambda done, total: self._progress(f"refitting weights, {ridge:g}", done, total),
        )  # fmt: skip
        if not self.does(BiasCorrection.name):
            return found
        correction = BiasCorrection()
        return correction.apply(self.model, found, self.observed([correction], found)[0])

    def is_broken(self, plain: int) -> bool:
        """Tell whether the plan that passes began with is far worse in INT8 than plans without units.

        Float weights say nothing of biases that 16 bits do not hold: where units make a top small, some are clamped.

        Args:
            plain: how many stages there were before.
        """
        return self.stages[plain].noise > _BROKEN * min(stage.noise for stage in self.stages[:plain])

    def expect_passes(self) -> None:
        """Expect them once more, for the progress."""
        passes = self.passes()
        self._total += (1 + sum(map(len, passes))) * self._samples.guarding + len(passes) * self._samples.solving

    def stage(self, name: str, plan: QuantPlan) -> None:
        """Measure a plan."""
        plan = self.counted.network.real(plan)
        noise = self._guard.noise(plan)
        self._count(self._samples.guarding)
        self.stages.append(Stage(name, plan, noise, self.counted.in_units))
        if self._large:
            best = min(self.stages, key=lambda stage: stage.noise)
            self.stages = [s if s is best else replace(s, plan=replace(s.plan, forms={})) for s in self.stages]

    def floor(self, plan: QuantPlan) -> float:
        """Measure its thresholds."""
        noise = self._wide.noise_of_values(self.counted.network.real(plan))
        self._count(self.floored)
        return noise

    def measured(self, name: str) -> QuantPlan | None:
        """Give the plan of a stage, where it still has its integers."""
        return next((stage.plan for stage in self.stages if stage.name == name and stage.plan.forms), None)

    def start(self, plan: QuantPlan, make: Callable[[], QuantPlan]) -> Start:
        """Keep a plan of the network that is gone on with; of a large one how it is made again."""
        if not self._large:
            return Start(self.counted, plan, lambda: plan)
        has_integers = {name: None if form is None else SameCodes() for name, form in plan.forms.items()}
        return Start(self.counted, replace(plan, forms=has_integers), make)

    def _count(self, samples: int) -> None:
        self._done += samples
        self._progress("repairing", self._done, self._total)
