"""Blobs of a caffemodel for each layer: the right number of them, each in the shape that the layer wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.errors import CaffemodelError, UserLayerError
from calib8.graph import Array, Layer, Shape
from calib8.graph.build import located
from calib8.layers import RefusedError
from calib8.lowering.problems import Failure
from calib8.lowering.shapes import InputShapes, MaybePair, infer_shapes

_BLOCK = 1 << 20


def with_shared_blobs(layers: Sequence[Layer], stored: Mapping[str, Sequence[Array]]) -> dict[str, Sequence[Array]]:
    """Return the stored blobs by layer name, where those with one `param { name }` are one blob.

    Caffe copies layer by layer into the same memory: of several stored blobs the last counts, and one is enough for
    all (BVLC/caffe src/caffe/net.cpp, Net::AppendParam and Net::CopyTrainedLayersFrom).
    """
    names = {layer.name: [spec.name for spec in layer.param.param] for layer in layers}
    last: dict[str, Array] = {}
    for layer, blobs in stored.items():
        last.update({name: blob for name, blob in zip(names.get(layer, ()), blobs, strict=False) if name})
    bound = dict(stored)
    for layer, shared in names.items():
        blobs = list(stored.get(layer, ()))
        for index, name in enumerate(shared):
            # A file may store a shared blob once: other layers get it. Where it is stored twice, the last one counts.
            if name in last and index == len(blobs):
                blobs.append(last[name])
            elif name in last and index < len(blobs) and blobs[index].size == last[name].size:
                blobs[index] = last[name].reshape(blobs[index].shape)
        if blobs:
            bound[layer] = blobs
    return bound


@dataclass(frozen=True)
class Fitted:
    """Layers that were fitted together.

    Attributes:
        layers: with their weights, as far as these fit.
        shapes: of every value, as far as they are known.
        failures: why layers cannot be used, by their place; layers behind one of these are not named.
    """

    layers: tuple[Layer, ...]
    shapes: Mapping[str, Shape]
    failures: Mapping[int, Failure]


def fit_layers(pairs: Sequence[MaybePair], inputs: InputShapes, stored: Mapping[str, Sequence[Array]] | None) -> Fitted:
    """Infer the shapes of all values, and bind to every layer the weights that it then asks for.

    Args:
        stored: blobs by layer name; None binds none.
    """
    inferred = infer_shapes(pairs, inputs=inputs)
    layers = [layer for layer, _ in pairs]
    failures: dict[int, Failure] = {**inferred.failures}
    for index, (layer, op) in enumerate(pairs):
        if stored is None or op is None or index in failures or any(b not in inferred.shapes for b in layer.bottoms):
            continue
        try:
            wanted = op.blob_shapes([inferred.shapes[b] for b in layer.bottoms])
            layers[index] = replace(layer, blobs=bind_blobs(wanted, stored.get(layer.name)))
        except (RefusedError, UserLayerError, CaffemodelError) as why:
            failures[index] = why
    return Fitted(tuple(layers), inferred.shapes, failures)


def weights_that_are_no_numbers(source: str, layers: Sequence[Layer]) -> list[str]:
    """Say of which layers weights are NaN or infinite: no threshold and no integer follows from them."""
    return [
        f"{located(source, layer.place.line)}: layer {layer.name!r} ({layer.type}): {count} of {blob.size} weights in "
        f"blob {index} are NaN or infinite"
        for layer in layers
        for index, blob in enumerate(layer.blobs)
        if (count := _not_finite(blob))
    ]


def _not_finite(blob: Array) -> int:
    """Block by block: a mask of a large blob would take a quarter of its memory."""
    flat = blob.reshape(-1)
    blocks = (flat[at : at + _BLOCK] for at in range(0, flat.size, _BLOCK))
    return sum(block.size - int(np.count_nonzero(np.isfinite(block))) for block in blocks)


def bind_blobs(wanted: Sequence[Shape], stored: Sequence[Array] | None) -> tuple[NDArray[np.float32], ...]:
    """Bring the stored blobs in the wanted shapes, without a copy.

    Old files pad shapes to four axes with ones (Caffe's legacy shapes), and forks differ in the ones that they
    keep: shapes that agree but for ones hold the same values in the same order (BVLC/caffe src/caffe/blob.cpp,
    Blob::ShapeEquals, is stricter).

    Raises:
        CaffemodelError: no blobs, another number of them, or another shape; a phrase that follows the layer's name.
    """
    if not wanted:
        return ()
    if not stored:
        what = "is not in the caffemodel" if stored is None else "has no weights in the caffemodel"
        raise CaffemodelError(f"{what}; expected {_shapes(wanted)}")
    if len(stored) != len(wanted):
        raise CaffemodelError(
            f"has {len(stored)} blobs in the caffemodel ({_shapes([b.shape for b in stored])}); "
            f"expected {len(wanted)} ({_shapes(wanted)})"
        )
    for index, (blob, shape) in enumerate(zip(stored, wanted, strict=True)):
        if _without_ones(blob.shape) != _without_ones(shape):
            raise CaffemodelError(
                f"has blob {index} of shape {_shape(blob.shape)} in the caffemodel; expected {_shape(shape)}"
            )
    return tuple(np.asarray(blob, dtype=np.float32).reshape(shape) for blob, shape in zip(stored, wanted, strict=True))


def _without_ones(shape: Shape) -> Shape:
    return tuple(d for d in shape if d != 1)


def _shapes(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(_shape, shapes))


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
