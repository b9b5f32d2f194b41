"""BatchNorm, Scale and the like folded into the weights of the layer in front of them, for tools that expect it so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from calib8.graph import Layer
from calib8.lowering.model import Model
from calib8.lowering.shapes import Pair


def fold_channel_affines(model: Model) -> Model:
    """Leave out every layer that is a factor and an offset per channel behind a layer whose weights can hold them.

    The layer in front then writes the value of the one that is left out, under its name; values between the two are
    gone. A value that something else reads, or that is an output, stays, and so does what follows it. Factors that are
    not finite are not folded.
    """
    if not model.net.has_weights:
        return model
    gone: set[str] = set()
    pairs = [_with_followers(model, pair, gone) for pair in model.pairs if pair[0].name not in gone]
    layers, ops = (tuple(part) for part in zip(*pairs, strict=True))
    return replace(model, net=replace(model.net, layers=layers), ops=ops)


def _with_followers(model: Model, pair: Pair, gone: set[str]) -> Pair:
    """Fold what follows a layer into it; the names of what is folded go into `gone`."""
    while (found := _with_follower(model, pair)) is not None:
        pair, name = found
        gone.add(name)
    return pair


def _with_follower(model: Model, pair: Pair) -> tuple[Pair, str] | None:
    layer, op = pair
    follower = _only_reader(model, layer)
    if follower is None:
        return None
    scaling = model.op_of[follower.name]
    affine = scaling.channel_affine(model.call(follower)) if scaling.kind == "onnx" else None
    if affine is None or not (np.isfinite(affine.factor).all() and np.isfinite(affine.offset).all()):
        return None
    folded = op.with_channel_affine(model.call(layer), affine)
    if folded is None or not all(np.isfinite(blob).all() for blob in folded[1]):
        return None
    renamed = replace(layer, tops=follower.tops, top_blobs=follower.top_blobs, blobs=tuple(folded[1]))
    return (renamed, folded[0]), follower.name


def _only_reader(model: Model, layer: Layer) -> Layer | None:
    if len(layer.tops) != 1:
        return None
    readers = model.net.consumers[layer.tops[0]]
    return readers[0] if len(readers) == 1 and readers[0].bottoms == layer.tops and len(readers[0].tops) == 1 else None
