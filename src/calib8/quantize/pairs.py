"""The weights of the Scale that is quantised with a BatchNorm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Layer
from calib8.layers.scale import Scale
from calib8.lowering import Model


def gamma_and_beta(model: Model, scale: Layer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weights of a Scale of `Model.batch_norm_pairs`, (C) each."""
    op = model.op_of[scale.name]
    if not isinstance(op, Scale):
        raise AssertionError(f"layer {scale.name!r} is a {type(op).__name__}, not a Scale")
    return op.affine(scale.blobs)
