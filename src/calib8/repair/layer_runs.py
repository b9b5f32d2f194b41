"""A network with rounded values, layer by layer, with thresholds that may be others in every run.

As in `rounded_values`, every value that is codes in the plan is rounded, and weights and sums stay in float. Each layer
is a graph of its own, and thresholds are inputs of it: a trial of another threshold opens nothing anew, and begins
with the layer that writes the value, on what the layers before it have left (`Live`).

Where a run comes to a place that is a multiple of `_TOGETHER`, it goes on with so many layers in one graph, since small
layers take less time than it costs to begin them. Only the numbers of layers decide that, so that what a run gives does
not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.engine import EngineOptions, Executor
from calib8.layers import OnnxBuilder
from calib8.lowering import Model
from calib8.lowering.cuts import needed_layers
from calib8.lowering.shapes import Pair
from calib8.lowering.steps import HostStep, Port, Step, close_graph
from calib8.quantize import QuantPlan
from calib8.repair.rounded_values import entering_bottoms, is_rounded, rounded_inputs, rounding_nodes

Array = NDArray[Any]
Live = dict[str, Array]
"""What is alive between two layers, for one sample: the values that later layers read, or that are judged."""


def rounded(values: Array, threshold: float) -> Array:
    """Round as a graph's QuantizeLinear does: ties to even, and NaN to 0."""
    step = np.float32(threshold) / np.float32(INT8_LEVELS)
    codes = np.clip(np.rint(np.nan_to_num(values, nan=0.0) / step), -INT8_LEVELS, INT8_LEVELS - 1)
    return np.asarray(codes * step, dtype=np.float32)


_TOGETHER = 16
_MOST_WEIGHTS = 16 << 20  # elements: a graph of several layers has its own copy of them


@dataclass(frozen=True)
class _Part:
    """A layer, or several: how many, their executor, what they read from before, the values whose thresholds they take,
    and what is not read any more behind them.
    """

    layers: int
    executor: Executor
    reads: tuple[str, ...]
    rounds: tuple[str, ...]
    gone: tuple[str, ...]


class LayerRuns:
    """The layers that some values depend on; see the module's text.

    Args:
        model: of one run.
        plan: says which values are rounded, and the units of their channels.
        kept: values that stay alive to the end.
        options: of the engine; a sibling is needed for each thread.
        nan: whether values may hold NaN.
    """

    def __init__(
        self, model: Model, plan: QuantPlan, kept: Collection[str], options: EngineOptions, *, nan: bool = True
    ) -> None:
        self._inputs = frozenset(rounded_inputs(model, plan))
        self.layers = needed_layers(model, kept)
        last = dict(zip(model.inputs, (-1,) * len(model.inputs), strict=True))
        for index, (layer, _) in enumerate(self.layers):
            last.update(dict.fromkeys((*layer.tops, *layer.bottoms), index))

        def part(first: int, end: int) -> _Part:
            pairs = self.layers[first:end]
            gone = tuple(v for v, at in last.items() if first <= at < end and v not in kept)
            made = {top for layer, _ in pairs for top in layer.tops}
            given = made if len(pairs) == 1 else made.difference(gone)
            step, rounds = _step(model, plan, pairs, given, nan=nan)
            reads = dict.fromkeys(b for layer, _ in pairs for b in layer.bottoms if b not in made)
            return _Part(len(pairs), Executor([step], list(given), options), tuple(reads), rounds, gone)

        self._ones = [part(index, index + 1) for index in range(len(self.layers))]
        self._several: dict[int, _Part] = {}
        if sum(blob.size for layer, _ in self.layers for blob in layer.blobs) <= _MOST_WEIGHTS:
            for first in range(0, len(self.layers), _TOGETHER):
                end = min(first + _TOGETHER, len(self.layers))
                if all(op.kind == "onnx" for _, op in self.layers[first:end]):
                    self._several[first] = part(first, end)
        self.rounded = frozenset(self._inputs.union(*(one.rounds for one in self._ones)))

    @property
    def parts_of_a_trial(self) -> int:
        """About how many graphs run from a layer in the middle to the end."""
        if not self._several:
            return len(self._ones) // 2
        return min(len(self._ones), _TOGETHER) // 2 + len(self._several) // 2

    @property
    def gone(self) -> list[tuple[str, ...]]:
        """For each layer the values that nothing needs behind it."""
        return [one.gone for one in self._ones]

    def sibling(self) -> LayerRuns:
        """Make another one for another thread, over the same sessions."""
        twin = object.__new__(LayerRuns)
        twin.__dict__ = {
            **self.__dict__,
            "_ones": [replace(one, executor=one.executor.sibling()) for one in self._ones],
            "_several": {at: replace(one, executor=one.executor.sibling()) for at, one in self._several.items()},
        }
        return twin

    def started(self, inputs: Mapping[str, Array], thresholds: Mapping[str, float]) -> Live:
        """Give what is alive before the first layer: the inputs, rounded where they are codes."""
        return {v: rounded(x, thresholds[v]) if v in self._inputs else x for v, x in inputs.items()}

    def run(self, live: Live, thresholds: Mapping[str, float], first: int = 0, last: int | None = None) -> Live:
        """Run the layers from `first` to before `last`; `live` stays as it is.

        Args:
            thresholds: of all rounded values, by value, in real units.
        """
        values, at, end = dict(live), first, len(self._ones) if last is None else last
        while at < end:
            several = self._several.get(at)
            one = several if several is not None and at + several.layers <= end else self._ones[at]
            at += one.layers
            inputs = {v: values[v] for v in one.reads}
            inputs.update(
                {_scale_of(t): np.array(np.float32(thresholds[t]) / np.float32(INT8_LEVELS)) for t in one.rounds}
            )
            found: dict[str, Array] = {}
            one.executor.run(inputs, lambda reading, array: found.__setitem__(str(reading), array))  # noqa: B023
            values.update(found)
            for value in one.gone:
                values.pop(value, None)
        # The arrays of a layer are its own executor's and stay as they are up to its next run: what is left is copied.
        return {v: x if x is live.get(v) else x.copy() for v, x in values.items()}


@dataclass(frozen=True)
class Packed:
    """Rounded values as the codes that they are, a byte each; what a code is worth, and the units of channels."""

    codes: NDArray[np.int8]
    step: np.float32
    units: Array

    @property
    def values(self) -> Array:
        """The values, to the bit."""
        return np.asarray(self.codes * self.step * self.units)  # in the order of the graph, to the bit


def packed(values: Array, threshold: float, units: NDArray[np.float64] | None) -> Packed | Array:
    """Pack values where that loses nothing, since they are codes times steps and units; others are copied."""
    step, along = np.float32(threshold) / np.float32(INT8_LEVELS), np.ones(1, np.float32)
    if units is not None:
        along = units.reshape(1, -1, *(1,) * (values.ndim - 2)).astype(np.float32)
    codes = np.rint(np.nan_to_num(values, nan=0.0) / (step * along))
    found = Packed(np.clip(codes, -INT8_LEVELS, INT8_LEVELS - 1).astype(np.int8), step, along)
    return found if np.array_equal(found.values, values) else values.copy()


def _scale_of(value: str) -> str:
    return f"{value}\0scale"  # no name in a file has a NUL in it


def _step(
    model: Model, plan: QuantPlan, pairs: Sequence[Pair], given: Collection[str], *, nan: bool
) -> tuple[Step, tuple[str, ...]]:
    """Make the graph of a layer, or of several, and say which values it rounds: tops, and what FP32 gives to INT8.

    Args:
        given: the tops that are its outputs.
    """
    layer, op = pairs[0]
    if op.kind == "host":
        return HostStep(layer, op, model.call(layer), layer.bottoms, _never), ()
    g = OnnxBuilder()
    names: dict[str, str] = {}
    ports: list[Port] = []
    scales: dict[str, str] = {}

    def rounded_node(value: str, name: str) -> str:
        if value not in scales:
            scales[value] = g.input(())
            ports.append(Port(_scale_of(value), scales[value], ()))
        return rounding_nodes(g, name, scales[value], plan.channel_units.get(value), len(model.shapes[value]), nan=nan)

    for layer, op in pairs:
        for bottom in layer.bottoms:
            if bottom not in names:
                names[bottom] = g.input(model.shapes[bottom])
                ports.append(Port(bottom, names[bottom], model.shapes[bottom]))
        entering = entering_bottoms(model, plan, layer)
        bottoms = [rounded_node(b, names[b]) if b in entering else names[b] for b in layer.bottoms]
        tops = op.lower(g, model.call(layer, bottoms))
        rounds = is_rounded(model, plan, layer.name)
        names.update({t: rounded_node(t, x) if rounds else x for t, x in zip(layer.tops, tops, strict=True)})
    outputs = [Port(t, names[t], model.shapes[t]) for layer, _ in pairs for t in layer.tops if t in given]
    return close_graph(g, ports, outputs, tuple(layer.name for layer, _ in pairs)), tuple(scales)


def _never(shapes: Mapping[str, Any]) -> tuple[Step, ...]:
    raise AssertionError("one layer has nothing behind it")
