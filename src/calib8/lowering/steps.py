"""What a lowered network consists of: ONNX graphs, and layers between them that run in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike

from calib8.graph import Array, Layer, Shape
from calib8.layer_kit.codes import PIXEL_CHANNELS
from calib8.layers import Call, OnnxBuilder, Op
from calib8.lowering.readings import Reading
from calib8.proto.onnx_messages import ModelProto


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        reading: what it is of the network.
        name: in the graph.
        shape: of the value.
        dtype: in the graph.
        threshold: of an input that comes in real numbers and enters the graph as codes; None: nothing is converted.
        by_pixel: whether these codes enter in another shape, `entered_shape`: by pixel, with four channels.
    """

    reading: Reading
    name: str
    shape: Shape
    dtype: DTypeLike = np.float32
    threshold: float | None = None
    by_pixel: bool = False

    @property
    def entered_shape(self) -> Shape:
        """The shape in the graph."""
        return (self.shape[0], *self.shape[2:], PIXEL_CHANNELS) if self.by_pixel else self.shape


@dataclass(frozen=True, eq=False)
class OnnxStep:
    """A stretch of layers as one ONNX graph.

    Attributes:
        onnx: the graph; its large weights are left out.
        weights: these weights by initializer name, views of wherever they lie.
        input_ports, output_ports: the graph's inputs and outputs in order.
        layers: names of the layers in it, for messages.
        value_bytes: about how much memory the values take that it computes.
    """

    onnx: ModelProto
    weights: Mapping[str, Array]
    input_ports: tuple[Port, ...]
    output_ports: tuple[Port, ...]
    layers: tuple[str, ...]
    value_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """How much memory the weights take."""
        return sum(array.nbytes for array in self.weights.values())

    @property
    def inputs(self) -> tuple[Reading, ...]:
        """What it reads."""
        return tuple(port.reading for port in self.input_ports)

    @property
    def outputs(self) -> tuple[Reading, ...]:
        """What it gives."""
        return tuple(port.reading for port in self.output_ports)


LowerAgain = Callable[[Mapping[str, Shape]], "tuple[Step, ...]"]


@dataclass(frozen=True, eq=False)
class HostStep:
    """One layer that runs in Python.

    Attributes:
        bottoms: what it reads, in the order of the layer's bottoms.
        lower_again: the steps of the whole network where this layer's tops have other shapes than it announced.
    """

    layer: Layer
    op: Op
    call: Call
    bottoms: tuple[Reading, ...]
    lower_again: LowerAgain

    @property
    def weight_bytes(self) -> int:
        """Nothing: what the user's layer holds is its own."""
        return 0

    @property
    def value_bytes(self) -> int:
        """About how much memory its tops take."""
        return sum(map(float_bytes, self.call.top_shapes))

    @property
    def inputs(self) -> tuple[Reading, ...]:
        """What it reads."""
        return tuple(dict.fromkeys(self.bottoms))

    @property
    def outputs(self) -> tuple[Reading, ...]:
        """What it writes."""
        return self.layer.tops


Step = OnnxStep | HostStep


def float_bytes(shape: Shape) -> int:
    """Count the bytes that a blob of a shape takes in float32."""
    return 4 * math.prod(shape)


def close_graph(
    g: OnnxBuilder, inputs: Sequence[Port], outputs: Sequence[Port], layers: tuple[str, ...], value_bytes: int = 0
) -> OnnxStep:
    """Make the step of a finished graph; every output gets a name that is no input's and no other output's."""
    taken = {port.name for port in inputs}
    own: list[Port] = []
    for port in outputs:
        name = port.name if port.name not in taken else g.node("Identity", port.name)
        taken.add(name)
        own.append(replace(port, name=name))
    onnx, weights = g.model([(port.name, port.dtype) for port in own])
    g.ways.clear()  # they know the builder, and would keep all weights until the garbage collector comes
    return OnnxStep(onnx, weights, tuple(inputs), tuple(own), layers, value_bytes)


def last_readers(steps: Sequence[Step]) -> list[tuple[Reading, ...]]:
    """List, for every step, what nobody needs after it."""
    last: dict[Reading, int] = {}
    for index, step in enumerate(steps):
        for reading in (*step.outputs, *step.inputs):
            last[reading] = index
    return [tuple(r for r, at in last.items() if at == index) for index in range(len(steps))]
