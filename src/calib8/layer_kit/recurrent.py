"""What LSTM and RNN share: their bottoms and tops, and the part of each step that does not wait for the step before.

Bottoms: x (T, N, ...), T time steps of N sequences; cont (T, N), 0 where a sequence begins and 1 where it goes on;
optionally x_static (N, ...), the same for all steps; with `expose_hidden` the states (1, N, num_output) before the
first step. Tops: the output (T, N, num_output); with `expose_hidden` the states after the last step.
Blobs: input weights (G, I), bias (G), optionally weights of x_static (G, S), then the type's own; G inputs of gates.
Parameters: `num_output`, required; `expose_hidden`, default false.
Source: BVLC/caffe, src/caffe/layers/recurrent_layer.cpp, RecurrentLayer::LayerSetUp, Reshape, Forward_cpu. Without
`expose_hidden` a pass begins with the states that the pass before left, zeros at first; in a calibration each pass
begins with zeros, so that the order of samples is no matter: the same wherever cont is 0 at the first time step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, LiveBlob, Op, RandomNumbers, count
from calib8.layer_kit.fields import Fields, Group, RefusedError

_MOST_STATES = 2
_WEIGHTS, _BIAS = ("weight_filler", 0.0), ("bias_filler", 0.0)


class Recurrent(Op):
    """A layer that is one network per time step; it runs in Python.

    Class attributes:
        states: the number of state blobs.
        gates: inputs of gates per output.
        own_fillers: of the blobs behind those that all types have; see Op.fillers.
    """

    bottoms = (2, 3 + _MOST_STATES)
    tops = (1, 1 + _MOST_STATES)
    kind = "host"
    states: ClassVar[int]
    gates: ClassVar[int]
    own_fillers: ClassVar[tuple[tuple[str, float], ...]]

    def __init__(self, fields: Fields) -> None:
        self.group: Group = fields.group("recurrent_param")
        self.num_output: int = self.group.num_output
        self.exposed: int = self.states if self.group.expose_hidden else 0
        if self.num_output < 1:
            raise RefusedError("has no recurrent_param.num_output")
        bottoms, tops = len(fields.param.bottom), len(fields.param.top)
        self.has_static = bottoms > 2 + self.exposed
        self.fillers = (_WEIGHTS, _BIAS, *([_WEIGHTS] * self.has_static), *self.own_fillers)
        self._memories: list[Array] | None = None
        if bottoms - self.has_static != 2 + self.exposed or tops != 1 + self.exposed:
            raise RefusedError(
                f"has {bottoms} bottoms and {tops} tops; expected x, cont, perhaps a static input, and {self.exposed} "
                f"states, and {1 + self.exposed} tops"
            )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, cont = bottoms[:2]
        if len(x) < 3:
            raise RefusedError(f"first bottom has {len(x)} dimensions, expected time steps, sequences and inputs")
        if cont != x[:2]:
            raise RefusedError(f"second bottom is {cont}, expected {x[:2]}: time steps and sequences of the first")
        if self.has_static and (len(bottoms[2]) < 2 or bottoms[2][0] != x[1]):
            raise RefusedError(f"the static input is {bottoms[2]}, expected {x[1]} sequences and their inputs")
        state = (1, x[1], self.num_output)
        for bottom in bottoms[2 + self.has_static :]:
            if bottom != state:
                raise RefusedError(f"a state is {bottom}, expected {state}")
        return [(*x[:2], self.num_output)] + [state] * self.exposed

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        size = self.gates * self.num_output
        shapes: list[Shape] = [(size, count(bottoms[0][2:])), (size,)]
        return [*shapes, (size, count(bottoms[2][1:]))] if self.has_static else shapes

    def gate_inputs(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> tuple[Array, Sequence[Array]]:
        """Compute what every step adds to its gates without the states, (T, N, G), and the blobs that are left."""
        x = bottoms[0]
        inputs = x.reshape(*x.shape[:2], -1) @ blobs[0].T + blobs[1]
        if not self.has_static:
            return inputs, blobs[2:]
        static = bottoms[2]
        return inputs + static.reshape(static.shape[0], -1) @ blobs[2].T, blobs[3:]

    def join_net(self, numbers: RandomNumbers, blobs: Sequence[LiveBlob]) -> None:
        self._memories = [np.zeros(0, np.float32)] * self.states

    def first_states(self, bottoms: Sequence[Array]) -> list[Array]:
        """Return the states before the first step, (N, num_output) each."""
        given = bottoms[2 + self.has_static :]
        shape = (bottoms[0].shape[1], self.num_output)
        if given or self._memories is None:
            return [state[0] for state in given] or [np.zeros(shape, np.float32)] * self.states
        # Caffe's blobs keep their memory when they shrink, and get one of zeros when they outgrow it.
        size = count(shape)
        self._memories = [m if m.size >= size else np.zeros(size, np.float32) for m in self._memories]
        return [m[:size].reshape(shape).copy() for m in self._memories]

    def keep_states(self, states: Sequence[Array]) -> None:
        """Remember the states after the last step, (N, num_output) each, for the next pass."""
        for memory, state in zip(self._memories or (), states, strict=False):
            memory[: state.size] = state.reshape(-1)

    def multiply_adds(self, call: Call) -> int:
        steps = count(call.bottom_shapes[0][:2])
        weights = sum(count(shape) for shape in self.blob_shapes(call.bottom_shapes) if len(shape) == 2)
        return steps * weights


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + exp(-x)), without overflow."""
    half = np.float32(0.5)
    return half * np.tanh(half * x) + half


def unroll_lstm(
    inputs: Array, weights: Array, cont: Array, h: Array, c: Array, forget_bias: float = 0.0
) -> tuple[Array, Array, Array]:
    """Run the steps of an LSTM, whose gates stand in the order input, forget, output, modulation.

    Args:
        inputs: what the steps add to the gates, (T, N, 4H).
        weights: of the hidden state, (4H, H).
        cont: (T, N).
        h, c: hidden state and cell before the first step, (N, H).

    Returns:
        All hidden states (T, N, H), and h and c after the last step.

    Source: BVLC/caffe, src/caffe/layers/lstm_unit_layer.cpp, LSTMUnitLayer::Forward_cpu.
    """
    outputs = np.empty((*inputs.shape[:2], h.shape[1]), np.float32)
    for t, go_on in enumerate(cont[:, :, None]):
        i, f, o, g = np.split(inputs[t] + (go_on * h) @ weights.T, 4, axis=1)
        c = go_on * sigmoid(f + np.float32(forget_bias)) * c + sigmoid(i) * np.tanh(g)
        outputs[t] = h = sigmoid(o) * np.tanh(c)
    return outputs, h, c
