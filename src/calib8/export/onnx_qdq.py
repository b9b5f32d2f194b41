"""A network as ONNX with QuantizeLinear and DequantizeLinear as runtimes other than the BM1880 want it.

BatchNorm and Scale are folded into the weights in front of them. Weights have 127 levels and a scale for each output;
a threshold of ours is the largest code of an activation. Activations are
quantised where a layer reads them that runtimes have in integers; a rectifier belongs to the layer in front of it. The
network's outputs, and what runs in FP32, stay real numbers.

- int8 (`Zero.NONE`): signed codes, threshold / 127, no zero points, real biases: TensorRT takes nothing else.
- uint8 (`Zero.OFFSET`): what is never negative has 255 levels, zero point 0; the rest 128 as its zero point. Biases
  are whole numbers of 32 bits in the scale of the sums. ONNX Runtime's kernels for x86 are fastest so.

On x86 processors without VNNI, ONNX Runtime adds pairs of products of uint8 activations and int8 weights in 16 bits,
which saturate; of int8 activations it makes uint8 ones before. With 64 levels no pair can.

Source: onnx/onnx, docs/Operators.md, QuantizeLinear; TensorRT, Developer Guide, "Explicit Quantization".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from calib8.export.onnx_model import GraphBuilder, OnnxExport, finished_proto, reachable_outputs
from calib8.export.tpu_mlir import non_negative_values
from calib8.graph import Layer
from calib8.layer_kit.neuron import Neuron
from calib8.layer_kit.weighted_window import WeightedWindow
from calib8.layers import Op
from calib8.layers.concat import Concat
from calib8.layers.convolution import Convolution
from calib8.layers.eltwise import Eltwise
from calib8.layers.inner_product import InnerProduct
from calib8.layers.pooling import Pooling
from calib8.lowering import Model, fold_channel_affines
from calib8.lowering.cuts import needed_layers
from calib8.quantize import QuantPlan
from calib8.quantize.channel_units import in_channel_units

_LEVELS, _UNSIGNED_LEVELS, _OFFSET = 127, 255, 128
_REDUCED_LEVELS = 64  # 2 * 64 * 255 is below 2^15: no pair of products saturates
_LARGEST_BIAS = 2**30
_LEAST_SCALE = 1e-30
"""Weights of such a scale, and biases that fit it, are nothing beside any others."""


class Zero(Enum):
    """Whether codes of activations are signed without a zero point, or unsigned with one."""

    NONE = "int8"
    OFFSET = "uint8"


@dataclass(frozen=True)
class _Codes:
    """How a value is quantised: real units per code, and the code of 0, whose type is that of the codes."""

    step: float
    zero: np.int8 | np.uint8


def qdq_export(name: str, model: Model, plan: QuantPlan, zero: Zero, *, reduce_range: bool = False) -> OnnxExport:
    """Write the network with weights per channel; where channels count in units, with weights that take them up.

    Args:
        reduce_range: weights with 64 levels in place of 127.

    Raises:
        UnsupportedError: nothing of the network can be computed without a layer that runs in Python.
        OptionError: the weights are too large for one file.
    """
    folded = fold_channel_affines(in_channel_units(model, plan.channel_units))
    outputs, notes = reachable_outputs(folded)
    graph = _Graph(folded, plan, zero, outputs, non_negative_values(folded))
    graph.g.levels = _REDUCED_LEVELS if reduce_range else _LEVELS
    for layer, op in needed_layers(folded, outputs):
        graph.visit(layer, op)
    return OnnxExport(graph.finish(name), notes)


def pairs_may_saturate(export: OnnxExport) -> bool:
    """Tell whether weights are so large that two products of them and activations may not fit into 16 bits."""
    weights = (numpy_helper.to_array(x) for x in export.proto.graph.initializer if x.data_type == TensorProto.INT8)
    return any(np.abs(codes).max(initial=0) > _REDUCED_LEVELS for codes in weights)


class _Builder(GraphBuilder):
    """Quantises the weights of the layer that is visited, if it is told the step of its bottom."""

    real_biases = False
    levels = _LEVELS
    bottom: float | None = None
    axis: int | None = 0
    """Of the outputs in the weights; None for one scale for all."""
    biases: NDArray[np.float32] | None = None
    """Of the layer that is visited, if they will be whole numbers in the scale of the sums."""
    _scales: NDArray[np.float32]

    def weight(self, array: NDArray[Any]) -> str:
        """Add a weight, or a bias, quantised where the layer's bottom is."""
        if self.bottom is None:
            return super().weight(array)
        if array.ndim > 1:
            return self._per_output(array)
        return super().weight(array) if self.real_biases else self._in_sums(array)

    def _per_output(self, array: NDArray[np.float32]) -> str:
        others = tuple(i for i in range(array.ndim) if i != self.axis)
        largest = np.abs(array).max(axis=others if self.axis is not None else None, keepdims=True)
        scales = np.maximum(largest / np.float64(self.levels), self._least_scales(largest.shape))
        self._scales = np.where(scales > _LEAST_SCALE, scales, 1).astype(np.float32)
        codes = np.clip(np.rint(array / self._scales), -self.levels, self.levels).astype(np.int8)
        return self._dequantized(codes, self._scales.reshape(-1), self.axis)

    def _least_scales(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Find the scales of weights in which biases just fit: those of outputs whose weights are next to nothing."""
        if self.biases is None or self.bottom is None:
            return np.zeros(shape)
        least = np.abs(self.biases, dtype=np.float64).ravel() / (_LARGEST_BIAS * self.bottom)
        return least.reshape(shape) if self.axis is not None else least.max().reshape(shape)

    def _in_sums(self, array: NDArray[np.float32]) -> str:
        scales = np.float32(self.bottom) * self._scales.reshape(-1)
        codes = np.clip(np.rint(array / scales), -_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int32)
        return self._dequantized(codes, scales, 0)

    def _dequantized(self, codes: NDArray[Any], scales: NDArray[np.float32], axis: int | None) -> str:
        name, single = super().weight(codes), axis is None or scales.size == 1
        # Without zero points, 0 is meant; ONNX Runtime 1.23.0 then makes one for all outputs of a Gemm, and fails.
        # No two layers share one: with `session.x64quantprecision` ONNX Runtime 1.32 changes it, and fails otherwise.
        zeros = [super().weight(np.zeros(() if single else scales.size, np.int8))] if codes.dtype == np.int8 else []
        if single:
            return self.node("DequantizeLinear", name, self.scalar(float(scales[0])), *zeros)
        return self.node("DequantizeLinear", name, self.constant(scales), *zeros, axis=axis)


@dataclass
class _Graph:
    model: Model
    plan: QuantPlan
    zero: Zero
    outputs: Collection[str]
    non_negative: Collection[str]
    g: _Builder = field(default_factory=_Builder)
    real: dict[str, str] = field(default_factory=dict)  # value -> its tensor before it is quantised
    read: dict[str, str] = field(default_factory=dict)  # value -> its tensor as layers read it
    codes: dict[str, _Codes] = field(default_factory=dict)
    reaching: set[str] = field(default_factory=set)  # values whose codes come to a layer with weights

    def __post_init__(self) -> None:
        self.g.real_biases = self.zero is Zero.NONE
        for layer, op in reversed(self.model.pairs):
            if self._quantises(layer) or (isinstance(op, Neuron) and self._goes_on(layer)):
                self.reaching.update(layer.bottoms)

    def visit(self, layer: Layer, op: Op) -> None:
        self.g.layer = layer.name
        bottoms = [self._read(b) for b in layer.bottoms]
        if isinstance(op, WeightedWindow | InnerProduct) and self._in_integers(layer):
            self.g.bottom, self.g.axis = self._codes_of(layer.bottoms[0]).step, _outputs_axis(self.model, layer, op)
            self.g.biases = layer.blobs[1] if len(layer.blobs) > 1 and not self.g.real_biases else None
        tops = op.lower(self.g, replace(self.model.call(layer), bottoms=tuple(bottoms)))
        self.g.bottom = self.g.biases = None
        for top, tensor in zip(layer.tops, tops, strict=True):
            self.real[top] = tensor
            if _keeps_codes(op) and layer.bottoms[0] in self.codes:
                self.codes[top] = self.codes[layer.bottoms[0]]

    def _read(self, value: str) -> str:
        if value not in self.real:
            self.real[value] = self.g.input(self.model.shapes[value])
        if value not in self.read:
            wanted = any(self._quantises(reader) for reader in self.model.net.consumers[value])
            self.read[value] = self._through_codes(value) if wanted else self.real[value]
        return self.read[value]

    def _quantises(self, reader: Layer) -> bool:
        op = self.model.op_of[reader.name]
        if not self._in_integers(reader):
            return False
        is_between = isinstance(op, Pooling | Eltwise | Concat) or op.moves_data
        return isinstance(op, WeightedWindow | InnerProduct) or (is_between and self._goes_on(reader))

    def _goes_on(self, layer: Layer) -> bool:
        """Tell whether what a layer gives comes to one with weights; otherwise its codes would bring nothing.

        Between heads and outputs they would even harm: a Concat of boxes and scores has one step for both.
        """
        return not self.reaching.isdisjoint(layer.tops)

    def _in_integers(self, layer: Layer) -> bool:
        return self.plan.forms.get(layer.name) is not None

    def _through_codes(self, value: str) -> str:
        codes = self._codes_of(value)
        step, zero = self.g.scalar(codes.step), self.g.constant(codes.zero)
        return self.g.node("DequantizeLinear", self.g.node("QuantizeLinear", self.real[value], step, zero), step, zero)

    def _codes_of(self, value: str) -> _Codes:
        if value not in self.codes:
            threshold = self.plan.thresholds[value]
            if self.zero is Zero.NONE:
                self.codes[value] = _Codes(threshold / _LEVELS, np.int8(0))
            elif value in self.non_negative:
                self.codes[value] = _Codes(threshold / _UNSIGNED_LEVELS, np.uint8(0))
            else:
                self.codes[value] = _Codes(threshold / _LEVELS, np.uint8(_OFFSET))
        return self.codes[value]

    def finish(self, name: str) -> Any:
        """Make the ModelProto; inputs and outputs have the names of their blobs, inner values theirs."""
        net = self.model.net
        labels = {self.real[value]: net.blob_of[value] for value in self.model.inputs if value in self.real}
        ports = {}
        for value in self.outputs:
            tensor = self.real[value]
            self.g.layer = value
            if tensor in labels or self.g.is_constant(tensor):
                tensor = self.g.node("Identity", tensor)
            labels[tensor], ports[tensor] = value, self.model.shapes[value]
        inner = {tensor: value for value, tensor in self.real.items() if tensor not in labels}
        return finished_proto(self.g, name, ports, {**labels, **inner})


def _keeps_codes(op: Op) -> bool:
    """Whether the top's numbers are some of the bottom's: it then needs no other step."""
    return (op.moves_data and not isinstance(op, Concat)) or (isinstance(op, Pooling) and op.method == "MAX")


def _outputs_axis(model: Model, layer: Layer, op: Op) -> int | None:
    if isinstance(op, InnerProduct):
        return 1 if op.transpose else 0
    if isinstance(op, WeightedWindow) and not isinstance(op, Convolution):
        groups = op.geometry(model.shapes[layer.bottoms[0]])[1]
        return 1 if groups == 1 else None  # a transposed convolution has the outputs of one group on axis 1
    return 0
