"""A stretch of a net's layers, first to last, as something that can be lowered and run by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import UnsupportedError
from calib8.graph import Layer, Shape
from calib8.layers import Op, RefusedError
from calib8.lowering import Model
from calib8.lowering.shapes import Pair, infer_shapes

Weights = Mapping[str, tuple[NDArray[np.float32], ...]]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Layers that run one after another, without the sources among them.

    Attributes:
        model: these layers with their weights, and the shapes of all values that they read or write.
        given: the values that they read and do not write.
        written: by blob, the value that is in it afterwards.
    """

    model: Model
    given: tuple[str, ...]
    written: Mapping[str, str]

    @cached_property
    def host_tops(self) -> frozenset[str]:
        """Values that layers in Python write: these layers are not to run twice."""
        return frozenset(t for layer, op in self.model.pairs if op.kind == "host" for t in layer.tops)

    @cached_property
    def mute(self) -> tuple[Pair, ...]:
        """Layers in Python without tops: nothing depends on them, and they run nevertheless."""
        return tuple((layer, op) for layer, op in self.model.pairs if op.kind == "host" and not layer.tops)

    @cached_property
    def heard(self) -> frozenset[str]:
        """Values that a pass has to see in any case: tops of layers in Python, and what the mute ones read."""
        return self.host_tops | {b for layer, _ in self.mute for b in layer.bottoms}

    @cached_property
    def rewrites(self) -> bool:
        """Whether a blob that it reads is written, too: it begins with a layer in place."""
        blob_of = self.model.net.blob_of
        return any(blob_of[value] in self.written for value in self.given)

    @cached_property
    def without_hosts(self) -> Model:
        """The layers that may run again: those in Python are left out, and their tops are inputs."""
        pairs = [(layer, op) for layer, op in self.model.pairs if op.kind != "host"]
        return _of(self.model, pairs)

    def with_host_tops(self, shapes: Mapping[str, Shape]) -> Stretch:
        """Lay out the same where layers in Python gave their tops these shapes: detectors find more or less."""
        if all(shape == self.model.shapes[value] for value, shape in shapes.items()):
            return self
        return replace(self, model=self.model.with_shapes(shapes))


def read_from_outside(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Find the values that layers read and do not write."""
    written = {t for layer in layers for t in layer.tops}
    return tuple(dict.fromkeys(b for layer in layers for b in layer.bottoms if b not in written))


def make_stretch(model: Model, pairs: Sequence[Pair], shapes: Mapping[str, Shape], weights: Weights) -> Stretch:
    """Lay out layers of a model for other shapes.

    Args:
        pairs: the layers, none of them a source.
        shapes: of the values that they read and do not write.
        weights: by layer name.

    Raises:
        UnsupportedError: layers that these shapes or weights do not fit; the first of them.
        UserLayerError: a Python layer failed in `reshape`.
    """
    # From 0: a detector that finds nothing has tops without rows, which Caffe allows in a pass.
    known = infer_shapes(pairs, shapes, smallest=0).all_or_error(model.net.source, pairs)
    for layer, op in pairs:
        _check_weights(layer, op, [known[b] for b in layer.bottoms], weights.get(layer.name, ()))
    bound = [(replace(layer, blobs=weights.get(layer.name, ())), op) for layer, op in pairs]
    laid_out = _of(replace(model, shapes=known), bound)
    blobs = {blob: value for layer, _ in pairs for blob, value in zip(layer.top_blobs, layer.tops, strict=True)}
    return Stretch(laid_out, tuple(shapes), blobs)


def _of(model: Model, pairs: Sequence[Pair]) -> Model:
    net = replace(model.net, layers=tuple(layer for layer, _ in pairs), has_weights=True)
    return replace(model, net=net, ops=tuple(op for _, op in pairs))


def _check_weights(layer: Layer, op: Op, bottoms: list[Shape], blobs: Sequence[NDArray[Any]]) -> None:
    try:
        wanted = op.blob_shapes(bottoms)
    except RefusedError as why:
        raise UnsupportedError(f"layer {layer.name!r} ({layer.type}): {why}") from None
    given = [blob.shape for blob in blobs]
    if blobs and given != [tuple(shape) for shape in wanted]:
        raise UnsupportedError(
            f"layer {layer.name!r} ({layer.type}) has weights of the shapes {given}; for bottoms of the shapes "
            f"{bottoms} it needs {wanted}"
        )
