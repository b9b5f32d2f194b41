"""LSTM, long short-term memory.

With h and c of the step before, times cont: gates = W_x x + b + W_static x_static + W_h h, in the order i, f, o, g;
c = sigmoid(f) * c + sigmoid(i) * tanh(g); h = sigmoid(o) * tanh(c). The output is h.
Shapes, other bottoms and parameters: see recurrent.py; states h, c; blobs W_x (4H, I), b (4H), W_static (4H, S) with a
static input, W_h (4H, H); H is `num_output`. `forget_bias` (Synopsys), default 0, is added to f.
Source: BVLC/caffe, src/caffe/layers/lstm_layer.cpp, LSTMLayer::FillUnrolledNet; lstm_unit_layer.cpp; `forget_bias`:
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same files. Hochreiter and Schmidhuber 1997.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.recurrent import Recurrent, unroll_lstm


class LSTM(Recurrent):
    """Long short-term memory; runs in Python."""

    types = ("LSTM",)
    states = 2
    gates = 4
    own_fillers = (("weight_filler", 0.0),)

    def __init__(self, fields: Fields) -> None:
        super().__init__(fields)
        self.forget_bias: float = self.group.forget_bias

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [*super().blob_shapes(bottoms), (4 * self.num_output, self.num_output)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        inputs, (weights,) = self.gate_inputs(bottoms, call.blobs)
        h, c = self.first_states(bottoms)
        outputs, h, c = unroll_lstm(inputs, weights, bottoms[1], h, c, self.forget_bias)
        self.keep_states([h, c])
        return [outputs, h[None], c[None]] if self.exposed else [outputs]


register(LSTM)
