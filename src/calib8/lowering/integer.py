"""The INT8 walk: some layers in the chip's integers, the others in FP32, values converted where the two meet.

A value has up to two forms in a graph: real numbers, and codes (uint8, `code + 128`). Each is made from the other when
it is first asked for, with the value's threshold. Whoever reads a value from outside gets real numbers; the codes of a
value are an output of their own, `Codes(value)`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from calib8.graph import Layer, Shape
from calib8.layer_kit.base import ChannelAffine
from calib8.layer_kit.codes import comes_by_pixel, dequantize_node, entering_codes, quantize_node, without_nan
from calib8.layers import IntegerForm, OnnxBuilder, Op
from calib8.layers.convolution import Convolution
from calib8.layers.eltwise import Eltwise
from calib8.lowering.cuts import needed_layers, stretches
from calib8.lowering.model import Model
from calib8.lowering.readings import Codes, Reading, Real, in_order, value_of
from calib8.lowering.shapes import Pair
from calib8.lowering.steps import HostStep, OnnxStep, Port, Step, close_graph, float_bytes

ChannelUnits = Mapping[str, NDArray[np.float64]]
"""By value, (C): what a code of each channel (axis 1) is worth, as a part of threshold / 128."""
_USER_SCALE = 128.0
"""Input that the user quantised is x * 128 / threshold: its "threshold" is 128."""


@dataclass(frozen=True, eq=False)
class IntegerSetup:
    """What of a network runs in integers.

    Attributes:
        int8_layers: names of the layers; each has a form.
        forms: integers by layer name.
        thresholds: of every value that is quantised or dequantised, in real units.
        quantized_inputs: input values that come as x * 128 / threshold instead of as real numbers.
        accumulator_bits: of the sums of an Eltwise: the chip's 16, which saturate, or 32.
        channel_units: of values whose channels have units of their own; they are quantised and dequantised with them.
        integer_kernels: whether the device has kernels over integers; without, float32 adds, with the same results.
        joined_affines: whether a BatchNorm of images that stays in FP32 is one product and one sum a channel, with
            the Scale behind it; layers like it, too. That is two to three times as fast, and has other last bits.
    """

    int8_layers: frozenset[str]
    forms: Mapping[str, IntegerForm]
    thresholds: Mapping[str, float]
    quantized_inputs: frozenset[str] = frozenset()
    accumulator_bits: int = 16
    channel_units: ChannelUnits = field(default_factory=dict)
    integer_kernels: bool = True
    joined_affines: bool = False


def lower_int8(model: Model, setup: IntegerSetup, outputs: Collection[Reading]) -> tuple[Step, ...]:
    """Make the steps that compute `outputs`: values (real numbers) and their `Codes`, and nothing else.

    A network without a layer in Python is one graph.
    """
    return lower_stretch(model, setup, model.net.layers, (), outputs)


def lower_stretch(
    model: Model,
    setup: IntegerSetup,
    layers: Sequence[Layer],
    available: Collection[Reading],
    outputs: Collection[Reading],
) -> tuple[Step, ...]:
    """Make the steps of some layers only, one after another in the network.

    Args:
        layers: those that may be needed; what comes before them is `available`.
        available: what the steps may take as their inputs. A value that a layer in Python reads must be there as a
            real number.
        outputs: as in `lower_int8`; what is available needs no step.
    """

    def again(shapes: Mapping[str, Shape]) -> tuple[Step, ...]:
        return lower_stretch(model.with_shapes(shapes), setup, layers, available, outputs)

    within = {layer.name for layer in layers}
    needed = needed_layers(model, {value_of(name) for name in outputs})
    cut = list(stretches(model, [(layer, op) for layer, op in needed if layer.name in within]))
    steps: list[Step] = []
    given: set[Reading] = set(available)
    for stretch, wanted in zip(cut, _read_later(setup, cut, outputs), strict=True):
        layer, op = stretch[0]
        if op.kind == "host":
            bottoms = tuple(Real(b) if b in setup.quantized_inputs else b for b in layer.bottoms)
            # Python reads real numbers; those of an input that came quantised are made by a graph of their own.
            real = {b for b in bottoms if isinstance(b, Real)}
            if real:
                steps.append(_Graph(model, setup, given).close(real, (layer.name,)))
            steps.append(HostStep(layer, op, model.call(layer), bottoms, again))
            given.update(layer.tops)
        else:
            step = _Graph(model, setup, given).lower(stretch, wanted)
            steps.append(step)
            given.update(step.outputs)
    missing = {r for r in outputs if isinstance(r, Codes)} - given  # of inputs, and of what layers in Python give
    if missing:
        producers = dict.fromkeys(model.net.producer[value_of(r)].name for r in in_order(missing))
        steps.append(_Graph(model, setup, given).close(missing, tuple(producers)))
    return tuple(steps)


def _read_later(setup: IntegerSetup, cut: Sequence[Sequence[Pair]], outputs: Collection[Reading]) -> list[set[Reading]]:
    """For every stretch what later ones or the caller read."""
    later: list[set[Reading]] = []
    read = set(outputs)
    for stretch in reversed(cut):
        later.append(set(read))
        for layer, op in stretch:
            # A graph hands on what the next one reads: codes to a layer in INT8, not a detour through real numbers.
            as_codes = layer.name in setup.int8_layers and op.kind != "host"
            read |= {Codes(b) if as_codes else b for b in layer.bottoms}
    return later[::-1]


@dataclass
class _Graph:
    """One graph while it is built."""

    model: Model
    setup: IntegerSetup
    available: Collection[Reading]  # what earlier steps give
    names: dict[Reading, str] = field(default_factory=dict)  # in the graph; a value's own name: its real numbers
    inputs: dict[Reading, Port] = field(default_factory=dict)
    affines: dict[str, tuple[str, ChannelAffine]] = field(default_factory=dict)  # by top; of which bottom
    sums: set[str] = field(default_factory=set)  # names of what convolutions give
    value_bytes: int = 0

    def __post_init__(self) -> None:
        self.g = OnnxBuilder(integer_kernels=self.setup.integer_kernels, accumulator_bits=self.setup.accumulator_bits)

    def lower(self, stretch: Sequence[Pair], wanted: Collection[Reading]) -> OnnxStep:
        for layer, op in stretch:
            self._layer(layer, op)
            self.value_bytes += sum(float_bytes(self.model.shapes[t]) for t in layer.tops)
        made = {top for layer, _ in stretch for top in layer.tops}
        outputs = {r for r in wanted if value_of(r) in made or self._is_codes_of_input(r)}
        return self.close(outputs, tuple(layer.name for layer, _ in stretch))

    def close(self, outputs: Collection[Reading], layers: tuple[str, ...]) -> OnnxStep:
        """Make the step that gives `outputs`; those that no layer has made are made here."""
        ports = [self._output(reading) for reading in in_order(outputs)]
        return close_graph(self.g, list(self.inputs.values()), ports, layers, self.value_bytes)

    def _is_codes_of_input(self, reading: Reading) -> bool:
        return isinstance(reading, Codes) and reading.value in self.model.inputs and reading not in self.available

    def _layer(self, layer: Layer, op: Op) -> None:
        if layer.name in self.setup.int8_layers:
            call = self.model.call(layer, [self._codes(b) for b in layer.bottoms])
            tops = op.lower_int8(self.g, call, self.setup.forms[layer.name])
            self.names.update(zip(map(Codes, layer.tops), tops, strict=True))
        elif self.setup.joined_affines and self._join(layer, op):
            pass
        else:
            bottoms = [self._real(b) for b in layer.bottoms]
            if self.setup.joined_affines and isinstance(op, Eltwise):
                bottoms = [self._on_its_own(name) for name in bottoms]
            tops = op.lower(self.g, self.model.call(layer, bottoms))
            self.names.update(zip(layer.tops, tops, strict=True))
            if isinstance(op, Convolution):
                self.sums.update(tops)

    def _join(self, layer: Layer, op: Op) -> bool:
        """Lower a factor and an offset for each channel of images, if the layer is no more, as one convolution."""
        shapes = self.model.call(layer).bottom_shapes
        own = op.channel_affine(self.model.call(layer)) if len(shapes) == 1 and len(shapes[0]) == 4 else None
        if own is None or op.kind != "onnx":
            return False
        (bottom,), (top,) = layer.bottoms, layer.tops
        writer = self.model.net.producer[bottom].name
        scale = self.model.batch_norm_pairs.get(writer)
        if bottom in self.affines and scale is not None and scale.name == layer.name:
            bottom, before = self.affines[bottom]
            own = ChannelAffine(own.factor * before.factor, own.factor * before.offset + own.offset)
        factor, offset = own.factor.astype(np.float32), own.offset.astype(np.float32)
        if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
            return False
        self.affines[top] = bottom, own
        weights = self.g.weight(factor.reshape(-1, 1, 1, 1)), self.g.weight(offset)
        self.names[top] = self.g.node("Conv", self._real(bottom), *weights, group=len(factor), kernel_shape=(1, 1))
        self.sums.add(self.names[top])
        return True

    def _on_its_own(self, name: str) -> str:
        """What a convolution gives, so that ONNX Runtime does not add up in it what is added behind it.

        It does where nobody else reads what the convolution gives; so last bits would depend on where graphs end. An
        activation keeps the two apart: this one changes nothing, and costs nothing, since it is computed on the way.
        """
        return self.g.node("Clip", name, self.g.scalar(-np.inf), self.g.scalar(np.inf)) if name in self.sums else name

    def _real(self, value: str) -> str:
        if value not in self.names:
            # Real numbers that an earlier step has come first: made from codes, they would be rounded.
            from_codes = Codes(value) in self.names or Codes(value) in self.available
            is_there = value in self.available or value in self.model.inputs
            if value in self.setup.quantized_inputs or (from_codes and not is_there):
                real = dequantize_node(self.g, self._codes(value), self.setup.thresholds[value])
                self.names[value] = self._times_units(real, value, 1)
            else:
                self.names[value] = self._input(value, np.float32)
        return self.names[value]

    def _codes(self, value: str) -> str:
        codes = Codes(value)
        if codes not in self.names:
            if codes in self.available:
                self.names[codes] = self._input(codes, np.uint8)
            elif value in self.setup.quantized_inputs:
                self.names[codes] = self._entering(value, _USER_SCALE)
            elif value in self.model.inputs and value not in self.setup.channel_units:
                self.names[codes] = self._entering(value, self.setup.thresholds[value])
            else:
                real = self._times_units(without_nan(self.g, self._real(value)), value, -1)
                self.names[codes] = quantize_node(self.g, real, self.setup.thresholds[value])
        return self.names[codes]

    def _entering(self, value: str, threshold: float) -> str:
        """The codes of an input, which is quantised before it comes into the graph: nodes for it take far longer."""
        codes, shape = Codes(value), self.model.shapes[value]
        by_pixel = comes_by_pixel(shape, integer_kernels=self.setup.integer_kernels)
        port = Port(value, "", shape, np.uint8, threshold, by_pixel)
        self.inputs[codes] = replace(port, name=self.g.input(port.entered_shape, np.uint8))
        name = self.inputs[codes].name
        return entering_codes(self.g, name, shape[1]) if by_pixel else name

    def _times_units(self, real: str, value: str, exponent: int) -> str:
        units = self.setup.channel_units.get(value)
        if units is None:
            return real
        along = (1, -1) + (1,) * (len(self.model.shapes[value]) - 2)
        return self.g.node("Mul", real, self.g.constant((units**exponent).reshape(along).astype(np.float32)))

    def _input(self, reading: Reading, dtype: DTypeLike) -> str:
        if reading not in self.inputs:
            shape = self.model.shapes[value_of(reading)]
            self.inputs[reading] = Port(reading, self.g.input(shape, dtype), shape, dtype)
        return self.inputs[reading].name

    def _output(self, reading: Reading) -> Port:
        shape = self.model.shapes[value_of(reading)]
        if isinstance(reading, Codes):
            return Port(reading, self._codes(reading.value), shape, np.uint8)
        return Port(reading, self._real(value_of(reading)), shape)
