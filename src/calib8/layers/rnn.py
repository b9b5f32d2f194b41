"""RNN, the plain recurrent network.

With h of the step before times cont: h = tanh(W_x x + b + W_static x_static + W_h h). The output is tanh(W_o h + b_o).
Shapes, other bottoms and parameters: see recurrent.py; state h; blobs W_x (H, I), b (H), W_static (H, S) with a static
input, W_h (H, H), W_o (H, H), b_o (H); H is `num_output`.
Source: BVLC/caffe, src/caffe/layers/rnn_layer.cpp, RNNLayer::FillUnrolledNet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, register
from calib8.layer_kit.recurrent import Recurrent


class RNN(Recurrent):
    """Plain recurrent network; runs in Python."""

    types = ("RNN",)
    states = 1
    gates = 1
    own_fillers = (("weight_filler", 0.0), ("weight_filler", 0.0), ("bias_filler", 0.0))

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        square = (self.num_output, self.num_output)
        return [*super().blob_shapes(bottoms), square, square, (self.num_output,)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        inputs, (weights, weights_out, bias_out) = self.gate_inputs(bottoms, call.blobs)
        (h,) = self.first_states(bottoms)
        hidden = np.empty_like(inputs)
        for t, go_on in enumerate(bottoms[1][:, :, None]):
            hidden[t] = h = np.tanh(inputs[t] + (go_on * h) @ weights.T)
        self.keep_states([h])
        output = np.tanh(hidden @ weights_out.T + bias_out)
        return [output, h[None]] if self.exposed else [output]


register(RNN)
