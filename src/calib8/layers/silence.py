"""Silence: takes bottoms and gives nothing, so that they are no outputs of the net.

Shapes: any bottoms, no top. No parameters.
Source: BVLC/caffe, include/caffe/layers/silence_layer.hpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Silence(Op):
    """Ends its bottoms; no node."""

    types = ("Silence",)
    bottoms = (1, UNLIMITED)
    tops = (0, 0)

    def __init__(self, fields: Fields) -> None:
        """Has no parameters."""

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return []

    @property
    def moves_data(self) -> bool:
        return True


register(Silence)
