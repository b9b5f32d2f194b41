"""The ONNX nodes of the integer contract against naive integers, ties and saturation included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.integer_layers import quantize

from calib8.engine import EngineOptions
from calib8.engine.session import open_session
from calib8.layer_kit import codes as nodes
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.lowering.steps import OnnxStep


def run(build, *inputs):
    """Run a graph that `build(g, *names)` makes over these inputs."""
    g = OnnxBuilder()
    names = [g.input(x.shape, x.dtype) for x in inputs]
    onnx, weights = g.model([(build(g, *names), np.uint8)])
    session = open_session(OnnxStep(onnx, weights, (), (), ()), EngineOptions())
    return session.run(None, dict(zip(names, inputs, strict=True)))[0].astype(np.int64) - 128


def to_code(numerator: int, rshift: int) -> int:
    """sat8(floor(n / 2^rs + 1/2)) in integers."""
    rounded = (2 * numerator + (1 << rshift)) // (2 << rshift)
    return max(-128, min(127, rounded))


def as_codes(values) -> np.ndarray:
    return (np.asarray(values) + 128).astype(np.uint8)


def naive_conv(x, w, b, rshift, stride, pad, group):
    n, _, height, width = x.shape
    outputs, depth, kh, kw = w.shape
    oh, ow = (height + 2 * pad - kh) // stride + 1, (width + 2 * pad - kw) // stride + 1
    y = np.zeros((n, outputs, oh, ow), np.int64)
    for i, o, r, c in itertools.product(range(n), range(outputs), range(oh), range(ow)):
        first = o // (outputs // group) * depth
        acc = int(b[o])
        for d, p, q in itertools.product(range(depth), range(kh), range(kw)):
            row, column = r * stride + p - pad, c * stride + q - pad
            if 0 <= row < height and 0 <= column < width:
                acc += int(x[i, first + d, row, column]) * int(w[o, d, p, q])
        y[i, o, r, c] = to_code(acc, rshift)
    return y


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_weighted_sum_is_the_integer_convolution(data):
    draw = data.draw
    group = draw(st.sampled_from([1, 1, 2, 3]))
    depth, kernel = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    per_group = draw(st.sampled_from([1, 2, 3, 3, 17]))
    stride, pad, rshift = draw(st.integers(1, 2)), draw(st.integers(0, 1)), draw(st.integers(0, 31))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    small = draw(st.booleans())
    x = rng.integers(-128, 128, (draw(st.integers(1, 2)), depth * group, 4, 5))
    w = rng.integers(*((-2, 3) if small else (-128, 128)), (per_group * group, depth, kernel, kernel))
    b = rng.integers(-32768, 32768, len(w)) // (1000 if small else 1)
    geometry = nodes.ConvGeometry((stride,) * 2, (pad,) * 4, (1, 1), group)
    got = run(
        lambda g, c: nodes.weighted_sum(g, c, w.astype(np.int8), b.astype(np.int16), rshift, geometry), as_codes(x)
    )
    assert np.array_equal(got, naive_conv(x, w, b, rshift, stride, pad, group))


@pytest.mark.parametrize("rshift", [0, 1, 6, 12, 13, 14, 15, 16])
def test_every_tie_and_its_neighbours_round_up(rshift):
    """One weight of 1, a bias that puts the accumulator on, below and above ties; one channel for each."""
    half = 1 << rshift >> 1
    near = [k * (1 << rshift) + half + d for k in range(-130, 130) for d in (-1, 0, 1)]
    bias = np.array([b for b in near if -32768 <= b <= 32767])
    w = np.ones((len(bias), 1, 1, 1), np.int8)
    got = run(
        lambda g, c: nodes.weighted_sum(g, c, w, bias, rshift, nodes.ConvGeometry((1, 1), (0,) * 4, (1, 1))),
        as_codes([[[[0, 1, -1]]]]),
    )
    expected = [[to_code(int(b) + x, rshift) for x in (0, 1, -1)] for b in bias]
    assert np.array_equal(got[0, :, 0], expected)


@pytest.mark.parametrize("rshift", [5, 9, 13])
@pytest.mark.parametrize(("group", "kernel", "size"), [(1, 3, 7), (1, 1, 9), (64, 3, 8), (64, 1, 6), (2, 3, 5)])
def test_layers_as_wide_as_real_ones(group, kernel, size, rshift):
    """Kernels that only many channels reach, with ties among the accumulators."""
    rng = np.random.default_rng(rshift)
    x = rng.integers(-128, 128, (2, 64, size, size))
    w = rng.integers(-128, 128, (64, 64 // group, kernel, kernel)) // (1 if rshift > 9 else 16)
    b = rng.integers(-3, 3, 64) + (1 << rshift >> 1)
    geometry = nodes.ConvGeometry((1, 1), (0,) * 4, (1, 1), group)
    got = run(lambda g, c: nodes.weighted_sum(g, c, w.astype(np.int8), b, rshift, geometry), as_codes(x))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(2, 3))
    grouped = windows.reshape(2, group, 64 // group, *windows.shape[2:])
    sums = np.einsum("ngchwij,gocij->ngohw", grouped, w.reshape(group, 64 // group, *w.shape[1:]))
    acc = sums.reshape(2, 64, *sums.shape[3:]) + b[:, None, None]
    assert np.array_equal(got, np.clip((2 * acc + (1 << rshift)) // (2 << rshift), -128, 127))


@pytest.mark.parametrize("rshift", [0, 8, 13, 14, 16, 22])
def test_extreme_accumulators_are_exact(rshift):
    """All products at their largest, so that 32-bit, float32 and 16-bit pair sums are at their limits."""
    rng = np.random.default_rng(rshift)
    x = rng.choice([-128, 127], (1, 4096, 1, 1))
    w = rng.choice([-128, 127], (8, 4096, 1, 1))
    w[0], w[1] = -128, 127
    b = rng.choice([-32768, 32767], 8)
    got = run(
        lambda g, c: nodes.weighted_sum(
            g, c, w.astype(np.int8), b, rshift, nodes.ConvGeometry((1, 1), (0,) * 4, (1, 1))
        ),
        as_codes(x),
    )
    accumulators = (w.reshape(8, -1).astype(np.int64) * x.reshape(-1)).sum(axis=1) + b
    assert got.ravel().tolist() == [to_code(int(a), rshift) for a in accumulators]


@pytest.mark.parametrize("rshift", [0, 3, 7, 15, 16, 25, 31])
@pytest.mark.parametrize("factor", [1, 64, 116, 160, 255, -255])
def test_scaled_sum_of_one_tensor_over_all_codes(rshift, factor):
    every = np.arange(-128, 128)
    got = run(lambda g, c: nodes.scaled_sum(g, [(c, factor)], rshift), as_codes(every))
    assert got.tolist() == [to_code(int(q) * factor, rshift) for q in every]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-127, 127), min_size=1, max_size=5), st.integers(0, 31), st.booleans(), st.integers(0, 2**32)
)
def test_scaled_sum_of_several_tensors(factors, rshift, saturate, seed):
    rng = np.random.default_rng(seed)
    xs = [rng.choice([rng.integers(-128, 128, 300), np.full(300, -128), np.full(300, 127)]) for _ in factors]

    def build(g, *names):
        return nodes.scaled_sum(g, list(zip(names, factors, strict=True)), rshift, saturate16=saturate)

    got = run(build, *map(as_codes, xs))
    for i, code in enumerate(got):
        total = 0
        for x, factor in zip(xs, factors, strict=True):
            total += int(x[i]) * factor
            total = max(-32768, min(32767, total)) if saturate else total
        assert code == to_code(total, rshift)


@pytest.mark.parametrize("threshold", [3.7, 1.0, 128.0, 0.0613, 1.3e-44, 1e-40, 2.5e30])
def test_quantize_node_equals_the_contract_on_and_beside_ties(threshold):
    threshold = float(np.float32(threshold))
    with np.errstate(over="ignore"):
        ties = np.float32((np.arange(-140, 140) + 0.5) * threshold / 128)
    x = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))])
    x = np.concatenate([x, np.array([1e38, -1e38, 0, -0.0], np.float32)])
    got = run(lambda g, v: nodes.quantize_node(g, v, threshold), np.append(x, np.float32([np.inf, -np.inf])))
    assert np.array_equal(got[:-2], quantize(x, threshold))
    assert got[-2:].tolist() == [127, -128]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(-128, 127), st.integers(0, 31), st.lists(st.integers(-128, 127), min_size=1, max_size=3),
    st.integers(0, 31),
)  # fmt: skip
def test_two_sided_over_all_codes(gt, gt_rshift, le, le_rshift):
    every = np.arange(-128, 128)
    x = np.stack([every] * len(le))[None, :, :]
    negative = np.array(le)[:, None], le_rshift
    got = run(lambda g, c: nodes.two_sided(g, c, (gt, gt_rshift), negative), as_codes(x))
    expected = [
        [to_code(max(int(q), 0) * gt, gt_rshift) + to_code(min(int(q), 0) * slope, le_rshift) for q in every]
        for slope in le
    ]
    assert got[0].tolist() == expected
