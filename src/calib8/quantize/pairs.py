"""A BatchNorm and the Scale behind it are one affine step; which two layers belong together is read off their blobs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Layer
from calib8.layers.batch_norm import BatchNorm
from calib8.layers.scale import Scale
from calib8.lowering import Model


def batch_norm_pairs(model: Model) -> dict[str, Layer]:
    """The Scale of every BatchNorm that has one, by the BatchNorm's name.

    The Scale is the only reader of the BatchNorm's top, has no second bottom, and one gamma per channel. Where the
    two stand in the file does not matter.
    """
    pairs: dict[str, Layer] = {}
    for layer, op in zip(model.net.layers, model.ops, strict=True):
        if not isinstance(op, BatchNorm):
            continue
        readers = model.net.consumers[layer.tops[0]]
        if len(readers) == 1 and _takes_over(model, readers[0]):
            pairs[layer.name] = readers[0]
    return pairs


def gamma_and_beta(model: Model, scale: Layer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weights of a Scale of `batch_norm_pairs`, (C) each."""
    op = model.op_of[scale.name]
    if not isinstance(op, Scale):
        raise AssertionError(f"layer {scale.name!r} is a {type(op).__name__}, not a Scale")
    return op.affine(scale.blobs)


def _takes_over(model: Model, layer: Layer) -> bool:
    shapes = [model.shapes[b] for b in layer.bottoms]
    op = model.op_of[layer.name]
    return isinstance(op, Scale) and len(shapes[0]) > 1 and op.is_per_channel(shapes)
