"""The INT8 walk: some layers in the chip's integers, the others in FP32, values converted where the two meet.

A value has up to two forms in a graph: real numbers, and codes (uint8, `code + 128`). Each is made from the other when
it is first asked for, with the value's threshold. Whoever reads a value from outside gets real numbers; the codes of a
value are an output of their own, called `codes_of(value)`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from calib8.graph import Layer, Shape
from calib8.layer_kit.codes import dequantize_node, quantize_node, without_nan
from calib8.layers import IntegerForm, OnnxBuilder, Op
from calib8.lowering.cuts import needed_layers, stretches
from calib8.lowering.model import Model
from calib8.lowering.shapes import Pair
from calib8.lowering.steps import HostStep, OnnxStep, Port, Step, close_graph

_REAL = "\1"
"""Before the name of an input that the user quantises: its real numbers, for layers in Python."""
_USER_SCALE = 128.0
"""Input that the user quantised is x * 128 / threshold: its "threshold" is 128."""


def codes_of(value: str) -> str:
    """The name of a value's codes; no blob has it, since no prototxt can hold the character."""
    return f"\0{value}"


def is_codes(name: str) -> bool:
    """Whether a name is that of a value's codes."""
    return name.startswith("\0")


def value_of(name: str) -> str:
    """The value that a name, real or of codes, belongs to."""
    return name.removeprefix("\0").removeprefix(_REAL)


@dataclass(frozen=True, eq=False)
class IntegerSetup:
    """What of a network runs in integers.

    Attributes:
        int8_layers: names of the layers; each has a form.
        forms: integers by layer name.
        thresholds: of every value that is quantised or dequantised, in real units.
        quantized_inputs: input values that come as x * 128 / threshold instead of as real numbers.
        accumulator_bits: of the sums of an Eltwise: the chip's 16, which saturate, or 32.
        integer_kernels: whether the device has kernels over integers; without, float32 adds, with the same results.
    """

    int8_layers: frozenset[str]
    forms: Mapping[str, IntegerForm]
    thresholds: Mapping[str, float]
    quantized_inputs: frozenset[str] = frozenset()
    accumulator_bits: int = 16
    integer_kernels: bool = True


def lower_int8(model: Model, setup: IntegerSetup, outputs: Collection[str]) -> tuple[Step, ...]:
    """The steps that compute `outputs`: values (real numbers) and `codes_of` values, and nothing else.

    A network without a layer in Python is one graph.
    """
    return lower_stretch(model, setup, model.net.layers, (), outputs)


def lower_stretch(
    model: Model, setup: IntegerSetup, layers: Sequence[Layer], available: Collection[str], outputs: Collection[str]
) -> tuple[Step, ...]:
    """The steps of some layers only, one after another in the network.

    Args:
        layers: those that may be needed; what comes before them is `available`.
        available: names, real or codes, of values that the steps may take as their inputs. A value that a layer in
            Python reads must be there as a real number.
        outputs: as in `lower_int8`; what is available needs no step.
    """

    def again(shapes: Mapping[str, Shape]) -> tuple[Step, ...]:
        return lower_stretch(model.with_shapes(shapes), setup, layers, available, outputs)

    within = {layer.name for layer in layers}
    needed = needed_layers(model, {value_of(name) for name in outputs})
    cut = list(stretches(model, [(layer, op) for layer, op in needed if layer.name in within]))
    steps: list[Step] = []
    given = set(available)
    for stretch, wanted in zip(cut, _read_later(setup, cut, outputs), strict=True):
        layer, op = stretch[0]
        if op.kind == "host":
            real = {b: _REAL + b for b in layer.bottoms if b in setup.quantized_inputs}
            if real:
                steps.append(_GraphWalk(model, setup, given).close(real.values(), (layer.name,)))
            bottoms = tuple(real.get(b, b) for b in layer.bottoms)
            steps.append(HostStep(replace(layer, bottoms=bottoms), op, model.call(layer), again))
            given.update(layer.tops)
        else:
            step = _GraphWalk(model, setup, given).lower(stretch, wanted)
            steps.append(step)
            given.update(step.outputs)
    missing = {name for name in outputs if is_codes(name)} - given  # of inputs, and of what layers in Python give
    if missing:
        producers = dict.fromkeys(model.net.producer[value_of(name)].name for name in sorted(missing))
        steps.append(_GraphWalk(model, setup, given).close(missing, tuple(producers)))
    return tuple(steps)


def _read_later(setup: IntegerSetup, cut: Sequence[Sequence[Pair]], outputs: Collection[str]) -> list[set[str]]:
    """For every stretch the names, real or codes, that later ones or the caller read."""
    found: list[set[str]] = []
    read = set(outputs)
    for stretch in reversed(cut):
        found.append(set(read))
        for layer, op in stretch:
            as_codes = layer.name in setup.int8_layers and op.kind != "host"
            read |= {codes_of(b) if as_codes else b for b in layer.bottoms}
    return found[::-1]


@dataclass
class _GraphWalk:
    """One graph while it is built."""

    model: Model
    setup: IntegerSetup
    available: Collection[str]  # what earlier steps give, real or codes
    names: dict[str, str] = field(default_factory=dict)  # real or codes -> name in the graph
    inputs: dict[str, Port] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.g = OnnxBuilder(integer_kernels=self.setup.integer_kernels, accumulator_bits=self.setup.accumulator_bits)

    def lower(self, stretch: Sequence[Pair], wanted: Collection[str]) -> OnnxStep:
        for layer, op in stretch:
            self._layer(layer, op)
        made = {top for layer, _ in stretch for top in layer.tops}
        outputs = {n for n in wanted if value_of(n) in made or self._is_input_codes(n)}
        return self.close(outputs, tuple(layer.name for layer, _ in stretch))

    def close(self, outputs: Collection[str], layers: tuple[str, ...]) -> OnnxStep:
        """The step that gives `outputs`, real or codes; those that no layer has made are made here."""
        ports = [self._output(name) for name in sorted(outputs)]
        return close_graph(self.g, list(self.inputs.values()), ports, layers)

    def _is_input_codes(self, name: str) -> bool:
        return is_codes(name) and value_of(name) in self.model.inputs and name not in self.available

    def _layer(self, layer: Layer, op: Op) -> None:
        if layer.name in self.setup.int8_layers:
            call = self.model.call(layer, [self._codes(b) for b in layer.bottoms])
            tops = op.lower_int8(self.g, call, self.setup.forms[layer.name])
            self.names.update(zip(map(codes_of, layer.tops), tops, strict=True))
        else:
            call = self.model.call(layer, [self._real(b) for b in layer.bottoms])
            self.names.update(zip(layer.tops, op.lower(self.g, call), strict=True))

    def _real(self, value: str) -> str:
        if value not in self.names:
            from_codes = codes_of(value) in self.names or codes_of(value) in self.available
            if value in self.setup.quantized_inputs or (from_codes and value not in self.available):
                self.names[value] = dequantize_node(self.g, self._codes(value), self.setup.thresholds[value])
            else:
                self.names[value] = self._input(value, np.float32)
        return self.names[value]

    def _codes(self, value: str) -> str:
        name = codes_of(value)
        if name not in self.names:
            if name in self.available:
                self.names[name] = self._input(name, np.uint8)
            elif value in self.setup.quantized_inputs:
                self.names[name] = quantize_node(self.g, self._input(value, np.float32), _USER_SCALE)
            else:
                real = self._real(value)
                if value not in self.model.inputs:  # what users hand in is theirs, and large
                    real = without_nan(self.g, real)
                self.names[name] = quantize_node(self.g, real, self.setup.thresholds[value])
        return self.names[name]

    def _input(self, name: str, dtype: Any) -> str:
        if name not in self.inputs:
            shape = self.model.shapes[value_of(name)]
            self.inputs[name] = Port(name, self.g.input(shape, dtype), shape, dtype)
        return self.inputs[name].name

    def _output(self, name: str) -> Port:
        shape = self.model.shapes[value_of(name)]
        if is_codes(name):
            return Port(name, self._codes(value_of(name)), shape, np.uint8)
        return Port(name, self._real(value_of(name)), shape)
