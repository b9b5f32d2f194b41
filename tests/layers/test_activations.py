"""Neuron layers against their formulas in float64, element by element, for any rank and for extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

values = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=5, max_side=4),
    elements=st.floats(-100, 100, width=32),
)
number = st.floats(-4, 4, width=32).map(lambda v: float(np.float32(v)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def leaky(x: float, slope: float) -> float:
    return max(x, 0.0) + slope * min(x, 0.0)


def hard_sigmoid(x: float, alpha: float, beta: float) -> float:
    return min(max(alpha * x + beta, 0.0), 1.0)


def check(found: np.ndarray, x: np.ndarray, formula, tolerance=2e-6) -> None:
    assert found.shape == x.shape
    expected = np.array([formula(float(v)) for v in x.ravel()]).reshape(x.shape)
    assert np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1)


@pytest.mark.parametrize(
    ("layer_type", "param", "formula"),
    [
        ("AbsVal", "", abs),
        ("BNLL", "", softplus),
        ("ELU", "", lambda x: x if x > 0 else math.expm1(x)),
        ("ELU", "elu_param { alpha: -0.5 }", lambda x: x if x > 0 else -0.5 * math.expm1(x)),
        ("Erf", "", math.erf),
        ("HardSigmoid", "", lambda x: hard_sigmoid(x, 0.2, 0.5)),
        ("HardSigmoid", "hard_sigmoid_param { alpha: 0.5 beta: 0.25 }", lambda x: hard_sigmoid(x, 0.5, 0.25)),
        ("HardSwish", "", lambda x: x * min(max(x + 3, 0), 6) / 6),
        ("Mish", "", lambda x: x * math.tanh(softplus(x))),
        ("Mish", "mish_param { engine: CAFFE }", lambda x: x * math.tanh(softplus(x))),
        ("ReLU6", "", lambda x: min(max(x, 0.0), 6.0)),
        ("ReLU6", "relu6_param { negative_slope: 0.25 }", lambda x: min(leaky(x, 0.25), 6.0)),
        ("ReLU6", "relu6_param { negative_slope: -0.5 }", lambda x: min(leaky(x, -0.5), 6.0)),
        ("Sigmoid", "", sigmoid),
        ("Sigmoid", "sigmoid_param { engine: CUDNN }", sigmoid),
        ("Swish", "", lambda x: x * sigmoid(x)),
        ("Swish", "swish_param { beta: -1.5 }", lambda x: x * sigmoid(-1.5 * x)),
        ("Swish", "swish_param { beta: 0 }", lambda x: x / 2),
        ("TanH", "tanh_param { engine: CAFFE }", math.tanh),
        ("Threshold", "", lambda x: float(x > 0)),
        ("Threshold", "threshold_param { threshold: -1.5 }", lambda x: float(x > -1.5)),
        ("Clip", "clip_param { min: -1.5 max: 2 }", lambda x: max(-1.5, min(x, 2.0))),
        ("Clip", "clip_param { min: 1 max: 1 }", lambda x: 1.0),
    ],
)
def test_formula(run_layer, layer_type, param, formula):
    @settings(max_examples=12, deadline=None)
    @given(values)
    def holds(x):
        check(run_layer(layer_type, x, param=param), x, formula)

    holds()


@pytest.mark.parametrize(
    ("layer_type", "at_minus_infinity", "at_infinity"),
    [
        ("AbsVal", np.inf, np.inf),
        ("BNLL", 0, np.inf),
        ("ELU", -1, np.inf),
        ("ReLU6", 0, 6),
        ("Sigmoid", 0, 1),
        ("TanH", -1, 1),
        ("Threshold", 0, 1),
    ],
)
def test_infinity(run_layer, layer_type, at_minus_infinity, at_infinity):
    assert run_layer(layer_type, [-np.inf, np.inf]).tolist() == [at_minus_infinity, at_infinity]


def test_threshold_itself_is_not_above(run_layer):
    param = "threshold_param { threshold: 0.1 }"
    just_above = np.nextafter(np.float32(0.1), np.float32(1))
    assert run_layer("Threshold", [np.float32(0.1), just_above], param=param).tolist() == [0, 1]


def test_clip_needs_an_order(refusal):
    assert "must both be set" in refusal("Clip", (2,))
    assert "min 2 is above clip_param.max 1" in refusal("Clip", (2,), param="clip_param { min: 2 max: 1 }")


@pytest.mark.parametrize("base", [-1.0, 2.0, 0.5, 10.0])
def test_exp(run_layer, base):
    @settings(max_examples=10, deadline=None)
    @given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-5, 5, width=32)), number, number)
    def holds(x, scale, shift):
        e = math.e if base == -1 else base
        found = run_layer("Exp", x, param=f"exp_param {{ base: {base} scale: {scale!r} shift: {shift!r} }}")
        expected = np.array([[e ** (shift + scale * float(v)) for v in row] for row in x])
        assert np.allclose(found, expected, rtol=2e-5)

    holds()


@pytest.mark.parametrize("base", [-1.0, 2.0, 0.5, 10.0])
def test_log(run_layer, base):
    @settings(max_examples=10, deadline=None)
    @given(hnp.arrays(np.float32, (3, 4), elements=st.floats(0.5, 50, width=32)), number)
    def holds(x, shift):
        divisor = 1.0 if base == -1 else math.log(base)
        argument = 2 * x.astype(np.float64) + abs(shift)
        found = run_layer("Log", x, param=f"log_param {{ base: {base} scale: 2 shift: {abs(shift)!r} }}")
        expected = np.array([[math.log(v) / divisor for v in row] for row in argument])
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)

    holds()


def test_log_outside_its_domain_is_what_c_gives(run_layer):
    found = run_layer("Log", [0, -1, np.inf])
    assert found[0] == -np.inf
    assert np.isnan(found[1])
    assert found[2] == np.inf


@pytest.mark.parametrize("layer_type", ["Exp", "Log"])
@pytest.mark.parametrize("base", ["0", "-2", "inf", "nan"])
def test_base_without_a_logarithm(refusal, layer_type, base):
    param = f"{layer_type.lower()}_param {{ base: {base} }}"
    assert "expected a positive number, or -1 for e" in refusal(layer_type, (2,), param=param)


def test_log_of_base_one(refusal, run_layer):
    assert "base is 1" in refusal("Log", (2,), param="log_param { base: 1 }")
    assert run_layer("Exp", [3, -4], param="exp_param { base: 1 }").tolist() == [1, 1]


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 0.5, -1.0, 1.7])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (-0.5, 20.0), (2.0, 30.0)])
def test_power(run_layer, power, scale, shift):
    x = np.random.default_rng(3).uniform(0.1, 10, (2, 3, 4)).astype(np.float32)
    found = run_layer("Power", x, param=f"power_param {{ power: {power} scale: {scale} shift: {shift} }}")
    expected = [(shift + scale * float(v)) ** power for v in x.ravel()]
    assert np.allclose(found.ravel(), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("power: 0", 1),
        ("power: 0 scale: 0 shift: 0", 1),
        ("scale: 0 shift: -2", -2),
        ("power: 2 scale: 0 shift: 3", 9),
        ("power: -1 scale: 0", np.inf),
        ("power: 0.5 scale: 0 shift: -1", np.nan),
    ],
)
def test_power_that_does_not_look_at_its_bottom(run_layer, param, expected):
    found = run_layer("Power", np.full((2, 3), np.nan), param=f"power_param {{ {param} }}")
    assert np.array_equal(found, np.full((2, 3), expected), equal_nan=True)
