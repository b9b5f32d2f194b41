"""A network ready to be lowered: every layer read, every value with a shape, every weight in its place."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from calib8.errors import CaffemodelError, Calib8Error, PrototxtError, UnsupportedError, UserLayerError
from calib8.graph import Layer, Net, Shape
from calib8.graph.build import TEST, draft_net, located
from calib8.layers import Call, Op, RefusedError, make_op
from calib8.lowering.aliases import reads_of_overwritten
from calib8.lowering.weights import bind_blobs, with_shared_blobs
from calib8.proto.caffemodel import Caffemodel
from calib8.proto.text import Prototxt

MAX_ELEMENTS = 2**31 - 1
"""Largest number of elements of one blob (BVLC/caffe src/caffe/blob.cpp, Blob::Reshape)."""

Weights = Caffemodel | Mapping[str, Sequence[NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Model:
    """A Net whose layers are read and fit together.

    Attributes:
        net: the network; its layers carry their weights, in the shapes that the layers want.
        ops: what each of net.layers computes, in the same order.
        shapes: Caffe's shape of every value.
        notes: what was changed, left out or ignored, one sentence each.
    """

    net: Net
    ops: tuple[Op, ...]
    shapes: Mapping[str, Shape]
    notes: tuple[str, ...] = ()

    @cached_property
    def op_of(self) -> dict[str, Op]:
        """The Op of every layer by the layer's name."""
        return {layer.name: op for layer, op in zip(self.net.layers, self.ops, strict=True)}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Values that come from outside: tops of Input and data layers."""
        return tuple(
            top
            for layer, op in zip(self.net.layers, self.ops, strict=True)
            if op.kind == "source"
            for top in layer.tops
        )

    def call(self, layer: Layer, bottoms: Sequence[str] = ()) -> Call:
        """What a layer is called with; `bottoms` are the ONNX names of its bottoms, where there are any yet."""
        return Call(
            bottoms=tuple(bottoms),
            bottom_shapes=tuple(self.shapes[b] for b in layer.bottoms),
            top_shapes=tuple(self.shapes[t] for t in layer.tops),
            blobs=layer.blobs,
        )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a network: the class of its error, and a sentence that says where and what."""

    kind: type[Calib8Error]
    text: str


@dataclass(frozen=True, eq=False)
class Examination:
    """All that can be said of a network, whether it can be used or not.

    Attributes:
        net: with problems only good to look at: bottoms may be missing, names may be there twice.
        ops: what each of net.layers computes; None for a layer that was refused.
        shapes: of every value, as far as they are known.
        problems: everything that is wrong, in the order of the layers; empty for a network that can be used.
    """

    net: Net
    ops: tuple[Op | None, ...]
    shapes: Mapping[str, Shape]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def model(self) -> Model:
        """The network, if nothing is wrong with it; else all problems as one error."""
        kinds = {p.kind for p in self.problems}
        for kind, what in _MESSAGES.items():
            if kind in kinds:
                raise kind(f"{self.net.source}: {what}", [p.text for p in self.problems])
        return Model(self.net, tuple(op for op in self.ops if op is not None), self.shapes, self.notes)


# The class of an error is the first of these that a problem has: what comes first has to be put right first.
_MESSAGES: dict[type[Calib8Error], str] = {
    PrototxtError: "the network cannot be built",
    UnsupportedError: "the network cannot be computed",
    UserLayerError: "Python layers cannot be used",
    CaffemodelError: "the weights do not fit the network",
}


def build_model(
    prototxt: Prototxt,
    weights: Weights | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    phase: int = TEST,
    level: int = 0,
    stages: Collection[str] = (),
    measures: Collection[str] = (),
) -> Model:
    """Read every layer, infer every shape and bind the weights.

    Args:
        weights: a caffemodel, or blobs by layer name; None builds the structure alone.
        input_shapes: shapes of tops of Input and data layers, instead of those in the prototxt.
        phase: 0 for TRAIN, 1 for TEST.
        level, stages: the rest of Caffe's NetState.
        measures: types of layers that only measure, and stay in nevertheless.

    Raises:
        PrototxtError: the layers do not make a network, or `input_shapes` names no input.
        UnsupportedError: layers that calib8 does not compute, or that do not fit together.
        UserLayerError: Python layers that cannot be found, or that failed.
        CaffemodelError: layers without weights, or with others than their parameters ask for.
        Whatever the class: all problems, of all these kinds.
    """
    return examine_model(
        prototxt, weights, input_shapes, phase=phase, level=level, stages=stages, measures=measures
    ).model()


def examine_model(
    prototxt: Prototxt,
    weights: Weights | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    phase: int = TEST,
    level: int = 0,
    stages: Collection[str] = (),
    measures: Collection[str] = (),
) -> Examination:
    """What `build_model` does, and everything that is wrong as a value instead of an error."""
    net, problems = draft_net(prototxt, phase=phase, level=level, stages=stages, measures=measures)
    walk = _Walk(net, input_shapes or {}, phase, bind_weights=weights is not None)
    walk.problems += [Problem(PrototxtError, text) for text in problems]
    stored = with_shared_blobs(net.layers, _blobs_by_layer(weights))
    for layer in net.layers:
        walk.visit(layer, stored)
    walk.check_input_names()
    walk.check_memories()
    unused = [name for name in stored if name not in net.layer_by_name and stored[name]]
    notes = [*net.notes, *walk.notes]
    if unused:
        notes.append(f"weights of layers that the prototxt does not have are ignored: {_some(unused)}")
    bound = replace(net, layers=tuple(walk.layers), has_weights=weights is not None)
    return Examination(bound, tuple(walk.ops), walk.shapes, tuple(walk.problems), tuple(notes))


class _Walk:
    """One pass over the layers that collects all problems."""

    def __init__(self, net: Net, input_shapes: Mapping[str, Shape], phase: int, *, bind_weights: bool) -> None:
        self._net = net
        self._phase = phase
        self._input_shapes = input_shapes
        self._bind_weights = bind_weights
        self._read = {b for layer in net.layers if layer.tops for b in layer.bottoms}
        self.layers: list[Layer] = []
        self.ops: list[Op | None] = []
        self.shapes: dict[str, Shape] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def visit(self, layer: Layer, stored: Mapping[str, Sequence[NDArray[Any]]]) -> None:
        self.layers.append(layer)
        self.ops.append(None)
        if not layer.type:
            return  # reported with the structure of the network
        try:
            op = self.ops[-1] = make_op(layer, Path(self._net.source).parent, self._phase)
            self.notes += [f"layer {layer.name!r} ({layer.type}): {x} is not this type's, ignored" for x in op.foreign]
            if any(b not in self.shapes for b in layer.bottoms):
                return  # reported where the bottom's layer was refused
            bottoms = [self.shapes[b] for b in layer.bottoms]
            self._set_shapes(layer, self._tops(layer, op, bottoms))
            wanted = op.blob_shapes(bottoms) if self._bind_weights else []
        except RefusedError as why:
            self._problem(UnsupportedError, layer, f"layer {layer.name!r} ({layer.type}): {why}")
            return
        except UserLayerError as why:
            self._problem(UserLayerError, layer, str(why))
            return
        try:
            self.layers[-1] = replace(layer, blobs=bind_blobs(wanted, stored.get(layer.name)))
        except CaffemodelError as why:
            self._problem(CaffemodelError, layer, f"layer {layer.name!r} ({layer.type}) {why}")

    def _problem(self, kind: type[Calib8Error], layer: Layer, text: str) -> None:
        self.problems.append(Problem(kind, f"{located(self._net.source, layer.place.line)}: {text}"))

    def _tops(self, layer: Layer, op: Op, bottoms: list[Shape]) -> list[Shape]:
        given = [self._input_shapes.get(blob) for blob in layer.top_blobs]
        if op.kind != "source":
            return op.top_shapes(bottoms)
        if all(shape is None for shape in given):
            return self._tops_without_data(layer, op)
        batch = next((shape[:1] for shape in given if shape), ())
        # A data layer's other tops are labels, one number for each sample; that only counts where nobody reads them.
        known = [
            tuple(shape) if shape is not None else batch if t not in self._read else None
            for shape, t in zip(given, layer.tops, strict=True)
        ]
        if all(shape is not None for shape in known):
            return [shape for shape in known if shape is not None]
        return [t if k is None else k for k, t in zip(known, op.top_shapes(bottoms), strict=True)]

    def _tops_without_data(self, layer: Layer, op: Op) -> list[Shape]:
        """Of a data layer whose data nobody has opened: it may be one of labels that no layer reads."""
        try:
            return op.top_shapes([])
        except RefusedError:
            batch = next((tuple(shape[:1]) for shape in self._input_shapes.values()), ())
            if not batch or any(top in self._read for top in layer.tops):
                raise
            return [batch] * len(layer.tops)

    def _set_shapes(self, layer: Layer, tops: Sequence[Shape]) -> None:
        for blob, shape in zip(layer.top_blobs, tops, strict=True):
            if any(d < 1 for d in shape) or math.prod(shape) > MAX_ELEMENTS:
                raise RefusedError(
                    f"top {blob!r} would have the shape {' x '.join(map(str, shape))}; "
                    f"sizes must be at least 1, and a blob has at most {MAX_ELEMENTS} elements"
                )
        self.shapes.update(zip(layer.tops, (tuple(int(d) for d in s) for s in tops), strict=True))

    def check_memories(self) -> None:
        """No layer reads what Caffe has overwritten under another name."""
        for layer, text in reads_of_overwritten(self.layers, self.ops):
            self._problem(UnsupportedError, layer, f"layer {layer.name!r} ({layer.type}): {text}")

    def check_input_names(self) -> None:
        """Shapes are given for inputs only."""
        inputs = [
            blob
            for layer, op in zip(self.layers, self.ops, strict=True)
            if op is not None and op.kind == "source"
            for blob in layer.top_blobs
        ]
        unknown = [name for name in self._input_shapes if name not in inputs]
        if unknown:
            text = (
                f"{self._net.source}: no input {_some(unknown)} to give a shape; inputs are {_some(inputs) or 'none'}"
            )
            self.problems.append(Problem(PrototxtError, text))


def _blobs_by_layer(weights: Weights | None) -> dict[str, Sequence[NDArray[Any]]]:
    """Blobs by layer name. Caffe copies layer by layer, so the last of several with one name wins."""
    if weights is None:
        return {}
    if isinstance(weights, Caffemodel):
        return {layer.name: layer.blobs for layer in weights.layers}
    return dict(weights)


def _some(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def reshaped(prototxt: Prototxt, model: Model, input_shapes: Mapping[str, Shape]) -> Model:
    """The same model with inputs of other shapes; its weights are shared.

    Raises:
        PrototxtError: an input has no such name.
        UnsupportedError: layers that do not fit together any more.
    """
    weights = {layer.name: layer.blobs for layer in model.net.layers} if model.net.has_weights else None
    return build_model(prototxt, weights, input_shapes)


def with_top_shapes(model: Model, shapes: Mapping[str, Shape]) -> Model:
    """The same model where some values have other shapes, and with them what depends on them.

    Layers that run in Python may give another number of rows than they announced: a detector's proposals.

    Args:
        shapes: by value, tops of layers that run in Python.

    Raises:
        UnsupportedError: a later layer cannot take such a bottom.
    """
    found = dict(model.shapes)
    for layer, op in zip(model.net.layers, model.ops, strict=True):
        tops = [found[top] for top in layer.tops]
        if any(found[b] != model.shapes[b] for b in layer.bottoms):
            try:
                tops = op.top_shapes([found[b] for b in layer.bottoms])
            except RefusedError as why:
                raise UnsupportedError(f"{model.net.source}: layer {layer.name!r} ({layer.type}): {why}") from None
        found.update({top: shapes.get(top, shape) for top, shape in zip(layer.tops, tops, strict=True)})
    return replace(model, shapes=found)
