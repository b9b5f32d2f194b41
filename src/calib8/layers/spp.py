"""SPP, spatial pyramid pooling: level l pools the whole bottom into 2^l x 2^l windows; all levels in a row.

Level l: kernel and stride ceil(H / 2^l), pad (kernel * 2^l - H + 1) div 2, and likewise for W, with the rules of
Pooling for windows at the border.
Shapes: bottom (N, C, H, W); top (N, sum of the levels' C*H'*W'), or, with one level only, Pooling's (N, C, 1, 1).
Parameters: `pyramid_height`, the number of levels; `pool`, MAX (default) or AVE.
Source: BVLC/caffe, src/caffe/layers/spp_layer.cpp, SPPLayer::GetPoolingParam, LayerSetUp; He et al. 2014, section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layers.pooling import Pooling
from calib8.proto import caffe_pb2


class SPP(Op):
    """Poolings side by side; ONNX MaxPool or AveragePool, Concat."""

    types = ("SPP",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("spp_param")
        self.levels: int = group.pyramid_height
        self.method: str = group.pool
        if self.levels < 1:
            raise RefusedError("has no spp_param.pyramid_height, or it is 0")

    def poolings(self, bottom: Shape) -> list[Pooling]:
        """Make the Pooling of every level."""
        return [self._pooling(1 << level, bottom[2:]) for level in range(self.levels)]

    def _pooling(self, windows: int, spatial: Shape) -> Pooling:
        param = caffe_pb2.LayerParameter()
        pool = param.pooling_param
        pool.pool = getattr(caffe_pb2.PoolingParameter, self.method)
        kernel_h, kernel_w = (-(-size // windows) for size in spatial)
        pool.kernel_h = pool.stride_h = kernel_h
        pool.kernel_w = pool.stride_w = kernel_w
        pool.pad_h = (kernel_h * windows - spatial[0] + 1) // 2
        pool.pad_w = (kernel_w * windows - spatial[1] + 1) // 2
        return Pooling(Fields(param))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        if len(bottom) != 4:
            raise RefusedError(f"bottom has {len(bottom)} dimensions, expected N, C, H, W")
        if self.levels > max(bottom[2:]).bit_length():
            raise RefusedError(f"pyramid_height {self.levels} is too high for a bottom of {bottom[2]} x {bottom[3]}")
        tops = [pooling.top_shapes(bottoms)[0] for pooling in self.poolings(bottom)]
        return tops if self.levels == 1 else [(bottom[0], sum(count(top[1:]) for top in tops))]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        pooled = []
        for pooling in self.poolings(call.bottom_shapes[0]):
            top = pooling.top_shapes(call.bottom_shapes)[0]
            (y,) = pooling.lower(g, Call(call.bottoms, call.bottom_shapes, (top,)))
            pooled.append(y if self.levels == 1 else g.node("Reshape", y, g.ints(top[0], count(top[1:]))))
        return [pooled[0] if self.levels == 1 else g.node("Concat", *pooled, axis=1)]


register(SPP)
