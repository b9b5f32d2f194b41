"""Runs a search for better thresholds to its end, or until its time is up, and says what it found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

from calib8.analyze.journal import Journal
from calib8.analyze.search import Accept, Asked, Event, Question, Search, Step, Trial
from calib8.analyze.trials import Trials
from calib8.quantize import QuantPlan


@dataclass(frozen=True)
class Losses:
    """Of one network: on the samples that are tuned on, and on those held out (None where there are none)."""

    tuned: float
    held_out: float | None


@dataclass(frozen=True)
class TuningResult:
    """What a search found.

    Attributes:
        plan: with the thresholds that were accepted.
        before, after: losses of the whole network in INT8.
        accepted: what was accepted, in this order.
        trials: number of losses that the search asked for.
        finished: whether the search came to its end; False where its time was up before.
        differences: of the layers that the search had as targets, after tuning.
    """

    plan: QuantPlan
    before: Losses
    after: Losses
    accepted: tuple[Accept, ...]
    trials: int
    finished: bool
    differences: Mapping[str, float]


@dataclass(frozen=True)
class Status:
    """Where a search is, for a progress line.

    Attributes:
        done, steps: of the search.
        what: the layer or the group that is being tuned.
        threshold: that is being tried; None between trials.
        change: of the loss so far, as a part of that at the beginning: -0.1 is a tenth less; None for not known.
    """

    done: int
    steps: int
    what: str
    threshold: float | None
    change: float | None


Watch = Callable[[Status], None]


def run_search(
    search: Search,
    trials: Trials,
    journal: Journal | None = None,
    seconds: float = math.inf,
    watch: Watch = lambda status: None,
) -> TuningResult:
    """Answer a search until it ends.

    Args:
        journal: where losses are recorded and, for a search that was killed, come from.
        seconds: most time to take, that of earlier runs in the journal included.

    Raises:
        OptionError: the journal belongs to another search, or the judge cannot judge the outputs.
    """
    run = _Run(trials, journal, seconds, watch)
    before = run.losses()
    finished = run.through(search)
    after = run.losses(at_the_end=True)
    return TuningResult(trials.plan, before, after, tuple(run.accepted), run.asked, finished, dict(run.differences))


def losses_of(trials: Trials) -> Losses:
    """Measure the whole network as it is."""
    return _Run(trials, None, math.inf, lambda status: None).losses()


def layer_differences(
    trials: Trials, targets: Sequence[tuple[str, str]], watch: Watch = lambda status: None
) -> dict[str, float]:
    """Measure, for every layer, the loss with all layers up to it in INT8, as trials with a target are judged.

    Args:
        targets: layers, each with the group of its top.
    """
    differences: dict[str, float] = {}
    for done, (layer, group) in enumerate(targets):
        watch(Status(done, len(targets), layer, None, None))
        (differences[layer],) = trials.losses((Trial(group, None, target=layer),))
    return differences


class _OutOfTimeError(Exception):
    """The time is up."""


@dataclass
class _Run:
    """A search under way."""

    trials: Trials
    journal: Journal | None
    seconds: float
    watch: Watch
    accepted: list[Accept] = field(default_factory=list)
    differences: dict[str, float] = field(default_factory=dict)
    asked: int = 0
    _step: Step = field(default_factory=lambda: Step(0, 0, ""))
    _began: float = 0.0
    _first: float | None = None

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    def through(self, search: Search) -> bool:
        """Answer the search; tell whether it came to its end."""
        answer: Any = None
        try:
            while True:
                answer = self._answer(search.send(answer))
        except StopIteration:
            return True
        except _OutOfTimeError:
            search.close()
            return False

    def losses(self, *, at_the_end: bool = False) -> Losses:
        """Measure those of the network as it is now, whether there is time or not."""
        group = next(iter(self.trials.touched), None)
        if group is None:
            return Losses(0.0, None)
        (tuned,) = self._losses((Trial(group, None),), record=not at_the_end)
        self._first = tuned if self._first is None else self._first
        if not self.trials.has_held_out:
            return Losses(tuned, None)
        (held_out,) = self._losses((Trial(group, None, held_out=True),), record=not at_the_end)
        return Losses(tuned, held_out)

    @singledispatchmethod
    def _answer(self, event: Event) -> list[float] | None:
        """What the search is sent for an event."""
        raise AssertionError(f"a search yields no {type(event).__name__}")

    @_answer.register
    def _(self, event: Step) -> None:
        self._step = event

    @_answer.register
    def _(self, event: Accept) -> None:
        self.trials.accept(event)
        self.accepted.append(event)
        if event.target is not None:
            self.differences[event.target] = event.after

    @_answer.register(tuple)
    def _(self, event: Asked) -> list[float]:
        losses = self._losses(event, in_time=True)
        starts = ((asked.target, loss) for asked, loss in zip(event, losses, strict=True) if asked.is_start)
        self.differences.update((target, loss) for target, loss in starts if target is not None)
        return losses

    def _losses(self, asked: Asked, *, in_time: bool = False, record: bool = True) -> list[float]:
        """From the journal as far as it goes, then from the trials: those of a search only while there is time."""
        self.asked += len(asked)
        known = [] if self.journal is None else self.journal.recall([one.described() for one in asked])
        new = asked[len(known) :]
        if not new:
            return known
        if in_time and self._elapsed() >= self.seconds:
            raise _OutOfTimeError
        first = new[0]
        self._show(first)
        losses = self.trials.losses(new)
        if self.journal is not None and record:
            for one, loss in zip(new, losses, strict=True):
                self.journal.record(one.described(), loss, self._elapsed())
        return known + losses

    def _elapsed(self) -> float:
        return time.monotonic() - self._began + (self.journal.seconds if self.journal is not None else 0.0)

    def _show(self, asked: Question) -> None:
        step = self._step
        self.watch(Status(step.done, step.steps, asked.title(step.what), asked.tried, self._change()))

    def _change(self) -> float | None:
        last = self.accepted[-1] if self.accepted else None
        if last is None or last.target is not None or not self._first:
            return None
        return last.after / self._first - 1
