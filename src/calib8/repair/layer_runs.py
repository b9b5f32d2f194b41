"""A network with rounded values, layer by layer, with thresholds that may be others in every run.

As in `rounded_values`, every value that is codes in the plan is rounded, and weights and sums stay in float. Each layer
is a graph of its own, and thresholds are inputs of it: a trial of another threshold opens nothing anew, and begins
with the layer that writes the value, on what the layers before it have left (`Live`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
from calib8.repair.rounded_values import is_rounded, rounded_inputs, rounding_nodes

Array = NDArray[Any]
Live = dict[str, Array]
"""What is alive between two layers, for one sample: the values that later layers read, or that are judged."""


def rounded(values: Array, threshold: float) -> Array:
    """Round as a graph's QuantizeLinear does: ties to even, and NaN to 0."""
    step = np.float32(threshold) / np.float32(INT8_LEVELS)
    codes = np.clip(np.rint(np.nan_to_num(values, nan=0.0) / step), -INT8_LEVELS, INT8_LEVELS - 1)
    return np.asarray(codes * step, dtype=np.float32)


@dataclass(frozen=True)
class _One:
    """One layer: its executor, the values whose thresholds it takes, and what is not read any more behind it."""

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
        self._ones: list[_One] = []
        for index, (layer, op) in enumerate(self.layers):
            step, rounds = _step(model, plan, (layer, op), nan=nan)
            gone = tuple(v for v, at in last.items() if at == index and v not in kept)
            self._ones.append(
                _One(Executor([step], layer.tops, options), tuple(dict.fromkeys(layer.bottoms)), rounds, gone)
            )
        self.rounded = frozenset(self._inputs.union(*(one.rounds for one in self._ones)))

    @property
    def gone(self) -> list[tuple[str, ...]]:
        """For each layer the values that nothing needs behind it."""
        return [one.gone for one in self._ones]

    def sibling(self) -> LayerRuns:
        """Make another one for another thread, over the same sessions."""
        twin = object.__new__(LayerRuns)
        twin.__dict__ = {
            **self.__dict__,
            "_ones": [_One(one.executor.sibling(), one.reads, one.rounds, one.gone) for one in self._ones],
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
        values = dict(live)
        for one in self._ones[first:last]:
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


def _step(model: Model, plan: QuantPlan, pair: Pair, *, nan: bool) -> tuple[Step, tuple[str, ...]]:
    """Make the graph of a layer, and say which tops it rounds."""
    layer, op = pair
    if op.kind == "host":
        return HostStep(layer, op, model.call(layer), layer.bottoms, _never), ()
    g = OnnxBuilder()
    bottoms = {b: Port(b, g.input(model.shapes[b]), model.shapes[b]) for b in layer.bottoms}
    tops = list(op.lower(g, model.call(layer, [bottoms[b].name for b in layer.bottoms])))
    ports = list(bottoms.values())
    rounds = layer.tops if is_rounded(model, plan, layer.name) else ()
    for at, value in enumerate(rounds):
        ports.append(Port(_scale_of(value), g.input(()), ()))
        units, rank = plan.channel_units.get(value), len(model.shapes[value])
        tops[at] = rounding_nodes(g, tops[at], ports[-1].name, units, rank, nan=nan)
    outputs = [Port(v, name, model.shapes[v]) for v, name in zip(layer.tops, tops, strict=True)]
    return close_graph(g, ports, outputs, (layer.name,)), tuple(rounds)


def _never(shapes: Mapping[str, Any]) -> tuple[Step, ...]:
    raise AssertionError("one layer has nothing behind it")
