"""A network as one ONNX model with its weights inside: in FP32, or quantised with QuantizeLinear and DequantizeLinear.

Inputs and outputs have the names of their Caffe blobs, inner values too where they are values of the network, nodes
that of their layer with a number behind it.

In the quantised model an INT8 layer is its float form between DequantizeLinear and QuantizeLinear, its weights and
biases are the integers of the plan, and `real_scales` chooses the steps so that the codes are the contract's, ties
included. Exceptions: the sums of an Eltwise do not saturate in 16 bits; an ELU's negative side is rounded, not cut off;
an average over windows of several sizes takes the constants of the full one for all; real numbers (inputs, the tops of
FP32 layers) within 2^-16 steps of a tie, and accumulators with a right shift above 15, may give the neighbouring code.

A layer that runs in Python has no ONNX form: the model ends in front of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calib8.arithmetic import INT8_LEVELS
from calib8.errors import OptionError, UnsupportedError
from calib8.graph import Layer, Shape
from calib8.layer_kit.real_scales import SMALLEST_NUDGE, RealScales
from calib8.layers import IntegerForm, OnnxBuilder, Op
from calib8.lowering import Model
from calib8.lowering.cuts import needed_layers
from calib8.quantize import QuantPlan

MAX_BYTES = 2**31 - 1
"""Largest ONNX file with its weights inside (protobuf)."""


@dataclass(frozen=True)
class OnnxExport:
    """An ONNX ModelProto, and what it leaves out, one sentence each."""

    proto: Any
    notes: tuple[str, ...]

    @property
    def data(self) -> bytes:
        """The bytes of its file."""
        data: bytes = self.proto.SerializeToString(deterministic=True)
        return data


def onnx_export(name: str, model: Model, plan: QuantPlan | None = None) -> OnnxExport:
    """Write the network in FP32, or quantised by a plan.

    Raises:
        UnsupportedError: nothing of the network can be computed without a layer that runs in Python.
        OptionError: the weights are too large for one file.
    """
    outputs, notes = reachable_outputs(model)
    graph = _Graph(model, plan, frozenset(outputs))
    for layer, op in needed_layers(model, outputs):
        graph.visit(layer, op)
    return OnnxExport(graph.finish(name, outputs), notes)


def reachable_outputs(model: Model) -> tuple[list[str], tuple[str, ...]]:
    """List the outputs that can be computed without a layer that runs in Python, and note which cannot."""
    available = set(model.inputs)
    cut: list[Layer] = []
    for layer, op in model.pairs:
        if op.kind == "onnx" and available.issuperset(layer.bottoms):
            available.update(layer.tops)
        elif op.kind != "source":
            cut.append(layer)
    ends = {*model.net.outputs, *(b for layer in cut for b in layer.bottoms)}
    made = [t for layer in model.net.layers for t in layer.tops if t in available and t not in model.inputs]
    outputs = [value for value in made if value in ends]
    left_out = ", ".join(f"{layer.name!r} ({layer.type})" for layer in cut)
    if not cut and not outputs:
        raise UnsupportedError(f"{model.net.source}: the network computes nothing: it has inputs only")
    if not outputs:
        raise UnsupportedError(
            f"{model.net.source}: nothing of the network is left for ONNX in front of the layers that run in Python "
            f"({left_out}); write them as Caffe layers, or take them out of the prototxt"
        )
    if not cut:
        return outputs, ()
    names = ", ".join(map(repr, outputs))
    return outputs, (f"left out, since they have no ONNX form: {left_out}; the ONNX network gives {names}",)


class GraphBuilder(OnnxBuilder):
    """Names nodes and tensors after the layer that is visited, and takes its integer weights, read in its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = ""
        self.scales: RealScales | None = None

    def nodes(self, op_type: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """Add a node with several outputs, named after the layer."""
        names = super().nodes(op_type, *inputs, outputs=outputs, domain=domain, **attributes)
        self._nodes[-1].name = f"{self.layer}:{len(self._nodes)}"
        return names

    def weight(self, array: NDArray[Any]) -> str:
        """Add a weight; integers are read in the steps of `scales`."""
        if self.scales is None or array.dtype.kind != "i":
            return super().weight(array)
        is_weight = array.dtype == np.int8
        integers = super().weight(array if is_weight else array.astype(np.int32))
        return self.node(
            "DequantizeLinear", integers, self.scalar(self.scales.weight if is_weight else self.scales.bias)
        )

    def quantize(self, x: str, step: float, nudge: float) -> str:
        """Turn real numbers into int8 codes."""
        raised = self.node("Add", x, self.scalar(nudge)) if nudge else x
        return self.node("QuantizeLinear", raised, self.scalar(step), self.constant(np.int8(0)))

    def dequantize(self, codes: str, step: float) -> str:
        """Turn codes into real numbers."""
        # Without the zero point, 0 is meant; but ONNX Runtime 1.32 then moves the node as if codes were uint8.
        return self.node("DequantizeLinear", codes, self.scalar(step), self.constant(np.int8(0)))

    def is_constant(self, name: str) -> bool:
        """Tell whether a name is that of a weight or a constant."""
        return name in self._arrays

    def _name(self, prefix: str) -> str:
        return f"{self.layer}:{super()._name(prefix)}"


@dataclass
class _Graph:
    """One graph while it is built; without a plan all of it is FP32."""

    model: Model
    plan: QuantPlan | None
    outputs: Collection[str]
    g: GraphBuilder = field(default_factory=GraphBuilder)
    real: dict[str, str] = field(default_factory=dict)  # value -> name of its real numbers
    codes: dict[str, str] = field(default_factory=dict)  # value -> name of its codes
    read: dict[tuple[str, float], str] = field(default_factory=dict)  # codes and their step -> name of real numbers
    unrounded: dict[str, float] = field(default_factory=dict)  # values in `real` for the next layer -> their nudge

    def visit(self, layer: Layer, op: Op) -> None:
        self.g.layer = layer.name
        own = None if self.plan is None else self.plan.forms[layer.name]
        if own is not None:
            self._visit_int8(layer, op, own)
            return
        tops = op.lower(self.g, self.model.call(layer, [self._real(b) for b in layer.bottoms]))
        self.real.update(zip(layer.tops, tops, strict=True))

    def _visit_int8(self, layer: Layer, op: Op, own: IntegerForm) -> None:
        call, steps = self.model.call(layer), [self._step(b) for b in layer.bottoms]
        scales = own.real_scales(steps, self._step(layer.tops[0]))
        bottoms = [self._read(b, step) for b, step in zip(layer.bottoms, scales.bottoms, strict=True)]
        self.g.scales = scales
        tops = op.lower_dequantized(self.g, replace(call, bottoms=tuple(bottoms)), own, scales)
        self.g.scales = None
        nudge = self.unrounded.get(layer.bottoms[0], scales.nudge)
        for top, name in zip(layer.tops, tops, strict=True):
            self._write(top, name, scales.top, nudge)

    def _write(self, top: str, name: str, step: float, nudge: float) -> None:
        """Quantise a top, unless it has just been dequantised, or a layer that hands codes on is all that reads it."""
        codes = next((c for (c, s), real in self.read.items() if real == name and s == step), None)
        if codes is not None:
            self.codes[top] = codes
        elif top not in self.outputs and self._is_handed_on(top):
            self.real[top], self.unrounded[top] = name, nudge
        else:
            self.codes[top] = self.g.quantize(name, step, nudge)

    def _is_handed_on(self, value: str) -> bool:
        """Tell whether one INT8 layer reads the value and gives the same codes, or only non-negative ones."""
        readers = self.model.net.consumers[value]
        if self.plan is None or len(readers) != 1 or readers[0].bottoms.count(value) != 1:
            return False
        own, op = self.plan.forms[readers[0].name], self.model.op_of[readers[0].name]
        return own is not None and readers[0].bottoms[0] == value and (own.hands_on or op.passive)

    def _read(self, value: str, step: float) -> str:
        """The value's codes as real numbers, in steps of so many real units."""
        if value in self.unrounded:
            return self.real[value]
        if value not in self.codes:
            own = self._step(value)
            self.codes[value] = self.g.quantize(self._real(value), own, own * SMALLEST_NUDGE)
        key = (self.codes[value], step)
        if key not in self.read:
            self.read[key] = self.g.dequantize(*key)
        return self.read[key]

    def _real(self, value: str) -> str:
        if value in self.codes and value not in self.real:
            return self._read(value, self._step(value))
        if value not in self.real:
            self.real[value] = self.g.input(self.model.shapes[value])
        return self.real[value]

    def _step(self, value: str) -> float:
        if self.plan is None:
            raise AssertionError("a network in FP32 has no steps")
        return self.plan.thresholds[value] / INT8_LEVELS

    def finish(self, name: str, outputs: Sequence[str]) -> Any:
        """Make the ModelProto. Inputs and outputs have the names of their blobs, inner values theirs where they are
        free.
        """
        net, shapes = self.model.net, self.model.shapes
        labels = {self.real[value]: net.blob_of[value] for value in self.model.inputs if value in self.real}
        ports: dict[str, Shape] = {}
        for value in outputs:
            tensor = self._real(value)
            self.g.layer = value
            if tensor in labels or self.g.is_constant(tensor):
                tensor = self.g.node("Identity", tensor)
            labels[tensor], ports[tensor] = value, shapes[value]
        inner = {tensor: value for value, tensor in self.real.items() if tensor not in labels}
        return finished_proto(self.g, name, ports, {**labels, **inner})


def finished_proto(g: GraphBuilder, name: str, outputs: Mapping[str, Shape], labels: Mapping[str, str]) -> Any:
    """Make the ModelProto of a graph, its weights inside; tensors get their labels where these are free.

    Raises:
        OptionError: the weights are too large for one file.
    """
    proto, external = g.model([(tensor, np.float32) for tensor in outputs])
    if sum(array.nbytes for array in external.values()) > MAX_BYTES:
        raise OptionError(f"{name}: the weights have more than {MAX_BYTES} bytes, the most that one ONNX file can hold")
    graph = proto.graph
    graph.name = name
    used = {x for node in graph.node for x in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]
    for port, shape in zip(graph.output, outputs.values(), strict=True):
        port.CopyFrom(helper.make_tensor_value_info(port.name, TensorProto.FLOAT, shape))
    for initializer in graph.initializer:
        if initializer.name in external:
            initializer.CopyFrom(numpy_helper.from_array(external[initializer.name], initializer.name))
    del proto.opset_import[1:]  # of ONNX's own operators, the only ones here
    _rename(graph, labels)
    return proto


def _rename(graph: Any, labels: Mapping[str, str]) -> None:
    """Give tensors their labels, and all of them names that no other has."""
    written = [name for node in graph.node for name in node.output]
    names = {"": ""}  # an optional input that is left out
    taken = {""}
    for tensor in dict.fromkeys([*labels, *written, *(x.name for x in graph.initializer)]):
        names[tensor] = labels.get(tensor, tensor)
        while names[tensor] in taken:
            names[tensor] += "'"
        taken.add(names[tensor])
    for node in graph.node:
        node.input[:] = [names[x] for x in node.input]
        node.output[:] = [names[x] for x in node.output]
    for x in (*graph.input, *graph.output, *graph.initializer):
        x.name = names[x.name]
