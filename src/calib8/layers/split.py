"""Split: every top is the bottom.

Shapes: tops as bottom. Source: BVLC/caffe, src/caffe/layers/split_layer.cpp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, register
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Split(Op):
    """Gives one value several names; no node."""

    types = ("Split",)
    tops = (1, UNLIMITED)
    shares_memory = True

    def __init__(self, fields: Fields) -> None:
        self._tops = len(fields.param.top)
        fields.group("split_param")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(bottoms) * self._tops

    def channel_flow(self, call: Call) -> ChannelFlow:
        return ChannelFlow.CARRIED

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return list(call.bottoms) * self._tops

    @property
    def passive(self) -> bool:
        return True

    @property
    def moves_data(self) -> bool:
        return True


register(Split)
