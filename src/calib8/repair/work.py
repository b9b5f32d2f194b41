"""What a repair does one after another: it runs passes, measures plans, and finds where passes can begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from calib8.engine import EngineOptions
from calib8.errors import QuantizationError
from calib8.layer_kit.form import SameCodes
from calib8.lowering import Model
from calib8.measure.collect import CollectOptions, collect
from calib8.measure.counters import Counter
from calib8.quantize import QuantPlan, make_plan, replan
from calib8.repair.aligned_offsets import AlignedOffsets
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
from calib8.repair.expected_runs import MOST_STARTS, floors_in_units, runs_of_samples, solving_runs
from calib8.repair.guard import Guard, Split
from calib8.repair.options import RepairOptions
from calib8.repair.output_noise import products_of_a_run, search_thresholds
from calib8.repair.passes import PlanPass, observe
from calib8.repair.refitted_weights import REFITTED, refit_weights
from calib8.repair.stages import Counted, Stage, Start, ThresholdSets, Told
from calib8.repair.tail_room import TAIL_ROOM
from calib8.repair.whole_factors import whole_factors
from calib8.repair.whole_multipliers import WholeMultipliers

_BROKEN = 4.0  # times the noise
_FLOOR_PRODUCTS = 1e9  # of the samples beside the guard's that thresholds are measured on, each time
_LARGE = 16 << 20  # weights: as many bytes for each plan that is kept
_REFITTED_AT_ONCE = 32 << 20  # weights that are refitted in seconds: 23 for the 25 million of a ResNet-50


class Work:
    """Runs passes and measures plans, and counts samples for the progress.

    Args:
        sets: of thresholds, all that there are.

    Attributes:
        floored: on how many samples thresholds are measured with float weights.
        counted: how the channels of the network that is gone on with are counted.
        stages: what was measured so far.
    """

    def __init__(
        self, model: Model, samples: Split, options: RepairOptions, progress: Told, sets: ThresholdSets
    ) -> None:
        self._samples, self._options, self._progress, self._sets = samples, options, progress, sets
        self.counted = Counted("", InChannelUnits(model))
        self.stages: list[Stage] = []
        weights = sum(blob.size for layer in model.net.layers for blob in layer.blobs)
        self._large, self._many = weights > _LARGE, weights > _REFITTED_AT_ONCE
        more = min(samples.solving_runs, int(_FLOOR_PRODUCTS / max(products_of_a_run(model), 1)))
        if self._large or 2 * more * samples.per_run < samples.guarding:  # a few more are not worth another FP32 pass
            more = 0
        self.floored = samples.guarding + more * samples.per_run
        self._done = 0
        self._total = runs_of_samples(len(sets.names), samples, options, self.floored, refits=self.refits)
        self._guard = Guard(model, samples.guard, options.threads, nan=sets.nan)
        self._count(samples.guarding)
        self._wide = Guard(model, samples.wider(more), options.threads, nan=sets.nan) if more else self._guard
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

    @property
    def refits(self) -> bool:
        """Whether weights are refitted: many of them take minutes."""
        return self.does(REFITTED) and (self._options.level == "thorough" or not self._many)

    def passes(self) -> list[list[PlanPass[Any]]]:
        """Make the passes that solve on samples, in their order; those that are observed together are in one list.

        What compensated rounding looks at are bottoms of layers with weights, and units of channels are those of values
        that only a BatchNorm reads: neither their thresholds nor what they hold in FP32 are moved.
        """
        solving = self._samples.solving
        units = ChannelUnits(solving, aligns=self._options.aligns, has_room=self.does(TAIL_ROOM))
        known: tuple[tuple[PlanPass[Any], ...], ...] = (
            (units, CompensatedRounding(solving)),
            (BiasCorrection(),),
        )
        wanted = [[one for one in together if self.does(one.name)] for together in known]
        return [together for together in wanted if together]

    def passed(self, kind: type[WholeMultipliers], plan: QuantPlan) -> QuantPlan:
        """Run the pass that observes nothing."""
        return kind(self.does("exact-pools"), self.does("whole-sums")).apply(self.model, plan, {})

    def stage_aligned(self, name: str, plan: QuantPlan) -> None:
        """Measure a plan with its offsets aligned, where they can be."""
        if self._options.aligns:
            aligned = self.aligned(plan)
            if aligned is plan:
                self._count(self._samples.guarding)
            else:
                self.stage(name, aligned)

    def aligned(self, plan: QuantPlan) -> QuantPlan:
        """Run the last pass, which observes nothing, where it is wanted."""
        return AlignedOffsets().apply(self.model, plan, {}) if self._options.aligns else plan

    def starts(self, as_it_is: Start, sets: ThresholdSets, floor: Mapping[str, float]) -> list[Start]:
        """Find where passes can begin, the best first: in units of channels, chosen in one way or another, or as it is.

        Args:
            as_it_is: the network without units.
            sets: thresholds are found in the distributions of channels in units as each of them finds its own.
            floor: what those sets lose that were measured.
        """
        if not self.does(EQUALISED):
            return [as_it_is]
        choice = EqualisedChannels(self.model, as_it_is.plan, has_room=self.does(TAIL_ROOM))
        measured = floors_in_units(len(sets.names))
        if not choice.counters:
            self._count(2 * self._samples.solving + (measured + 1) * self.floored)
            return self._all_of([as_it_is])
        self._observe(choice.counters)
        ways = choice.ways()
        self._observe(ways.counters)
        as_it_is = self._with_room(as_it_is, choice, min(floor.values(), default=None))
        found, noise = self._in_units(ways.least_noise, as_it_is, sets, sets.names)
        # Most of what one way has shown holds for the other one.
        likely = dict.fromkeys(min(of, key=of.__getitem__) for of in (floor, noise) if of) or sets.names[:1]
        other, _ = self._in_units(ways.by_range, as_it_is, sets, likely)
        self._count((measured - len(sets.names) - len(likely)) * self.floored)
        best = [start for start in (found, other) if start is not None]
        # What weights lose is not in these figures, and the first way is the one that sees to them.
        best.sort(key=lambda start: start.noise * (CLEARLY if start.counted.name == LEAST_NOISE else 1))
        worth_it = [start for start in best if start.noise < as_it_is.noise * WORTH_IT]
        return self._all_of([*worth_it, as_it_is, *(start for start in best if start not in worth_it)])

    def _with_room(self, before: Start, choice: EqualisedChannels, noise: float | None) -> Start:
        """Give a start without units room for what was not seen, where the contract can express it; and measure it.

        Args:
            noise: of the start, where it is known.
        """
        room, start = choice.room(before.plan.thresholds), before

        def made() -> QuantPlan:
            return self.passed(WholeMultipliers, replan(self.model, before.make(), room))

        if room:
            with suppress(QuantizationError):
                start, noise = replace(self.start(made(), made), least=room), None
        if noise is None:
            noise = self.floor(start.plan)
        else:
            self._count(self.floored)
        return replace(start, noise=noise)

    def _all_of(self, starts: list[Start]) -> list[Start]:
        """Count those that there might have been as done, and give what there is."""
        if self._options.level == "thorough":
            self._count((MOST_STARTS - len(starts)) * self._samples_of_passes)
        return starts

    def _in_units(
        self, units: Units, as_it_is: Start, sets: ThresholdSets, names: Iterable[str]
    ) -> tuple[Start | None, dict[str, float]]:
        """Measure these sets of thresholds with channels in units, as far as the contract can express them.

        Returns:
            The best start, which alone keeps its network; and the noise of each.
        """
        best: Start | None = None
        noise: dict[str, float] = {}
        before, counted = as_it_is.plan, Counted(units.name, units.network(), units.histograms)

        def made(name: str) -> QuantPlan:
            """Make the plan of a set of thresholds, in these units or in those that make factors whole."""
            thresholds = {**before.thresholds, **units.thresholds(partial(sets.threshold_of, name))}
            self.counted = counted
            plan = make_plan(self.model, thresholds, before.enable_concat_quantize)
            times = whole_factors(self.model, plan, units.classes)
            if times is not None:
                self.counted = replace(counted, network=units.network(times))
                plan = make_plan(self.model, thresholds, before.enable_concat_quantize)
            return self.passed(WholeMultipliers, plan)

        for name in names:
            try:
                start = self.start(made(name), partial(made, name))
            except QuantizationError:
                self._count(self.floored)
                continue
            noise[name] = self.floor(start.plan)
            if best is None or noise[name] < best.noise:
                best = replace(start, noise=noise[name], least=units.raised(partial(sets.threshold_of, name)))
        self.counted = as_it_is.counted
        return best, noise

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

    def searched(self, start: Start, others: Sequence[Mapping[str, float]]) -> QuantPlan:
        """Search thresholds by the noise at the outputs."""
        plan = start.make()
        found = search_thresholds(
            self.model, plan, others, self._samples.solve, self._samples.solving_runs, self._options.threads,
            lambda done, total: self._progress("searching thresholds", done, total),
            least={**self._sets.least, **start.least}, nan=self._sets.nan,
        )  # fmt: skip
        return self.passed(WholeMultipliers, replan(self.model, plan, found.changes))

    def refitted(self, plan: QuantPlan) -> QuantPlan:
        """Refit weights, and see to the mean errors of what is left."""
        found = refit_weights(
            self.model, plan, self._samples.solve, self._samples.solving_runs, self._options.threads,
            lambda done, total: self._progress("refitting weights", done, total), aligns=self._options.aligns,
        )  # fmt: skip
        if self.does(BiasCorrection.name):
            correction = BiasCorrection()
            found = correction.apply(self.model, found, self.observed([correction], found)[0])
        return self.aligned(found)

    def is_broken(self, plain: int) -> bool:
        """Tell whether the plan that passes began with is far worse in INT8 than plans without units.

        Float weights say nothing of biases that 16 bits do not hold: where units make a top small, some are clamped.

        Args:
            plain: how many stages there were before.
        """
        return self.stages[plain].noise > _BROKEN * min(stage.noise for stage in self.stages[:plain])

    def expect_passes(self) -> None:
        """Expect them once more, for the progress."""
        self._total += self._samples_of_passes

    @property
    def _samples_of_passes(self) -> int:
        """How many samples run where passes begin at a start that was not measured: it, and what is behind each."""
        judged = 1 + sum(map(len, self.passes())) + self._options.aligns + self.refits
        solving = solving_runs(self._options, refits=self.refits)
        return judged * self._samples.guarding + solving * self._samples.solving

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
        noise = self._wide.noise_of_values(self.counted.network.real(self.aligned(plan)))
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
