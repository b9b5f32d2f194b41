"""What Caffe puts into weights that no caffemodel gives, and into DummyData.

Source: BVLC/caffe, include/caffe/filler.hpp. The numbers are numpy's, not those of Caffe's generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import UnsupportedError
from calib8.graph import Shape
from calib8.proto import caffe_pb2
from calib8.pycaffe.state import random_numbers

Array = NDArray[np.float32]


def fill(filler: caffe_pb2.FillerParameter, shape: Shape) -> Array:
    """Make an array of this shape, filled as a FillerParameter says.

    Raises:
        UnsupportedError: a type of filler that Caffe does not have, or that does not fit the shape; a phrase.
    """
    if filler.type not in _FILLERS:
        raise UnsupportedError(f"has a filler of type {filler.type!r}; Caffe has {', '.join(_FILLERS)}")
    return _FILLERS[filler.type](filler, shape).astype(np.float32)


def is_random(filler: caffe_pb2.FillerParameter) -> bool:
    """Tell whether a filler gives other values every time."""
    return filler.type not in ("constant", "bilinear")


def _constant(filler: caffe_pb2.FillerParameter, shape: Shape) -> NDArray[Any]:
    return np.full(shape, filler.value)


def _uniform(filler: caffe_pb2.FillerParameter, shape: Shape) -> NDArray[Any]:
    return random_numbers().uniform(filler.min, filler.max, shape)


def _gaussian(filler: caffe_pb2.FillerParameter, shape: Shape) -> NDArray[Any]:
    values: NDArray[Any] = random_numbers().normal(filler.mean, filler.std, shape)
    if filler.sparse >= 0:
        values[random_numbers().random(shape) >= filler.sparse / shape[0]] = 0
    return values


def _positive_unitball(filler: caffe_pb2.FillerParameter, shape: Shape) -> NDArray[Any]:
    rows: NDArray[Any] = random_numbers().random((shape[0], math.prod(shape[1:])))
    rows /= rows.sum(axis=1, keepdims=True)
    return rows.reshape(shape)


def _xavier(filler: caffe_pb2.FillerParameter, shape: Shape) -> NDArray[Any]:
    scale = math.sqrt(3 / _fan(filler, shape))
    return random_numbers().uniform(-scale, scale, shape)


def _msra(filler: caffe_pb2.FillerParameter, shape: Shape) -> NDArray[Any]:
    return random_numbers().normal(0, math.sqrt(2 / _fan(filler, shape)), shape)


def _fan(filler: caffe_pb2.FillerParameter, shape: Shape) -> float:
    """Count the values that go into (or come out of) a neuron."""
    count = math.prod(shape)
    fan_in, fan_out = count / shape[0], count / shape[1] if len(shape) > 1 else count
    return (fan_in, fan_out, (fan_in + fan_out) / 2)[filler.variance_norm]


def _bilinear(filler: caffe_pb2.FillerParameter, shape: Shape) -> NDArray[Any]:
    """Make the kernel of a Deconvolution that enlarges by bilinear interpolation."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise UnsupportedError(f"has a bilinear filler for a blob of the shape {shape}; it needs a square kernel")
    width = shape[3]
    factor = math.ceil(width / 2)
    row = 1 - np.abs(np.arange(width) / factor - (width - 1) / (2 * factor))
    return np.broadcast_to(row[:, None] * row, shape)


_FILLERS: dict[str, Callable[[Any, Shape], NDArray[Any]]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
