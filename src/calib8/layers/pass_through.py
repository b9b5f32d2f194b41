"""PassThrough: blocks of block_height x block_width elements become channels (space to depth), as in YOLOv2.

y[n, (i*bw + j)*C + c, h, w] = x[n, c, h*bh + i, w*bw + j] for 0 <= i < bh, 0 <= j < bw: Reorg with two sides.
Shapes: bottom (N, C, H, W), H a multiple of bh and W of bw; top (N, C*bh*bw, H/bh, W/bw).
Parameters: `block_height` bh, `block_width` bw, required; `num_output`, if set, must be the top's channels.
Source: winggan/caffe, src/caffe/layers/pass_through_layer.cpp and reorganize_layer.cpp, after HiSilicon's NNIE, which
has this layer beside Caffe's.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class PassThrough(Op):
    """Blocks to channels; ONNX Reshape, Transpose, Reshape."""

    types = ("PassThrough",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("pass_through_param")
        self.block: tuple[int, int] = (group.block_height, group.block_width)
        self.num_output: int = group.num_output
        if min(self.block) < 1:
            raise RefusedError("has no pass_through_param.block_height or block_width, or one that is 0")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected N, C, H, W")
        (n, c, h, w), (high, wide) = bottoms[0], self.block
        if h % high or w % wide:
            raise RefusedError(f"bottom is {h} x {w}, not a multiple of the block {high} x {wide}")
        channels = c * high * wide
        if self.num_output not in (0, channels):
            raise RefusedError(
                f"pass_through_param.num_output is {self.num_output}, and the top has {channels} channels"
            )
        return [(n, channels, h // high, w // wide)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        (n, c, h, w), (high, wide) = call.bottom_shapes[0], self.block
        x = g.node("Reshape", call.bottoms[0], g.ints(n, c, h // high, high, w // wide, wide))
        x = g.node("Transpose", x, perm=(0, 3, 5, 1, 2, 4))
        return [g.node("Reshape", x, g.ints(*call.top_shapes[0]))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(PassThrough)
