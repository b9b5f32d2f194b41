"""ncnn's integers: weights of one scale for each output, activations of one scale for each layer, 127 levels each.

A layer in INT8 multiplies its bottom by a scale, rounds it (half away from zero) and clips it to -127..127, sums
products of integers in 32 bits, and divides by both scales. What it writes is real numbers again. So a threshold of
ours is its scale, 127 / threshold, and nothing is folded, shifted or saturated in between.

For convolutions of 3 x 3 with stride 1, ncnn's fast algorithm (Winograd's F(4,3) in whole numbers) holds 576 times the
sum in 32 bits. With 127 levels that can overflow from 26 inputs on, and the result is then nonsense. ncnn's own tool
takes 31 levels for all of them, which moves the limit to 104 inputs. Here a row of weights gets as many levels, up to
127, as no input whatever can make overflow.

A table for ncnn2int8 has a line `LAYER_param_0` with the scales of a layer's weights for each of them, then a line
`LAYER` with that of its bottom. Source: Tencent/ncnn, tools/quantize/ncnn2table.cpp and ncnn2int8.cpp;
src/layer/quantize.cpp and convolution.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
MOST_OF_3X3 = (2**31 - 1) // (576 * LEVELS)
"""Largest sum of |integer weights| of one output that 576 * 127 times fits 32 bits."""
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Int8Weights:
    """The integers of one layer.

    Attributes:
        name: the layer's.
        values: of the weights, (S, n): one row for each scale.
        scales: (S), integers per real unit.
        bottom: integers per real unit of the bottom.
    """

    name: str
    values: NDArray[np.int8]
    scales: Floats
    bottom: np.float32


def quantize(
    name: str, weights: Floats, threshold: float, most: int | None = None, *, non_negative: bool = False
) -> Int8Weights:
    """Quantise weights (S, n), one scale for each row.

    Args:
        threshold: the bottom's, in real units.
        most: the largest sum of |integer weights| that a bottom can bring to one sign; None for no limit.
        non_negative: whether the bottom is never negative.
    """
    largest = np.maximum(weights.max(axis=1, initial=0), -weights.min(axis=1, initial=0))
    with np.errstate(divide="ignore", over="ignore"):
        scales = np.float32(LEVELS) / largest
    scales[~np.isfinite(scales)] = 1  # weights of 0
    if most is not None:
        above, below = (np.maximum(sign * weights, 0).sum(axis=1, dtype=np.float64) for sign in (1, -1))
        reach = np.maximum(above, below) if non_negative else above + below
        room = most - weights.shape[1] / 2  # what rounding may add
        scales = np.minimum(scales, room / np.maximum(reach, room / scales)).astype(np.float32)
    scaled = weights * scales[:, None]
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    values = np.clip(rounded, -LEVELS, LEVELS).astype(np.int8)
    return Int8Weights(name, values, scales, np.float32(LEVELS / threshold))


def table_text(layers: Iterable[Int8Weights]) -> str:
    """Write the table of scales."""
    layers = list(layers)
    lines = [f"{layer.name}_param_0 {' '.join(map(_number, layer.scales))}" for layer in layers]
    lines += [f"{layer.name} {_number(layer.bottom)}" for layer in layers]
    return "".join(f"{line}\n" for line in lines)


def _number(value: np.float32) -> str:
    return f"{value:.9g}"
