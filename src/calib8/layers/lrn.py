"""LRN: divides by a power of the local energy.

ACROSS_CHANNELS: y = x / (k + alpha/n * sum of x^2 over n channels around) ^ beta.
WITHIN_CHANNEL: y = x * (1 + alpha * mean of x^2 over n x n pixels around) ^ -beta; zeros beyond the border count in the
mean, and Caffe does not use `k` here.
Shapes: (N, C, H, W); top as bottom. Parameters: n = `local_size` 5, odd; `alpha` 1, `beta` 0.75, `k` 1.
Source: BVLC/caffe, src/caffe/layers/lrn_layer.cpp, LayerSetUp, CrossChannelForward_cpu, WithinChannelForward.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class LRN(Op):
    """Local response normalisation; ONNX AveragePool and Pow."""

    types = ("LRN", "LRNRistretto")

    def __init__(self, fields: Fields) -> None:
        group = fields.group("lrn_param")
        self.size: int = group.local_size
        self.alpha: float = group.alpha
        self.beta: float = group.beta
        self.k: float = group.k
        self.across_channels: bool = group.norm_region == "ACROSS_CHANNELS"
        if self.size % 2 == 0:
            raise RefusedError(f"lrn_param.local_size is {self.size}, expected an odd number")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected N, C, H, W")
        return list(bottoms)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        x, (n, c, h, w) = call.bottoms[0], call.bottom_shapes[0]
        square, half = g.node("Mul", x, x), self.size // 2
        if self.across_channels:
            # ONNX's own LRN takes no alpha or beta of 0 or less, and is no faster.
            square = g.node("Reshape", square, g.ints(n, 1, c, h * w))
            kernel, pads, k = (self.size, 1), (half, 0, half, 0), self.k
        else:
            kernel, pads, k = (self.size, self.size), (half,) * 4, 1.0
        mean = g.node("AveragePool", square, kernel_shape=kernel, pads=pads, count_include_pad=1)
        scale = g.node("Add", g.node("Mul", mean, g.scalar(self.alpha)), g.scalar(k))
        power = g.node("Pow", scale, g.scalar(-self.beta))
        return [g.node("Mul", x, g.node("Reshape", power, g.ints(n, c, h, w)) if self.across_channels else power)]

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        return all(bottoms)  # a power of a real number has no sign


register(LRN)
