"""ShuffleChannel: channel i * (C / group) + j goes to j * group + i: the groups' channels are dealt out in turn.

Shapes: bottom (N, C), (N, C, H) or (N, C, H, W); top (N, C, H, W), missing axes being ones. Parameters: `group`,
default 1, a divisor of C.
Source: troyliu0105/caffe, src/caffe/layers/shuffle_channel_layer.cpp, ShuffleChannelLayer::Reshape and Forward_cpu;
Zhang et al. 2017, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder

_TOP_RANK = 4


class ShuffleChannel(Op):
    """A transposition of groups and their channels; ONNX Reshape, Transpose, Reshape."""

    types = ("ShuffleChannel",)

    def __init__(self, fields: Fields) -> None:
        self.group: int = fields.group("shuffle_channel_param").group
        if self.group < 1:
            raise RefusedError("shuffle_channel_param.group is 0; expected at least 1")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        if not 2 <= len(bottom) <= _TOP_RANK:
            raise RefusedError(f"bottom has {len(bottom)} dimensions, expected 2 to {_TOP_RANK}")
        if bottom[1] % self.group:
            raise RefusedError(f"bottom has {bottom[1]} channels, not a multiple of group {self.group}")
        return [(*bottom, *(1,) * (_TOP_RANK - len(bottom)))]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        samples, channels, *spatial = call.top_shapes[0]
        groups = (samples, self.group, channels // self.group, count(spatial))
        x = g.node("Reshape", call.bottoms[0], g.ints(*groups))
        x = g.node("Transpose", x, perm=(0, 2, 1, 3))
        return [g.node("Reshape", x, g.ints(*call.top_shapes[0]))]

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(ShuffleChannel)
