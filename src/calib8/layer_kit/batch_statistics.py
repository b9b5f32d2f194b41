"""Statistics of a batch, which layers of training normalise by, in a Net that was opened in TRAIN.

Source: BVLC/caffe, src/caffe/layers/batch_norm_layer.cpp, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array


def statistics_of_batch(x: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute mean and variance (C), over all axes of x (N, C, ...) but axis 1; of one number for a single axis."""
    axes = (0, *range(2, x.ndim))
    values = x.astype(np.float64)
    return values.mean(axis=axes).reshape(-1), values.var(axis=axes).reshape(-1)


def normalized(x: Array, mean: Array, scale: Array, after: Array) -> Array:
    """Compute (x - mean) * scale + after along axis 1, float32."""
    along = (-1,) + (1,) * max(x.ndim - 2, 0)
    y = (x - mean.reshape(along)) * scale.reshape(along) + after.reshape(along)
    return np.asarray(y, np.float32)


def unbiased(variance: Array, shape: Sequence[int]) -> Array:
    """Estimate the variance of what a batch (N, C, ...) is a sample of: its own times m / (m - 1), m = N * ..."""
    m = int(np.prod(shape)) // (shape[1] if len(shape) > 1 else 1)
    return variance * (m / (m - 1) if m > 1 else 1.0)
