"""Answers what a search asks: which layers a threshold touches, what is quantised anew, from where the network runs.

A loss that is a mean of parts, none of them negative, has reached a question's bound as soon as the first samples say
so: the others are not run. First are those that said most against the last trial that had to be known. What is answered
is the mean at the first sample that reaches the bound, whatever other threads have run by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from calib8.analyze.bench import Bench, Job, Parts, Runner
from calib8.analyze.experiment import Experiment, Lane, Variant, lasting
from calib8.analyze.judges import Judge, MeanJudge, Outputs, SquaredDifference
from calib8.analyze.search import Accept, Question, Thresholds
from calib8.analyze.units import Unit, seen_at, units_of
from calib8.errors import QuantizationError
from calib8.lowering import Model
from calib8.quantize import FoldGroup, QuantPlan, fold_groups, replan, setup_of


@dataclass(frozen=True)
class Touched:
    """What a group's threshold has to do with.

    Attributes:
        group: the values.
        writers: layers in INT8 that write them, with those that switch together with them.
        neighbours: layers in INT8 that read or write them, likewise.
        start, stop: positions in the network: of the first layer that reads or writes one of them, behind the last.
    """

    group: FoldGroup
    writers: frozenset[str]
    neighbours: frozenset[str]
    start: int
    stop: int


def touched_of(model: Model, plan: QuantPlan, needed: frozenset[str]) -> dict[str, Touched]:
    """Find, by group name, what touches each group that a needed layer with integers reads or writes."""
    touched: dict[str, Touched] = {}
    units = units_of(model, plan, needed)
    for group in fold_groups(model, plan.enable_concat_quantize):
        members = set(group.members)
        names = {x.name for x in model.net.layers if not members.isdisjoint((*x.bottoms, *x.tops))}
        neighbours = frozenset(n for u in units if not names.isdisjoint(u.layers) for n in u.layers)
        names |= neighbours  # a BatchNorm and its Scale switch together, so one of them brings the other
        near = [at for at, layer in enumerate(model.net.layers) if layer.name in names & needed]
        if any(plan.forms.get(model.net.layers[index].name) is not None for index in near):
            touched[group.name] = Touched(
                group, _writers(model, units, members), neighbours, near[0], near[-1] + 1
            )  # fmt: skip
    return touched


def _writers(model: Model, units: Sequence[Unit], members: set[str]) -> frozenset[str]:
    layers = model.net.layer_by_name
    return frozenset(n for u in units if any(members & set(layers[x].tops) for x in u.layers) for n in u.layers)


class Trials:
    """Runs the trials of a search, with the thresholds that it has accepted so far.

    Args:
        experiment: over all samples.
        plan: at the beginning.
        judge: of the network's outputs.
        tuned, held_out: numbers of the samples for the two kinds of trial.
        at_layer: trials with a target layer are judged at its own top, by squared difference, not at the outputs.
        runner: who runs the trials; None for the experiment itself.

    Attributes:
        experiment: as given. With a runner nothing of it is run.
        plan: with what was accepted.
        touched: by group.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: QuantPlan,
        judge: Judge,
        tuned: Sequence[int],
        held_out: Sequence[int] = (),
        at_layer: bool = True,
        runner: Runner | None = None,
    ) -> None:
        self.experiment, self._judge = experiment, judge
        self._tuned, self._held_out, self._at_layer = tuple(tuned), tuple(held_out), at_layer
        self._runner, self._accepted = runner, tuple[Thresholds, ...]()
        self._target: str | None = None
        self._references: dict[int, Outputs] = {}
        self._hardest_first: dict[tuple[bool, bool], Sequence[int]] = {}
        self.plan = plan
        self.touched = touched_of(experiment.model, plan, frozenset(experiment.needed))
        self._units = units_of(experiment.model, plan, experiment.needed)

    @property
    def thresholds(self) -> dict[str, float]:
        """By group."""
        return {group: self.plan.thresholds[group] for group in self.touched}

    @property
    def has_held_out(self) -> bool:
        """Whether there are samples for trials on those held out."""
        return bool(self._held_out)

    def losses(self, asked: Sequence[Question]) -> list[float]:
        """Compute one for each; infinite where the integer contract cannot express the threshold.

        All are of the same kind, with the same group, target and kind of samples.
        """
        chosen = self._held_out if asked[0].held_out else self._tuned
        judge = self._judge_of(asked[0])
        if self._runner is not None:
            found = self._runner.parts(Answers(tuple(asked), self._accepted), chosen)
        elif isinstance(judge, MeanJudge):
            return self._bounded(asked, chosen, judge)
        else:
            found = self.parts(asked, chosen)
        return [math.inf if parts is None else judge.loss(chosen, parts) for parts in found]

    def parts(self, asked: Sequence[Question], samples: Sequence[int]) -> Parts[Any]:
        """Run the trials here: by question what its judge says of each sample, None for an impossible threshold."""
        variants = self._variants(asked)
        found = iter(self._run([variant for variant in variants if variant is not None], asked[0], samples))
        return [None if variant is None else next(found) for variant in variants]

    def _bounded(self, asked: Sequence[Question], chosen: Sequence[int], judge: MeanJudge) -> list[float]:
        """Run each trial until its bound is reached."""
        kind = asked[0].held_out, asked[0].single
        order = self._hardest_first.get(kind, chosen)
        variants = self._variants(asked)
        tallies = [_Tally(judge, order, one.bound) for one in asked]
        running = [(variant, tally) for variant, tally in zip(variants, tallies, strict=True) if variant is not None]
        run = self._ready_to_run(asked[0], order)

        def part(lane: Lane, item: tuple[int, tuple[Variant, _Tally]]) -> None:
            place, (variant, tally) = item
            if not tally.has_reached:
                tally.parts[place] = run(lane, order[place], variant)

        self.experiment.each(part, [(place, one) for place in range(len(order)) for one in running])
        for one, tally in zip(asked, tallies, strict=True):
            if math.isinf(one.bound) and tally.known:
                self._hardest_first[kind] = tally.hardest_first()
        return [math.inf if variant is None else tally.loss() for variant, tally in zip(variants, tallies, strict=True)]

    def _variants(self, asked: Sequence[Question]) -> list[Variant | None]:
        return self.experiment.each(lambda lane, one: self._variant(one), asked)

    def _variant(self, asked: Question) -> Variant | None:
        layers = asked.layers(self)
        try:
            plan = self._planned(asked.changes, layers)
        except QuantizationError:
            return None
        return self.experiment.variant(setup_of(plan, layers))

    def in_int8(self) -> frozenset[str]:
        """Return all layers in INT8, as `search.LayerSets` wants it."""
        return setup_of(self.plan).int8_layers

    def writing(self, group: str) -> frozenset[str]:
        """Return the layers that write a group's values."""
        return self.touched[group].writers

    def touching(self, group: str) -> frozenset[str]:
        """Return the layers that read or write them."""
        return self.touched[group].neighbours

    def up_to(self, layer: str) -> frozenset[str]:
        """Return all layers in INT8 up to this one."""
        stop = self.experiment.position(layer) + 1
        return frozenset(name for unit in self._units if unit.stop <= stop for name in unit.layers)

    def accept(self, decided: Accept) -> None:
        """Go on from these thresholds."""
        self.go_on((*self._accepted, decided.thresholds))

    def go_on(self, accepted: tuple[Thresholds, ...]) -> None:
        """Accept, one after another, those of all thresholds accepted since the beginning that are new."""
        for thresholds in accepted[len(self._accepted) :]:
            self.plan = self._planned(thresholds)
        self._accepted = accepted

    def _planned(self, thresholds: Thresholds, layers: Collection[str] | None = None) -> QuantPlan:
        changes = {v: t for group, t in thresholds.items() for v in self.touched[group].group.members}
        return replan(self.experiment.model, self.plan, changes, layers) if changes else self.plan

    def _run(self, variants: Sequence[Variant], asked: Question, samples: Sequence[int]) -> list[list[Any]]:
        run = self._ready_to_run(asked, samples)
        items = [(sample, variant) for sample in samples for variant in variants]
        parts = self.experiment.each(lambda lane, item: run(lane, *item), items)
        # Items go sample by sample, so the parts of one variant lie as far apart as there are variants.
        return [parts[i :: len(variants)] for i in range(len(variants))]

    def _ready_to_run(self, asked: Question, samples: Sequence[int]) -> Callable[[Lane, int, Variant], Any]:
        """Return what runs one sample for a question like this one, and says what its judge says of it."""
        touched = None if asked.place is None else self.touched[asked.place]
        keep, split = ([], []) if touched is None else ([touched.start], [touched.stop])
        judge, references = self._judge_of(asked), self._references_of(asked, samples)
        names = judge.values

        def run(lane: Lane, sample: int, variant: Variant) -> Any:
            outputs = lane.run(sample, variant, names, keep, split)
            return judge.part(references[sample], outputs)

        return run

    def _at_its_top(self, asked: Question) -> str | None:
        return asked.target if self._at_layer else None

    def _seen(self, target: str) -> tuple[str, ...]:
        return seen_at(self.experiment.model, self.plan, self.experiment.model.net.layer_by_name[target])

    def _judge_of(self, asked: Question) -> Judge:
        target = self._at_its_top(asked)
        if target is not None:
            return SquaredDifference(self._seen(target))
        if asked.single and not isinstance(self._judge, MeanJudge):
            # a quality moves in steps, which one layer alone hardly reaches
            return SquaredDifference(self._judge.values)
        return self._judge

    def _references_of(self, asked: Question, samples: Sequence[int]) -> Mapping[int, Outputs]:
        """FP32 by sample: the outputs, or the tops of the target, which are kept until there is another one."""
        target = self._at_its_top(asked)
        if target is None:
            return dict(enumerate(self.experiment.references))
        if self._target != target:
            self._target, self._references = target, {}
        missing = [sample for sample in samples if sample not in self._references]
        tops, start = self._seen(target), self.experiment.position(target)
        found = self.experiment.each(lambda lane, i: lasting(lane.run(i, self.experiment.fp32, tops, [start])), missing)
        self._references.update(zip(missing, found, strict=True))
        return self._references


class _Tally:
    """What the samples say of one trial, in the order in which they are begun.

    Attributes:
        parts: by place in this order; None for one that was not run, or not yet.
    """

    def __init__(self, judge: MeanJudge, samples: Sequence[int], bound: float) -> None:
        self._judge, self._samples, self._bound = judge, samples, bound
        self.parts: list[float | None] = [None] * len(samples)

    @property
    def known(self) -> list[float]:
        """The parts of the first samples, as far as there is none missing."""
        return [part for part in takewhile(lambda part: part is not None, self.parts) if part is not None]

    @property
    def has_reached(self) -> bool:
        """Whether the loss is known not to be below the bound."""
        return self._judge.loss(self._samples, self.known) >= self._bound

    def loss(self) -> float:
        """Compute the loss or, once the bound is reached, what it is at least."""
        known = self.known
        least = (self._judge.loss(self._samples, known[:count]) for count in range(1, len(known)))
        return next((loss for loss in least if loss >= self._bound), self._judge.loss(self._samples, known))

    def hardest_first(self) -> list[int]:
        """Sort the samples by their parts, the largest first."""
        return [sample for _, sample in sorted(zip(self.known, self._samples, strict=True), key=lambda pair: -pair[0])]


@dataclass(frozen=True)
class Answers(Job[Any]):
    """Wants what the judge says of each sample, for each question.

    Attributes:
        asked: the questions.
        accepted: the thresholds that were accepted since the beginning, one after another.
    """

    asked: tuple[Question, ...]
    accepted: tuple[Thresholds, ...]

    @property
    def size(self) -> int:
        """The number of questions."""
        return len(self.asked)

    def piece(self, start: int, stop: int) -> Answers:
        """Some of the questions."""
        return Answers(self.asked[start:stop], self.accepted)

    def parts(self, bench: Bench, samples: Sequence[int]) -> Parts[Any]:
        """Answer with the trials of the bench."""
        trials = bench.once(_trials_of)
        trials.go_on(self.accepted)
        return trials.parts(self.asked, samples)


def _trials_of(bench: Bench) -> Trials:
    setting = bench.setting
    return Trials(
        bench.experiment, setting.plan, setting.judge, range(len(bench.experiment.samples)), (), setting.at_layer
    )
