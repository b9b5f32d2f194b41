"""ContinuationIndicator: the second bottom of LSTM and RNN: 0 at the first time step, where a sequence begins, then 1.

Shapes: no bottom; top (T, N). Parameters: `time_step` T, required; `batch_size` N, default 1; `flag`: 1 at the first
time step, too, so that sequences go on. Forks with a bottom of flags per sequence are refused.
Source: intel/caffe, src/caffe/layers/continuation_indicator_layer.cpp, ContinuationIndicatorLayer::Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.constants import check_constant
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder


class ContinuationIndicator(Op):
    """A constant; ONNX Identity of an initializer."""

    types = ("ContinuationIndicator",)
    bottoms = (0, 0)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("continuation_indicator_param")
        self.shape: Shape = (group.time_step, group.batch_size)
        self.flag: bool = group.flag
        if min(self.shape) < 1:
            raise RefusedError(f"time_step and batch_size are {self.shape[0]} and {self.shape[1]}; expected at least 1")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_constant(count(self.shape), "the indicator")
        return [self.shape]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        indicator = np.ones(self.shape, np.float32)
        indicator[0] = float(self.flag)
        return [g.node("Identity", g.constant(indicator))]


register(ContinuationIndicator)
