"""Lstm: the same cell as LSTM with one bottom: all sequences begin at the first time step, from zero.

Shapes: bottom (T, N, ...); blobs W_x (4H, I), W_h (4H, H), b (4H); top (T, N, H). Parameters: `num_output` H,
required; `batch_size` and `clipping_threshold` (of gradients) have no effect. The second bottom that some forks
allow is refused.
Source: dlunion/CC4.0, src/caffe/layers/lstm_layer.cu, LstmLayer::Forward_gpu, after junhyukoh/caffe-lstm. Deviation:
the Forward_cpu beside it adds the first sequence's share W_h h to the gates of all sequences, so that it differs from
the GPU, and from calib8, with more than one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.recurrent import unroll_lstm


class LstmFromZero(Op):
    """Long short-term memory without a continuation indicator; runs in Python."""

    types = ("Lstm",)
    kind = "host"
    fillers = (("weight_filler", 0.0), ("weight_filler", 0.0), ("bias_filler", 0.0))

    def __init__(self, fields: Fields) -> None:
        group = fields.group("lstm_param")
        group.ignore("batch_size", "clipping_threshold")
        self.num_output: int = group.num_output
        if self.num_output < 1:
            raise RefusedError("has no lstm_param.num_output")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 3:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected time steps, sequences and inputs")
        return [(*bottoms[0][:2], self.num_output)]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        size = 4 * self.num_output
        return [(size, count(bottoms[0][2:])), (size, self.num_output), (size,)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        x, (weights_x, weights_h, bias) = bottoms[0], call.blobs
        steps, sequences = x.shape[:2]
        inputs = x.reshape(steps, sequences, -1) @ weights_x.T + bias
        zeros = np.zeros((sequences, self.num_output), np.float32)
        return [unroll_lstm(inputs, weights_h, np.ones((steps, sequences), np.float32), zeros, zeros)[0]]

    def multiply_adds(self, call: Call) -> int:
        input_weights, hidden_weights, _ = self.blob_shapes(call.bottom_shapes)
        return count(call.bottom_shapes[0][:2]) * (count(input_weights) + count(hidden_weights))


register(LstmFromZero)
