"""A transposed convolution as a convolution, since ONNX Runtime has no transposed one in integers.

Along one axis, y[o] is the sum of x[i] * w[k] over all i*stride + k*dilation - pad = o. With o + pad = q*stride + r,
0 <= r < stride, a tap k takes part in one phase only, r = k*dilation mod stride, and reads x[q + e] with
e = (r - k*dilation) / stride. So every phase is a convolution with stride 1, and all phases of an output channel are
the channels of one convolution, whose elements are then put side by side: no product is added that is not 0 or wanted.
Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Shape
from calib8.layer_kit.codes import ConvGeometry, weighted_sum
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.spatial import Window


@dataclass(frozen=True)
class _Axis:
    """One spatial axis.

    Attributes:
        phases, taps: for each element of the kernel the phase that it takes part in, and its place in that kernel.
        kernel, dilation, pad, pad_end: of the convolution; all phases have the same.
        first: where y begins in the phases put side by side.
    """

    stride: int
    phases: tuple[int, ...]
    taps: tuple[int, ...]
    kernel: int
    dilation: int
    pad: int
    pad_end: int
    first: int


def transposed_weighted_sum(
    g: OnnxBuilder,
    codes: str,
    weights: NDArray[np.int8],
    bias: Array | None,
    rshift: int,
    window: Window,
    group: int,
    bottom: Shape,
    top: Shape,
) -> str:
    """Compute `sat8(rnd((sum code*W + B) / 2^rshift))` of a transposed convolution.

    Args:
        weights: (C, O/group, kernel...).
        bias: (O), integers; None for none.
        window: one number for each spatial axis.
        bottom, top: shapes of the codes, (N, C, spatial...), and of the result.
    """
    axes = [_axis(window, i, bottom[2 + i], top[2 + i]) for i in range(len(bottom) - 2)]
    geometry = ConvGeometry(
        strides=(1,) * len(axes),
        pads=(*(a.pad for a in axes), *(a.pad_end for a in axes)),
        dilations=tuple(a.dilation for a in axes),
        group=group,
    )
    phases = math.prod(a.stride for a in axes)
    offsets = None if bias is None else np.repeat(bias, phases)
    y = weighted_sum(g, codes, _phase_weights(weights, group, axes), offsets, rshift, geometry)
    return _side_by_side(g, y, axes, bottom, top)


def _axis(window: Window, i: int, size: int, length: int) -> _Axis:
    kernel, stride, dilation, pad = window.kernel[i], window.stride[i], window.dilation[i], window.pad[i]
    phases = tuple(k * dilation % stride for k in range(kernel))
    back = [(k * dilation - phase) // stride for k, phase in enumerate(phases)]  # -e, from 0 on
    step = math.gcd(*back) or 1
    reach = max(back)
    # x has no elements before 0 and behind size - 1, but ONNX pads cannot be negative: then more is cut off later.
    first, last = min(pad // stride, reach), max((length - 1 + pad) // stride, size - 1)
    return _Axis(
        stride=stride,
        phases=phases,
        taps=tuple((reach - b) // step for b in back),
        kernel=reach // step + 1,
        dilation=step,
        pad=reach - first,
        pad_end=last - (size - 1),
        first=pad - first * stride,
    )


def _phase_weights(weights: NDArray[np.int8], group: int, axes: Sequence[_Axis]) -> NDArray[np.int8]:
    """(O * phases, C/group, kernel...) from (C, O/group, kernel...); the phases of a channel follow each other."""
    depth, outputs = weights.shape[0] // group, weights.shape[1]
    grouped = weights.reshape(group, depth, *weights.shape[1:]).swapaxes(1, 2)
    strides, kernels = [a.stride for a in axes], [a.kernel for a in axes]
    spread = np.zeros((group, outputs, *strides, depth, *kernels), np.int8)
    # Phases stand behind the outputs, not the inputs: each is an output channel of its own.
    every = slice(None)
    for place in itertools.product(*(range(len(a.taps)) for a in axes)):
        phase = [a.phases[k] for a, k in zip(axes, place, strict=True)]
        tap = [a.taps[k] for a, k in zip(axes, place, strict=True)]
        target: tuple[int | slice, ...] = (every, every, *phase, every, *tap)
        source: tuple[int | slice, ...] = (every, every, every, *place)
        spread[target] = grouped[source]
    return spread.reshape(group * outputs * math.prod(strides), depth, *kernels)


def _side_by_side(g: OnnxBuilder, y: str, axes: Sequence[_Axis], bottom: Shape, top: Shape) -> str:
    """Channels that are phases to elements next to each other, and what lies outside of the top cut off."""
    rank, strides = len(axes), [a.stride for a in axes]
    lengths = [n + a.pad + a.pad_end - a.dilation * (a.kernel - 1) for n, a in zip(bottom[2:], axes, strict=True)]
    if max(strides) > 1:
        y = g.node("Reshape", y, g.ints(*top[:2], *strides, *lengths))
        # Each axis brings its q and r together; reshaped, they are read as q * stride + r.
        pairs = [(2 + rank + i, 2 + i) for i in range(rank)]
        y = g.node("Transpose", y, perm=(0, 1, *itertools.chain(*pairs)))
        y = g.node("Reshape", y, g.ints(*top[:2], *(n * s for n, s in zip(lengths, strides, strict=True))))
    starts = [a.first for a in axes]
    ends = [start + length for start, length in zip(starts, top[2:], strict=True)]
    return g.node("Slice", y, g.ints(*starts), g.ints(*ends), g.ints(*range(2, 2 + rank)))
