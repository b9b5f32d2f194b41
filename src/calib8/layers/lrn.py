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
from calib8.layers.base import Call, Op, register
from calib8.layers.fields import Fields, RefusedError
from calib8.layers.onnx_builder import OnnxBuilder


class LRN(Op):
    """Local response normalisation; ONNX LRN, or AveragePool and Pow."""

    types = ("LRN",)

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
        x = call.bottoms[0]
        if self.across_channels:
            return [g.node("LRN", x, size=self.size, alpha=self.alpha, beta=self.beta, bias=self.k)]
        mean = g.node(
            "AveragePool", g.node("Mul", x, x), kernel_shape=(self.size,) * 2, pads=(self.size // 2,) * 4,
            count_include_pad=1,
        )  # fmt: skip
        scale = g.node("Add", g.node("Mul", mean, g.scalar(self.alpha)), g.scalar(1.0))
        return [g.node("Mul", x, g.node("Pow", scale, g.scalar(-self.beta)))]


register(LRN)
