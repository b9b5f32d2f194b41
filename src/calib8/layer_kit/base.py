"""What a layer type is: its parameters, its shape rule, its meaning in float and, where it has one, in integers.

A layer type is one class in one file of this folder, registered by its last statement. The class is made from the
fields of one layer (`__init__` reads them all, so that unread ones can be refused) and knows neither weights nor
shapes; those come with every call.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Layer, Phase, Shape
from calib8.layer_kit.channel_flow import ChannelFlow, Units
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.form import IntegerForm, SameCodes
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales
from calib8.layer_kit.weighted_sum import PLAIN, Refinement

Weights = Sequence[NDArray[np.float32]]
RandomNumbers: TypeAlias = "Callable[[], np.random.Generator]"  # a text: few layers import numpy.random


class LiveBlob(Protocol):
    """A weight that can be written."""

    @property
    def data(self) -> NDArray[np.float32]:
        """The values: a view."""


UNLIMITED = 1 << 30
_LONG_NAME = 8


@dataclass(frozen=True)
class Call:
    """One layer while it is lowered.

    Attributes:
        bottoms: the ONNX names of the bottoms' values.
        bottom_shapes, top_shapes: Caffe's shapes of the bottoms and of the tops.
        blobs: the layer's weights, in the shapes of `Op.blob_shapes`: float32; integers in `Op.lower_dequantized`.
    """

    bottoms: tuple[str, ...]
    bottom_shapes: tuple[Shape, ...]
    top_shapes: tuple[Shape, ...]
    blobs: Sequence[Array] = ()


@dataclass(frozen=True)
class QuantizeCall:
    """One layer while its integers are computed.

    Attributes:
        call: shapes and float weights.
        bottom_thresholds, top_thresholds: in real units, after folding.
        refinement: how weights are rounded, and what is added to biases.
        bottom_units, top_units: of values whose channels have units of their own, (C) each; None for the others. An op
            that reads them says so (`Op.takes_channel_units`).
    """

    call: Call
    bottom_thresholds: tuple[float, ...]
    top_thresholds: tuple[float, ...]
    refinement: Refinement = PLAIN
    bottom_units: tuple[NDArray[np.float64] | None, ...] = ()
    top_units: tuple[NDArray[np.float64] | None, ...] = ()

    @property
    def has_units(self) -> bool:
        """Whether the channels of a bottom or top have units of their own."""
        return any(unit is not None for unit in (*self.bottom_units, *self.top_units))


@dataclass(frozen=True, eq=False)
class ChannelAffine:
    """y = factor[c] * x + offset[c]; (C) each."""

    factor: NDArray[np.float64]
    offset: NDArray[np.float64]


class Op(ABC):
    """A Caffe layer with its parameters read.

    Class attributes:
        types: the type names that mean this layer, in all dialects.
        bottoms, tops: the least and the largest number of bottoms and tops.
        kind: "onnx" (has a lowering), "host" (runs in Python: has `run`), "source" (its tops are the net's inputs);
            an instance may have another one than its class.
        neutral_blobs: numbers for each blob with which the layer can be quantised whatever the thresholds; 0 beyond.
        unfilled: what Caffe fills the first blob with where the prototxt names no filler.
        fillers: for each blob, the field that fills it ("" for none) and its number without one; () where the fillers
            of the layer's message stand in the order of the blobs.
        shares_memory: whether Caffe's tops lie in the first bottom's memory, where layers in place change both.
        takes_channel_units: whether `quantize` reads the units of channels of its bottom or top.
        notes: what the layer sets and nobody reads, one clause each.
        trains: whether it computes what it computes in TRAIN alone, and keeps its weights to itself: see `join_net`.
    """

    types: ClassVar[tuple[str, ...]]
    bottoms: ClassVar[tuple[int, int]] = (1, 1)
    tops: ClassVar[tuple[int, int]] = (1, 1)
    kind: str = "onnx"
    neutral_blobs: ClassVar[tuple[float, ...]] = ()
    unfilled: ClassVar[float] = 0.0
    fillers: tuple[tuple[str, float], ...] = ()
    shares_memory: bool = False
    takes_channel_units: ClassVar[bool] = False
    notes: tuple[str, ...] = ()
    trains: bool = False

    @abstractmethod
    def __init__(self, fields: Fields) -> None:
        """Read every field that the type knows. Raises RefusedError for values without a meaning."""

    @abstractmethod
    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shapes of the tops. Raise RefusedError when the bottoms do not fit."""

    def renewed(self) -> Op:
        """Return the same layer for a network with other shapes: itself, unless it remembers what it has seen."""
        return self

    def join_net(self, numbers: RandomNumbers, blobs: Sequence[LiveBlob]) -> None:  # noqa: B027 - often nothing to do
        """Become a layer of a net that one runs pass by pass, as pycaffe does: states live on, random numbers follow.

        Without it every pass is like the first, whatever was run before: calibration relies on that.

        Args:
            numbers: gives the generator that layers draw from.
            blobs: the net's weights of this layer. A layer that `trains` reads and writes them itself.
        """

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shapes of the weights, in the order of the caffemodel."""
        return []

    def weight_notes(self, blobs: Weights) -> list[str]:
        """Say what is odd in the weights of a caffemodel, one clause each: "its scale factor is 0, .."."""
        return []

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        """Add float nodes to `g`; return the ONNX names of the tops. A top may be a bottom's name (nothing to do)."""
        raise AssertionError(f"{type(self).__name__} is of kind {self.kind!r} and has no lowering")

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        """Compute the tops in Python (kind "host")."""
        raise AssertionError(f"{type(self).__name__} is of kind {self.kind!r} and does not run in Python")

    def multiply_adds(self, call: Call) -> int:
        """Count the multiply-add operations of one forward pass; 0 where they do not matter."""
        return 0

    @property
    def passive(self) -> bool:
        """Whether the tops hold values of the first bottom, so that it and they share one threshold."""
        return False

    @property
    def moves_data(self) -> bool:
        """Whether `lower` only moves elements, so that the same nodes work on codes."""
        return False

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        """Tell, from which bottoms can hold no negative number, whether no top can; False where that is not known."""
        return self.moves_data and all(bottoms)

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        """Say why the contract has no integers for the layer, which stays in FP32; None where `quantize` gives them.

        Only shapes are read, and thresholds compared with one another: `calib8 check` asks before there are any.
        """
        return None if self.moves_data else "no integer rule"

    def quantize(self, q: QuantizeCall) -> IntegerForm:
        """Compute the layer's integers; called where `fp32_reason` has none.

        Raises:
            QuantizationError: the contract cannot express it with these thresholds.
        """
        if not self.moves_data:
            raise AssertionError(f"{type(self).__name__} has no reason for FP32 and no integer rule")
        return SameCodes()

    def takes_over(self, follower: Op, bottoms: Sequence[Shape]) -> bool:
        """Tell whether this layer can do the work of `follower`, the only reader of its top, in one integer step.

        Args:
            bottoms: shapes of the follower's bottoms.
        """
        return False

    def quantize_with(self, q: QuantizeCall, follower: Op, blobs: Weights) -> tuple[IntegerForm, IntegerForm]:
        """Compute this layer's integers, with the work of a follower that it takes over in them, and the follower's.

        Args:
            q: of this layer; its top's threshold is that of the follower's top.
            blobs: the follower's weights.
        """
        raise AssertionError(f"{type(self).__name__} takes over no other layer")

    def channel_affine(self, call: Call) -> ChannelAffine | None:
        """Return factor and offset, where the layer is y = factor[c] * x + offset[c] along axis 1 and nothing else."""
        return None

    def with_channel_affine(self, call: Call, affine: ChannelAffine) -> tuple[Op, Weights] | None:
        """Fold y = factor[c] * x + offset[c] behind the layer into its own weights; None where they cannot hold it.

        Args:
            affine: one factor and one offset for each channel (axis 1) of the top.
        """
        return None

    def channel_flow(self, call: Call) -> ChannelFlow:
        """Tell what becomes of a positive factor of each channel of the bottoms; see `channel_flow`."""
        return ChannelFlow.MIXED

    def blobs_in_units(self, call: Call, bottom: Units | None, top: Units | None) -> tuple[Array, ...]:
        """Give the weights with which x / bottom becomes y / top, where the layer makes y of x.

        Args:
            call: of a layer whose `channel_flow` is WEIGHTED, or TAKEN.
            bottom, top: units of the channels, (C) each; None for ones.
        """
        raise AssertionError(f"{type(self).__name__} has no weights that take up units")

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        """Add the layer in integers. Bottoms and tops are uint8 and hold `code + 128`."""
        if not self.moves_data:
            raise AssertionError(f"{type(self).__name__} has an integer rule and no integer lowering")
        return self.lower(g, call)

    def lower_dequantized(self, g: OnnxBuilder, call: Call, form: IntegerForm, scales: RealScales) -> list[str]:
        """Add the layer in float over dequantised codes, for models with QuantizeLinear and DequantizeLinear.

        Args:
            g: turns integer weights into real numbers, in the steps of `scales`.
        """
        return self.lower(g, replace(call, blobs=form.blobs or call.blobs))


_REGISTRY: dict[str, type[Op]] = {}


def register(op: type[Op]) -> None:
    """Make a layer type known under all its names."""
    for name in op.types:
        if name in _REGISTRY:
            raise AssertionError(f"layer type {name!r} is registered twice: {_REGISTRY[name]} and {op}")
        _REGISTRY[name] = op


def registry() -> dict[str, type[Op]]:
    """Return all layer types by name."""
    return dict(_REGISTRY)


def make_op(layer: Layer, model_folder: Path = Path(), phase: Phase = Phase.TEST) -> Op:
    """Make the Op of a layer.

    Args:
        model_folder: the prototxt's folder, for layers that the user wrote.
        phase: the network's, for the same.

    Raises:
        RefusedError: unsupported type, wrong number of bottoms or tops, a field without meaning, set fields that are
            not implemented (all of them in one sentence).
    """
    op_type = _REGISTRY.get(layer.type)
    if op_type is None:
        raise RefusedError(f"this layer type is not supported{_meant(layer.type)}")
    _check_count("bottom", len(layer.bottoms), op_type.bottoms)
    _check_count("top", len(layer.tops), op_type.tops)
    fields = Fields(layer.param, model_folder, phase, layer.place)
    op = op_type(fields)
    unread = fields.unread(is_source=op.kind == "source")
    if unread:
        one = len(unread) == 1
        raise RefusedError(
            f"{', '.join(unread)} {'is' if one else 'are'} set, which calib8 does not implement; remove "
            f"{'it if it has' if one else 'them if they have'} no effect"
        )
    op.notes = () if op.kind == "source" else tuple(fields.notes())
    return op


def _meant(layer_type: str) -> str:
    """A known type that is spelled nearly like this one; "" without one. CReLU is no misspelt ReLU, nor PReLU."""
    spelled = {known.lower(): known for known in _REGISTRY}
    cutoff = 0.9 if len(layer_type) >= _LONG_NAME else 1.0
    near = difflib.get_close_matches(layer_type.lower(), spelled, n=1, cutoff=cutoff)
    return f"; did you mean {spelled[near[0]]}?" if near else ""


def _check_count(what: str, number: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if low <= number <= high:
        return
    expected = f"{low}" if low == high else f"at least {low}" if high == UNLIMITED else f"{low} to {high}"
    raise RefusedError(f"has {number} {what}s, expected {expected}")


def canonical_axis(axis: int, rank: int, field: str) -> int:
    """Count a negative axis from the end, as Caffe's CanonicalAxisIndex. Raise RefusedError outside [-rank, rank)."""
    if not -rank <= axis < rank:
        raise RefusedError(f"{field} {axis} is outside a bottom of {rank} dimensions")
    return axis % rank


def count(shape: Sequence[int]) -> int:
    """Count the elements."""
    total = 1
    for n in shape:
        total *= n
    return total
