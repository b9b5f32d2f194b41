"""A network ready to be lowered: every layer read, every value with a shape, every weight in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from calib8.errors import CaffemodelError, PrototxtError, UnsupportedError, UserLayerError
from calib8.graph import Layer, Net, Shape, build_net
from calib8.layers import Call, Op, RefusedError, make_op
from calib8.lowering.weights import bind_blobs
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


def build_model(
    prototxt: Prototxt,
    weights: Weights | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    phase: int = 1,
) -> Model:
    """Read every layer, infer every shape and bind the weights.

    Args:
        weights: a caffemodel, or blobs by layer name; None builds the structure alone.
        input_shapes: shapes of tops of Input and data layers, instead of those in the prototxt.
        phase: 0 for TRAIN, 1 for TEST.

    Raises:
        PrototxtError: the layers do not make a network.
        UnsupportedError: layers that calib8 does not compute, or that do not fit together; all of them.
        UserLayerError: Python layers that cannot be found, or that failed.
        CaffemodelError: layers without weights, or with others than their parameters ask for; all of them.
    """
    net = build_net(prototxt, phase=phase)
    walk = _Walk(net, input_shapes or {}, phase, bind_weights=weights is not None)
    stored = _blobs_by_layer(weights)
    for layer in net.layers:
        walk.visit(layer, stored)
    walk.raise_problems()
    unused = [name for name in stored if name not in net.layer_by_name and stored[name]]
    notes = list(net.notes)
    if unused:
        notes.append(f"weights of layers that the prototxt does not have are ignored: {_some(unused)}")
    bound = replace(net, layers=tuple(walk.layers), has_weights=weights is not None)
    return Model(bound, tuple(walk.ops), walk.shapes, tuple(notes))


class _Walk:
    """One pass over the layers that collects all problems."""

    def __init__(self, net: Net, input_shapes: Mapping[str, Shape], phase: int, *, bind_weights: bool) -> None:
        self._net = net
        self._phase = phase
        self._input_shapes = input_shapes
        self._bind_weights = bind_weights
        self._refused: list[str] = []
        self._failed: list[str] = []
        self._unfit: list[str] = []
        self.layers: list[Layer] = []
        self.ops: list[Op] = []
        self.shapes: dict[str, Shape] = {}

    def visit(self, layer: Layer, stored: Mapping[str, Sequence[NDArray[Any]]]) -> None:
        try:
            op = make_op(layer, Path(self._net.source).parent, self._phase)
            self.ops.append(op)
            if any(b not in self.shapes for b in layer.bottoms):
                return  # reported where the bottom's layer was refused
            bottoms = [self.shapes[b] for b in layer.bottoms]
            self._set_shapes(layer, self._tops(layer, op, bottoms))
            wanted = op.blob_shapes(bottoms) if self._bind_weights else []
        except RefusedError as why:
            self._refused.append(f"layer {layer.name!r} ({layer.type}): {why}")
            return
        except UserLayerError as why:
            self._failed.append(str(why))
            return
        try:
            self.layers.append(replace(layer, blobs=bind_blobs(wanted, stored.get(layer.name))))
        except CaffemodelError as why:
            self._unfit.append(f"layer {layer.name!r} ({layer.type}) {why}")

    def _tops(self, layer: Layer, op: Op, bottoms: list[Shape]) -> list[Shape]:
        given = [self._input_shapes.get(blob) for blob in layer.top_blobs]
        if op.kind == "source" and all(shape is not None for shape in given):
            return [tuple(shape) for shape in given if shape is not None]
        tops = op.top_shapes(bottoms)
        return tops if op.kind != "source" else [g or t for g, t in zip(given, tops, strict=True)]

    def _set_shapes(self, layer: Layer, tops: Sequence[Shape]) -> None:
        for blob, shape in zip(layer.top_blobs, tops, strict=True):
            if any(d < 0 for d in shape) or math.prod(d or 1 for d in shape) > MAX_ELEMENTS:
                raise RefusedError(
                    f"top {blob!r} would have the shape {' x '.join(map(str, shape))}; "
                    f"sizes must not be negative, and a blob has at most {MAX_ELEMENTS} elements"
                )
        self.shapes.update(zip(layer.tops, (tuple(int(d) for d in s) for s in tops), strict=True))

    def raise_problems(self) -> None:
        source, problems = self._net.source, self._refused + self._failed + self._unfit
        if self._refused:
            raise UnsupportedError(f"{source}: {_count(len(problems))} cannot be used", problems)
        if self._failed:
            raise UserLayerError(f"{source}: {_count(len(problems))} cannot be used", problems)
        if self._unfit:
            raise CaffemodelError(f"{source}: {_count(len(problems))} and the weights do not fit", problems)


def _count(layers: int) -> str:
    return "1 layer" if layers == 1 else f"{layers} layers"


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
    """
    blobs = {model.net.blob_of[value] for value in model.inputs}
    unknown = [name for name in input_shapes if name not in blobs]
    if unknown:
        raise PrototxtError(f"{model.net.source}: no input {_some(unknown)}; inputs are {_some(sorted(blobs))}")
    weights = {layer.name: layer.blobs for layer in model.net.layers} if model.net.has_weights else None
    return build_model(prototxt, weights, input_shapes)
