"""Searches for better thresholds, apart from the running of networks.

A search is a generator. It yields what it wants to know, several trials at a time where it wants all of them in any
case, and is sent a loss for each: less is better, infinite is a threshold that the integer contract cannot express. It
also yields what it has decided (`Accept`) and where it is (`Step`). Losses are those of the thresholds accepted so far
with one of them changed. The same losses lead to the same decisions.

Most trials are no better than what there is, and by how much decides nothing. So a question may have a bound: where the
loss is not below it, any number from the bound to the loss is an answer, and leads to the same decisions. `trials`
knows where a loss has reached its bound from a few of the samples.

A group of values with one threshold (`quantize.FoldGroup`) goes by the name of its observed value.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Protocol

Thresholds = Mapping[str, float]
"""By group."""

STEP_UP, STEP_DOWN = 1.01, 0.99
PATIENCE = 3
_SAME = 0.004
_MOST_CHECKS = 3


class LayerSets(Protocol):
    """Which layers of a network a group's threshold has to do with, for questions that run some layers in INT8 only."""

    def in_int8(self) -> frozenset[str]:
        """Return all layers that run in INT8."""

    def writing(self, group: str) -> frozenset[str]:
        """Return those that write the group's values."""

    def touching(self, group: str) -> frozenset[str]:
        """Return those that read or write them."""

    def up_to(self, layer: str) -> frozenset[str]:
        """Return all up to this one, in the order of the network."""


class Question(ABC):
    """Wants one loss. What it says of itself is all that is needed to answer it.

    Attributes:
        held_out: on the samples that are held out, instead of those that are tuned on.
        target: the layer that is tuned, for the original's search; None for the network as a whole.
        single: whether the network runs with few layers in INT8, so that a measure of quality would hardly ever move.
        bound: a loss of at least this need not be known: any number from the bound to the loss will do.
    """

    held_out: bool = False
    target: str | None = None
    bound: float = math.inf
    single: ClassVar[bool] = False

    @property
    @abstractmethod
    def place(self) -> str | None:
        """The group whose layers are where the network differs from that of other questions; None for all over."""

    @property
    def tried(self) -> float | None:
        """The threshold that is tried; None where there are none or many."""
        return None

    @property
    def changes(self) -> Thresholds:
        """Thresholds by group, in the place of the accepted ones."""
        return {}

    @property
    def is_start(self) -> bool:
        """Whether it asks for the loss of a target at the thresholds that are accepted."""
        return False

    def layers(self, sets: LayerSets) -> frozenset[str] | None:
        """Return the layers that run in INT8; None for all that can."""
        return None

    def title(self, step: str) -> str:
        """Say what is tried, for a progress line, in a step of the search of this name."""
        return step

    def described(self) -> dict[str, object]:
        """Describe it as a journal has it: a method's thresholds and the bound follow from what else is in it."""
        described = {key: value for key, value in vars(self).items() if key not in ("thresholds", "bound")}
        return {"kind": type(self).__name__, **described}


@dataclass(frozen=True)
class Trial(Question):
    """Wants the loss with one threshold changed.

    Attributes:
        group: whose threshold.
        threshold: in real units; None for the one that is accepted.
        held_out: as in `Question`.
        target: layers up to it run in INT8; None for all.
        bound: as in `Question`.
    """

    group: str
    threshold: float | None
    held_out: bool = False
    target: str | None = None
    bound: float = field(default=math.inf, compare=False)

    @property
    def place(self) -> str:
        """The group."""
        return self.group

    @property
    def tried(self) -> float | None:
        """The threshold."""
        return self.threshold

    @property
    def changes(self) -> Thresholds:
        """The one threshold."""
        return {} if self.threshold is None else {self.group: self.threshold}

    @property
    def is_start(self) -> bool:
        """With a target, and without a threshold."""
        return self.target is not None and self.threshold is None

    def layers(self, sets: LayerSets) -> frozenset[str] | None:
        """Return those up to the target."""
        return None if self.target is None else sets.up_to(self.target)


@dataclass(frozen=True)
class Damage(Question):
    """Wants the loss with the layers that write the group's values in FP32."""

    group: str

    @property
    def place(self) -> str:
        """The group."""
        return self.group

    def layers(self, sets: LayerSets) -> frozenset[str]:
        """Return all but those that write."""
        return sets.in_int8() - sets.writing(self.group)


@dataclass(frozen=True)
class Alone(Question):
    """Wants the loss with only those layers in INT8 that read or write the group's values.

    Attributes:
        group: whose threshold.
        threshold: in real units.
        thresholds: by group, of the others; groups that are not in it have the accepted ones.
        bound: as in `Question`.
    """

    single = True
    group: str
    threshold: float
    thresholds: Thresholds
    bound: float = field(default=math.inf, compare=False)

    @property
    def place(self) -> str:
        """The group."""
        return self.group

    @property
    def tried(self) -> float:
        """The threshold."""
        return self.threshold

    @property
    def changes(self) -> Thresholds:
        """The threshold and the others."""
        return {**self.thresholds, self.group: self.threshold}

    def layers(self, sets: LayerSets) -> frozenset[str]:
        """Return those that read or write."""
        return sets.touching(self.group)


@dataclass(frozen=True)
class Together(Question):
    """Wants the loss with the thresholds of many groups changed.

    Attributes:
        method: where they come from: a threshold method, or `LOCAL`.
        thresholds: by group; groups that are not in it stay as they are.
        held_out, bound: as in `Question`.
    """

    method: str
    thresholds: Thresholds
    held_out: bool = False
    bound: float = field(default=math.inf, compare=False)

    @property
    def place(self) -> None:
        """All over the network."""
        return

    @property
    def changes(self) -> Thresholds:
        """The thresholds."""
        return self.thresholds

    def title(self, step: str) -> str:
        """Name the method."""
        return f"all by {self.method}"


@dataclass(frozen=True)
class Accept:
    """Thresholds are better: later trials start from them.

    Attributes:
        thresholds: by group.
        before, after: the loss on the samples that are tuned on.
        held_out_before, held_out_after: the same on the others; None where none decide.
        target: the layer that was tuned, whose losses these are; None for those of all layers in INT8.
        method: as in `Together`; None for a single threshold.
    """

    thresholds: Thresholds
    before: float
    after: float
    held_out_before: float | None = None
    held_out_after: float | None = None
    target: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class Step:
    """Where the search is: `done` of `steps`; `steps` may grow."""

    done: int
    steps: int
    what: str


Asked = tuple[Question, ...]
Event = Asked | Accept | Step
Losses = Sequence[float]
Search = Generator[Event, Losses, None]


def original_search(targets: Sequence[tuple[str, str]], thresholds: Thresholds, before: float | None = None) -> Search:
    """Search as the original: for each layer in order, `threshold * 1.01^n` until three trials in a row do not improve,
    then `threshold * 0.99^n` the same way; the best is kept.

    Args:
        targets: layers in order, each with the group of its top.
        thresholds: at the beginning.
        before: the loss of the first target at the beginning, where it is known.
    """
    current = dict(thresholds)
    for done, (layer, group) in enumerate(targets):
        yield Step(done, len(targets), layer)
        if before is None:
            (before,) = yield (Trial(group, None, target=layer),)
        best, loss = yield from tune_one(layer, group, current[group], before)
        if loss < before:
            current[group] = best
            yield Accept({group: best}, before, loss, target=layer)
        before = None
    yield Step(len(targets), len(targets), "")


def tune_one(layer: str, group: str, threshold: float, before: float) -> Generator[Event, Losses, tuple[float, float]]:
    """Do the original's search for one layer; return the best threshold and its loss.

    As many trials as could fail before it stops are wanted in any case, so these are asked for together.
    """
    best, least = threshold, before
    for factor in (STEP_UP, STEP_DOWN):
        misses, n = 0, 0  # always from the threshold at the beginning, wherever the best one is
        while misses < PATIENCE:
            candidates = [threshold * factor**i for i in range(n + 1, n + 1 + PATIENCE - misses)]
            losses = yield tuple(Trial(group, candidate, target=layer, bound=least) for candidate in candidates)
            for candidate, loss in zip(candidates, losses, strict=True):
                misses += 1
                if loss < least:
                    best, least, misses = candidate, loss, 0
            n += len(candidates)
    return best, least


@dataclass(frozen=True)
class SearchOptions:
    """Of the default search.

    Attributes:
        sweeps: most times that all groups are gone through.
        worthwhile: a sweep that improves the loss by a smaller part than this is the last.
        held_out: whether there are samples that decide about what was found on the others.
    """

    sweeps: int = 4
    worthwhile: float = 0.01
    held_out: bool = True


AROUND = (
    (0.8, 0.9, 1.1, 1.25),
    (0.9, 0.95, 1.05, 1.1),
    (0.95, 0.975, 1.025, 1.05),
    (0.98, 0.99, 1.01, 1.02),
)
"""Factors around the best candidate, finer from sweep to sweep."""

LOCAL = "each alone"
LOCAL_AROUND = ((0.63, 0.71, 0.8, 0.9, 1.1, 1.25, 1.41, 1.6), (0.8, 0.9, 0.95, 1.05, 1.1, 1.25))
"""Factors around the threshold in the sweeps in which each group is judged alone."""


def candidate_search(
    candidates: Mapping[str, Sequence[float]],
    thresholds: Thresholds,
    options: SearchOptions = SearchOptions(),
    methods: Mapping[str, Thresholds] = MappingProxyType({}),
) -> Search:
    """Begin with the best of all methods; then try the thresholds of every method for each group, and some around
    the best of them, the groups in the order of their damage: first each group alone, then in the whole network.

    Alone means that only the layers that the threshold touches run in INT8. The noise of the others would hide what
    it does: with it, the best of many trials on few samples is mostly the luckiest. All that is found in a sweep is
    accepted together or not at all.

    Thresholds are accepted if the loss falls on the samples that are tuned on, and does not rise on those held out. So
    neither ever rises. After a sweep the groups are gone through again, as long as that pays.

    Args:
        candidates: by group, what the threshold methods find; groups that are not in it are left alone.
        thresholds: of all groups, at the beginning.
        methods: by name, the thresholds that each method finds.
    """
    walk = _CandidateWalk(candidates, thresholds, options)
    yield from walk.start()
    yield from walk.choose_method(methods)
    yield from walk.order_groups()
    yield from walk.improve_alone()
    for sweep in range(options.sweeps):
        before = walk.loss
        for group in walk.order:
            yield from walk.improve(group, sweep)
        if not before - walk.loss > options.worthwhile * before:
            break
    yield Step(walk.steps, walk.steps, "")


class _CandidateWalk:
    """State of `candidate_search`."""

    def __init__(self, candidates: Mapping[str, Sequence[float]], thresholds: Thresholds, options: SearchOptions):
        self._candidates, self._options = candidates, options
        self._current = dict(thresholds)
        self.order = list(candidates)
        self.steps = len(self.order) * (1 + len(LOCAL_AROUND) + options.sweeps)
        self._done = 0
        self.loss = math.inf
        self._held_out: float | None = None

    def start(self) -> Search:
        """Ask for the losses before anything is changed."""
        if self.order:
            (self.loss,) = yield (Trial(self.order[0], None),)
            if self._options.held_out:
                (self._held_out,) = yield (Trial(self.order[0], None, held_out=True),)

    def choose_method(self, methods: Mapping[str, Thresholds]) -> Search:
        """Take one method for all groups, where that is better than what there is."""
        if not methods or not self.order:
            return
        losses = yield tuple(Together(name, found, bound=self.loss) for name, found in methods.items())
        # Another method moves everything at once: only the best few are worth asking those held out.
        ranked = sorted(zip(losses, methods, strict=True), key=lambda judged: judged[0])
        for loss, name in ranked[:_MOST_CHECKS]:
            if loss < self.loss and (
                yield from self._accepted(methods[name], loss, Together(name, methods[name], held_out=True), name)
            ):
                return

    def order_groups(self) -> Search:
        """Sort the groups by what leaving them in FP32 would gain, the largest gain first."""
        without: dict[str, float] = {}
        for group in self.order:
            yield self._step(group)
            (without[group],) = yield (Damage(group),)
        self.order.sort(key=lambda group: without[group])

    def improve_alone(self) -> Search:
        """Improve all groups, each alone, in as many sweeps as there are `LOCAL_AROUND`."""
        improved = dict(self._current)
        for sweep, factors in enumerate(LOCAL_AROUND):
            for group in self.order:
                yield self._step(group)
                new = [*(self._candidates[group] if sweep == 0 else ()), *(improved[group] * f for f in factors)]
                improved[group] = yield from _best_alone(group, improved, _distinct(new, [improved[group]]))
            changed = {group: t for group, t in improved.items() if t != self._current[group]}
            if changed:
                (loss,) = yield (Together(LOCAL, changed, bound=self.loss),)
                if loss < self.loss:
                    yield from self._accepted(changed, loss, Together(LOCAL, changed, held_out=True), LOCAL)

    def improve(self, group: str, sweep: int) -> Search:
        """Improve one group in one sweep."""
        yield self._step(group)
        tried: dict[float, float] = {self._current[group]: self.loss}
        yield from self._try(group, self._candidates[group] if sweep == 0 else (), tried)
        centre = min(tried, key=lambda t: tried[t])
        around = AROUND[min(sweep, len(AROUND) - 1)]
        yield from self._try(group, [centre * factor for factor in around], tried)
        # The best of many trials may be luck; the next one is tried where those held out do not agree.
        better = sorted((t for t in tried if tried[t] < self.loss), key=lambda t: tried[t])
        for candidate in better[:_MOST_CHECKS]:
            check = Trial(group, candidate, held_out=True)
            if (yield from self._accepted({group: candidate}, tried[candidate], check)):
                break

    def _try(self, group: str, candidates: Sequence[float], tried: dict[float, float]) -> Search:
        """All that are not as good as tried already."""
        new = _distinct(candidates, tried)
        if new:
            losses = yield tuple(Trial(group, candidate, bound=self.loss) for candidate in new)
            tried.update(zip(new, losses, strict=True))

    def _accepted(
        self, thresholds: Thresholds, loss: float, check: Trial | Together, method: str | None = None
    ) -> Generator[Event, Losses, bool]:
        """Whether the samples that are held out agree; asks for `check` to know."""
        held_out = None
        if self._held_out is not None:
            # One that is only as good is accepted, so the bound is the next number.
            (held_out,) = yield (replace(check, bound=math.nextafter(self._held_out, math.inf)),)
            if held_out > self._held_out:
                return False
        yield Accept(thresholds, self.loss, loss, self._held_out, held_out, method=method)
        self._current.update(thresholds)
        self.loss, self._held_out = loss, held_out
        return True

    def _step(self, group: str) -> Step:
        self._done += 1
        return Step(self._done - 1, self.steps, group)


def _best_alone(group: str, thresholds: Thresholds, candidates: Sequence[float]) -> Generator[Event, Losses, float]:
    """Find the best threshold of a group alone; what there is stays where another one is only as good."""
    best = thresholds[group]
    asked = Alone(group, best, dict(thresholds))
    (least,) = yield (asked,)
    if candidates:
        losses = yield tuple(replace(asked, threshold=candidate, bound=least) for candidate in candidates)
        for candidate, loss in zip(candidates, losses, strict=True):
            if loss < least:
                best, least = candidate, loss
    return best


def _distinct(candidates: Iterable[float], tried: Collection[float]) -> list[float]:
    """Candidates that are not as good as tried already, nor as good as another one."""
    new: list[float] = []
    for candidate in candidates:
        if all(abs(candidate - t) > _SAME * t for t in (*tried, *new)):
            new.append(candidate)
    return new
