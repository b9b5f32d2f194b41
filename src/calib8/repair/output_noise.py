"""Output noise: each threshold is the one with which the network's outputs are nearest to FP32's.

What a threshold costs is not what it clips or rounds in its own value, but what of that reaches the outputs; and errors
of several values add up or cancel. So thresholds are tried in the network with rounded values (`layer_runs`: weights
and sums in float, since weights are repaired afterwards), all others as they are, and the noise at the outputs
(`guard`) decides. Coordinate descent: one group of values that share a threshold after the other, in the order of
the network.

Of each group are tried what the other sets of thresholds say, and parts and multiples of what it has, from 0.55 to
1.35; once from the input to the outputs. A threshold is moved only where the noise falls by more than 0.2 %.

The top of a MAX pooling that has its bottom's threshold keeps it (`whole_multipliers`): the two are tried as one.
Values with units of channels get their thresholds from `channel_units`, and what no layer in INT8 writes or reads has
none to try.

Cost: a trial runs the layers behind the value, on as many samples as their values, as codes, fit into 96 MB and their
products into a bound of work, 80 at most: 30 photographs were measured to be too few, and 80 enough.
Both bounds are numbers of the network alone: the time that it takes decides nothing.

Source: Nagel et al., A White Paper on Neural Network Quantization, 2021, section 3.1, sets ranges by the error of a
layer's output; here at the outputs of the network, one after the other as in Nahshan et al., Loss Aware Post-Training
Quantization, 2019 (arXiv:1911.07190), section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.engine import Crew, EngineOptions, Executor
from calib8.layer_kit.window_product import evenly
from calib8.layers.pooling import Pooling
from calib8.lowering import Model, lower_float
from calib8.measure.collect import Batches
from calib8.quantize import QuantPlan, fold_groups
from calib8.repair.guard import Compared, OutputNoise, Signals
from calib8.repair.layer_runs import LayerRuns, Live, Packed, packed

Array = NDArray[Any]
_Kept = dict[str, "Packed | Array"]

OUTPUT_NOISE = "output-noise"
_MOST_SAMPLES, _FEWEST_SAMPLES = 80, 4
_LIVE_BYTES = 96 << 20
_PRODUCTS = 3e12  # of all trials together, about: a minute or two
_BEGINNING = 7e5  # products that are done in the time that it takes to begin a graph
_TRIALS = 9  # of a group, about
_FACTORS = (0.55, 0.68, 0.8, 0.9, 1.12, 1.35)
_GAIN = 0.998
_FURTHEST = 4.0  # a threshold of another set that is further away is not tried


@dataclass(frozen=True)
class SearchResult:
    """What the search has found.

    Attributes:
        changes: thresholds by value, in real units.
        before, after: noise at the outputs, on the samples that were searched on.
        moved: groups that were moved, by name, with the noise before and after.
    """

    changes: Mapping[str, float]
    before: float
    after: float
    moved: Mapping[str, tuple[float, float]]


def search_thresholds(
    model: Model,
    plan: QuantPlan,
    others: Sequence[Mapping[str, float]],
    batches: Batches,
    runs: int,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    least: Mapping[str, float] = MappingProxyType({}),
    nan: bool = True,
) -> SearchResult:
    """Search thresholds by the noise at the outputs; see the module's text.

    Args:
        others: further thresholds to try, by value, in real units.
        batches: samples to solve on, a run each.
        runs: how many there are.
        threads: None for all cores; no result depends on it.
        progress: called with groups that are done, and how many there are.
        least: thresholds by value below which nothing is tried: the samples do not show what needs them.
        nan: whether values may hold NaN.

    Raises:
        Calib8Error: what the samples or a layer in Python raise.
    """
    search = _Search(model, plan, batches, runs, EngineOptions(threads=threads).thread_count, nan=nan)
    with search.crew:
        return search.through(others, least, progress)


class _Search:
    """The state of a search: thresholds, and what is alive of each sample before the layer that is searched."""

    def __init__(self, model: Model, plan: QuantPlan, batches: Batches, runs: int, threads: int, *, nan: bool) -> None:
        self._model, self._plan = model, plan
        self._thresholds = dict(plan.thresholds)
        self._measure = OutputNoise(model)
        self.crew = Crew(threads)
        engine = EngineOptions(threads=1)
        first = LayerRuns(model, plan, self._measure.values, engine, nan=nan)
        self._lanes = [first, *(first.sibling() for _ in range(threads - 1))]
        self._groups = _groups(model, plan, first)
        chosen = set(evenly(runs, self._count(runs)).tolist())
        samples = [
            {v: np.array(x) for v, x in model.inputs_of(batch).items()}
            for at, batch in enumerate(batches())
            if at in chosen
        ]
        # Python layers may give another shape; only samples of the network's own shapes can be run layer by layer.
        samples = [s for s in samples if all(x.shape == model.shapes[v] for v, x in s.items())]
        self._references = self._in_float(samples, engine)
        self._signals = self._measure.signals(self._references)
        self._samples = samples
        self._live = [self._packed(first.started(s, self._thresholds)) for s in samples]
        self._at = 0

    def through(
        self,
        others: Sequence[Mapping[str, float]],
        least: Mapping[str, float],
        progress: Callable[[int, int], None],
    ) -> SearchResult:
        """Try all groups, in the order of the network."""
        before = noise = self._noise({})
        first = self._lanes[0]
        moved: dict[str, tuple[float, float]] = {}
        for done, group in enumerate(self._groups):
            progress(done, len(self._groups))
            self._advance(group.first)
            start = self._thresholds[group.members[0]]
            best, found = self._best(group, start, noise, others, max(least.get(v, 0.0) for v in group.members))
            if best != start:
                moved[group.name] = noise, found
                self._thresholds.update(dict.fromkeys(group.members, best))
                if group.first < 0:
                    self._live = [self._packed(first.started(s, self._thresholds)) for s in self._samples]
                noise = found
        progress(len(self._groups), len(self._groups))
        changes = {v: t for v, t in self._thresholds.items() if t != self._plan.thresholds[v]}
        return SearchResult(changes, before, noise, moved)

    def _best(
        self, group: _Group, start: float, noise: float, others: Sequence[Mapping[str, float]], least: float
    ) -> tuple[float, float]:
        """Find the best threshold of a group, and its noise."""
        value = group.members[0]
        given = [other[value] for other in others if 1 / _FURTHEST < other[value] / start < _FURTHEST]
        tried = {start: noise}
        for threshold in map(float, map(np.float32, (*given, *(start * factor for factor in _FACTORS)))):
            if threshold not in tried and threshold >= min(start, least):
                tried[threshold] = self._noise(dict.fromkeys(group.members, threshold))
        best = min(tried, key=lambda t: (tried[t], t))
        return (best, tried[best]) if tried[best] < noise * _GAIN else (start, noise)

    def _noise(self, changes: Mapping[str, float]) -> float:
        """Measure with some thresholds changed, from where the search is."""
        thresholds = {**self._thresholds, **changes}
        at_input = any(v in self._model.inputs for v in changes)

        def work(lane: int, index: int) -> Signals:
            runs = self._lanes[lane]
            live = runs.started(self._samples[index], thresholds) if at_input else _unpacked(self._live[index])
            outputs = runs.run(live, thresholds, 0 if at_input else self._at)
            seen = {v: self._measure.seen(v, outputs[v]) for v in self._measure.values}
            return self._measure.squares(self._references[index], seen)

        return self._measure.of(self._signals, list(self.crew.stream(work, range(len(self._references)))))

    def _advance(self, layer: int) -> None:
        """Run all samples up to a layer."""
        if layer <= self._at:
            return

        def work(lane: int, live: _Kept) -> _Kept:
            return self._packed(self._lanes[lane].run(_unpacked(live), self._thresholds, self._at, layer))

        self._live = list(self.crew.stream(work, self._live))
        self._at = layer
        self._samples = []  # the inputs are behind

    def _packed(self, live: Live) -> _Kept:
        units = self._plan.channel_units
        return {v: packed(x, self._thresholds[v], units.get(v)) for v, x in live.items()}

    def _in_float(self, samples: Sequence[Mapping[str, Array]], engine: EngineOptions) -> list[dict[str, Compared]]:
        executor = Executor(lower_float(self._model, self._measure.values), self._measure.values, engine)
        executors = [executor, *(executor.sibling() for _ in self._lanes[1:])]

        def work(lane: int, inputs: Mapping[str, Array]) -> dict[str, Compared]:
            found: dict[str, Compared] = {}
            executors[lane].run(
                inputs, lambda reading, array: found.__setitem__(str(reading), self._measure.seen(str(reading), array))
            )
            return found

        return list(self.crew.stream(work, samples))

    def _count(self, runs: int) -> int:
        """Say how many samples are searched on, by what they cost."""
        trial = products_of_a_run(self._model) / 2 + _BEGINNING * self._lanes[0].parts_of_a_trial
        work = trial * _TRIALS * max(len(self._groups), 1)
        bytes_each = max(_live_bytes(self._model, self._plan, self._lanes[0]), 1)
        most = min(_LIVE_BYTES / bytes_each, _PRODUCTS / max(work, 1))
        return min(runs, _MOST_SAMPLES, max(_FEWEST_SAMPLES, int(most)))


@dataclass(frozen=True)
class _Group:
    """Values that are tried as one.

    Attributes:
        first: the layer that writes the first of them, by its place among those that run; -1 for an input.
    """

    name: str
    members: tuple[str, ...]
    first: int


def _groups(model: Model, plan: QuantPlan, runs: LayerRuns) -> list[_Group]:
    """List what can be tried, in the order of the network."""
    place = {top: index for index, (layer, _) in enumerate(runs.layers) for top in layer.tops}
    place.update(dict.fromkeys(model.inputs, -1))
    found = []
    for members in _joined(model, plan):
        tried = runs.rounded.intersection(members)
        if tried and not any(v in plan.channel_units for v in members):
            first = min(tried, key=place.__getitem__)
            found.append(_Group(first, members, place[first]))
    return sorted(found, key=lambda group: group.first)


def _joined(model: Model, plan: QuantPlan) -> Iterator[tuple[str, ...]]:
    """Put together the groups of values that share a threshold, and poolings whose two groups have the same one."""
    groups = fold_groups(model, plan.enable_concat_quantize)
    group_of = {v: at for at, group in enumerate(groups) for v in group.members}
    root = list(range(len(groups)))

    def find(at: int) -> int:
        while root[at] != at:
            at = root[at]
        return at

    for layer, op in model.pairs:
        if isinstance(op, Pooling) and op.method == "MAX" and plan.forms.get(layer.name) is not None:
            bottom, top = layer.bottoms[0], layer.tops[0]
            if plan.thresholds[bottom] == plan.thresholds[top]:
                root[find(group_of[top])] = find(group_of[bottom])
    for at in range(len(groups)):
        if find(at) == at:
            yield tuple(v for other, group in enumerate(groups) if find(other) == at for v in group.members)


def products_of_a_run(model: Model) -> float:
    """Count about how many products a run takes; an element costs as much as ten."""
    total = 0.0
    for layer, op in model.pairs:
        elements = sum(math.prod(model.shapes[t]) for t in layer.tops)
        weights = layer.blobs[0] if layer.blobs and op.kind == "onnx" else None
        per_output = weights.size / max(weights.shape[0], 1) if weights is not None and weights.ndim > 1 else 0
        total += elements * (per_output + 10)
    return total


def _unpacked(kept: _Kept) -> Live:
    return {v: x.values if isinstance(x, Packed) else x for v, x in kept.items()}


def _live_bytes(model: Model, plan: QuantPlan, runs: LayerRuns) -> int:
    """Find about the most bytes that are kept between two layers: a byte for a code, four for an input."""
    most, alive = 0, set(model.inputs)
    codes = {top for layer, _ in runs.layers if plan.forms.get(layer.name) is not None for top in layer.tops}
    for (layer, _), gone in zip(runs.layers, runs.gone, strict=True):
        alive.update(layer.tops)
        alive.difference_update(gone)
        most = max(most, sum((1 if v in codes else 4) * math.prod(model.shapes[v]) for v in alive))
    return most
