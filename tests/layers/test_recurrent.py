"""LSTM, RNN and Lstm against one neuron at a time in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

numbers = st.integers(1, 3)


def random(*shape) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def dot(weights, values) -> float:
    return sum(float(w) * float(v) for w, v in zip(weights, values, strict=True))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_lstm(x, cont, static, h, c, blobs, forget_bias=0.0):
    """All hidden states and the last h and c; blobs W_x, b, W_static or None, W_h."""
    w_x, bias, w_static, w_h = blobs
    size = w_h.shape[1]
    h, c = h.astype(np.float64), c.astype(np.float64)
    outputs = np.empty((*x.shape[:2], size))
    for t, n in np.ndindex(*x.shape[:2]):
        go_on = float(cont[t, n])
        before = [go_on * v for v in h[n]]
        for d in range(size):
            gate = []
            for row in range(d, 4 * size, size):
                total = dot(w_x[row], x[t, n].ravel()) + float(bias[row]) + dot(w_h[row], before)
                gate.append(total + (dot(w_static[row], static[n].ravel()) if w_static is not None else 0.0))
            i, f, o = sigmoid(gate[0]), sigmoid(gate[1] + forget_bias), sigmoid(gate[2])
            c[n, d] = go_on * f * c[n, d] + i * math.tanh(gate[3])
            h[n, d] = o * math.tanh(c[n, d])
        outputs[t, n] = h[n]
    return outputs, h, c


def naive_rnn(x, cont, static, h, blobs):
    w_x, bias, w_static, w_h, w_o, b_o = blobs
    h = h.astype(np.float64)
    outputs = np.empty((*x.shape[:2], len(w_h)))
    for t, n in np.ndindex(*x.shape[:2]):
        before = [float(cont[t, n]) * v for v in h[n]]
        for d in range(len(w_h)):
            total = dot(w_x[d], x[t, n].ravel()) + float(bias[d]) + dot(w_h[d], before)
            total += dot(w_static[d], static[n].ravel()) if w_static is not None else 0.0
            h[n, d] = math.tanh(total)
        outputs[t, n] = [math.tanh(dot(w_o[d], h[n]) + float(b_o[d])) for d in range(len(w_o))]
    return outputs, h


@st.composite
def sequences(draw):
    steps, count, inputs, outputs = (draw(numbers) for _ in range(4))
    shape = (steps, count, inputs, 2) if draw(st.booleans()) else (steps, count, inputs)
    cont = draw(st.lists(st.sampled_from([0, 1]), min_size=steps * count, max_size=steps * count))
    static = random(count, draw(numbers), 2) if draw(st.booleans()) else None
    return random(*shape), np.array(cont, np.float32).reshape(steps, count), static, outputs, draw(st.booleans())


def bottoms_of(x, cont, static, states):
    return [x, cont, *([static] if static is not None else []), *states]


def input_blobs(gates, x, static):
    w_static = None if static is None else random(gates, static[0].size)
    return [random(gates, x[0, 0].size), random(gates) * 2, w_static]


@settings(max_examples=25, deadline=None)
@given(sequences(), st.sampled_from([0.0, 1.5]))
def test_lstm(run_layer, sequence, forget_bias):
    x, cont, static, size, expose = sequence
    blobs = [*input_blobs(4 * size, x, static), random(4 * size, size) / 2]
    h, c = random(1, x.shape[1], size), random(1, x.shape[1], size) * 2
    param = f"num_output: {size} expose_hidden: {str(expose).lower()} forget_bias: {forget_bias}"
    found = run_layer(
        "LSTM",
        *bottoms_of(x, cont, static, (h, c) if expose else ()),
        param=f"recurrent_param {{ {param} }}",
        blobs=[b for b in blobs if b is not None],
        tops=3 if expose else 1,
    )
    before = (h[0], c[0]) if expose else (np.zeros_like(h[0]), np.zeros_like(c[0]))
    outputs, last_h, last_c = naive_lstm(x, cont, static, *before, blobs, forget_bias)
    found = found if expose else [found]
    for ours, theirs in zip(found, [outputs, last_h[None], last_c[None]], strict=False):
        assert ours.shape == theirs.shape
        assert np.allclose(ours, theirs, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(sequences())
def test_rnn(run_layer, sequence):
    x, cont, static, size, expose = sequence
    blobs = [*input_blobs(size, x, static), random(size, size) / 2, random(size, size) / 3, random(size)]
    h = random(1, x.shape[1], size)
    found = run_layer(
        "RNN",
        *bottoms_of(x, cont, static, (h,) if expose else ()),
        param=f"recurrent_param {{ num_output: {size} expose_hidden: {str(expose).lower()} }}",
        blobs=[b for b in blobs if b is not None],
        tops=2 if expose else 1,
    )
    outputs, last_h = naive_rnn(x, cont, static, h[0] if expose else np.zeros_like(h[0]), blobs)
    found = found if expose else [found]
    for ours, theirs in zip(found, [outputs, last_h[None]], strict=False):
        assert ours.shape == theirs.shape
        assert np.allclose(ours, theirs, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(numbers, numbers, numbers, numbers)
def test_lstm_that_begins_at_zero(run_layer, steps, count, inputs, size):
    x = random(steps, count, inputs)
    w_x, bias, _ = input_blobs(4 * size, x, None)
    w_h = random(4 * size, size) / 2
    param = f"lstm_param {{ num_output: {size} clipping_threshold: 0.1 }}"
    found = run_layer("Lstm", x, param=param, blobs=(w_x, w_h, bias))
    zeros = np.zeros((count, size))
    expected, _, _ = naive_lstm(x, np.ones((steps, count)), None, zeros, zeros, (w_x, bias, None, w_h))
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-5)


def test_saturated_gates_raise_no_warning(run_layer):
    x = np.array([[[1e5], [-1e5]]])
    blobs = (np.ones((4, 1)), np.zeros(4), np.zeros((4, 1)))
    found = run_layer("LSTM", x, np.zeros((1, 2)), param="recurrent_param { num_output: 1 }", blobs=blobs)
    assert found.ravel() == pytest.approx([math.tanh(1), 0])


@pytest.mark.parametrize("layer_type", ["LSTM", "RNN"])
@pytest.mark.parametrize(
    ("shapes", "param", "reason"),
    [
        ([(2, 3, 4), (2, 3)], "", "has no recurrent_param.num_output"),
        ([(2, 3), (2, 3)], "num_output: 5", "first bottom has 2 dimensions"),
        ([(2, 3, 4), (3, 2)], "num_output: 5", "second bottom is (3, 2), expected (2, 3)"),
        ([(2, 3, 4), (2, 3), (2, 5)], "num_output: 5", "static input is (2, 5), expected 3 sequences"),
        ([(2, 3, 4), (2, 3), (3,)], "num_output: 5", "static input is (3,)"),
        ([(2, 3, 4), (2, 3)], "num_output: 5 expose_hidden: true", "has 2 bottoms and 1 tops"),
        ([(2, 3, 4), (2, 3)], "num_output: 5 time_step: 2", "recurrent_param.time_step is set"),
        ([(2, 3, 4), (2, 3)], "num_output: 5 tf_rnn: true", "recurrent_param.tf_rnn is set"),
    ],
)
def test_refuses(refusal, layer_type, shapes, param, reason):
    assert reason in refusal(layer_type, *shapes, param=f"recurrent_param {{ {param} }}")


def test_states_must_fit(refusal):
    shapes = [(2, 3, 4), (2, 3), (1, 3, 5), (1, 3, 6)]
    param = "recurrent_param { num_output: 5 expose_hidden: true }"
    assert "a state is (1, 3, 6), expected (1, 3, 5)" in refusal("LSTM", *shapes, param=param, tops=3)


def test_lstm_that_begins_at_zero_refuses(refusal):
    assert "has no lstm_param.num_output" in refusal("Lstm", (2, 3, 4))
    assert "bottom has 2 dimensions" in refusal("Lstm", (2, 3), param="lstm_param { num_output: 1 }")
    assert "has 2 bottoms, expected 1" in refusal("Lstm", (2, 3, 4), (2,), param="lstm_param { num_output: 1 }")
