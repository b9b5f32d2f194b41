"""What a lowered network consists of: ONNX graphs, and layers between them that run in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from calib8.graph import Layer, Shape
from calib8.layers import Call, Op


@dataclass(frozen=True, eq=False)
class OnnxStep:
    """A stretch of layers as one ONNX graph.

    Attributes:
        onnx: the ModelProto; its large weights are left out.
        weights: these weights by initializer name, views of wherever they lie.
        inputs, outputs: the graph's inputs and outputs in order, as values of the network.
        input_names, output_names: their names in the graph.
        shapes: shapes of inputs and outputs by value.
        dtypes: numpy dtypes of inputs and outputs by value: float32, or uint8 for codes.
        layers: names of the layers in it, for messages.
    """

    onnx: Any
    weights: Mapping[str, NDArray[Any]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, Any]
    layers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class HostStep:
    """One layer that runs in Python."""

    layer: Layer
    op: Op
    call: Call

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that it reads."""
        return tuple(dict.fromkeys(self.layer.bottoms))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The values that it writes."""
        return self.layer.tops


Step = OnnxStep | HostStep


def last_readers(steps: Sequence[Step], keep: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """For every step the values that nobody needs after it, but for those to `keep`."""
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for value in (*step.outputs, *step.inputs):
            last[value] = index
    kept = set(keep)
    return [tuple(v for v, at in last.items() if at == index and v not in kept) for index in range(len(steps))]
