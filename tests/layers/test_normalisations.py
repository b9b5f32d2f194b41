"""Layers that divide by what they measure, now or in training: BatchNorm, BN, LRN, MVN, Normalize, Softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

images = st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
ranks = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)
SEVERAL = st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple)


def random(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape).astype(np.float32)


def positive(*shape) -> np.ndarray:
    return np.abs(random(*shape)) + np.float32(0.1)


def per_channel(x, formula) -> np.ndarray:
    y = np.empty(x.shape)
    for place in np.ndindex(*x.shape):
        y[place] = formula(float(x[place]), place[1])
    return y


@settings(max_examples=30, deadline=None)
@given(SEVERAL, st.sampled_from([0.0, 1.0, 3.5, 999.0]), st.sampled_from([1e-5, 1e-3]), st.booleans())
def test_batch_norm(run_layer, shape, factor, eps, before_sqrt):
    x, mean, variance = random(*shape), random(shape[1]), positive(shape[1])
    text = f"use_global_stats: true eps: {eps} add_eps_before_sqrt: {str(before_sqrt).lower()} icnet: true"
    blobs = [mean, variance, np.array([factor], np.float32)]
    inverse = 1 / factor if factor else 0.0

    def formula(value, c):
        v = float(variance[c]) * inverse
        deviation = math.sqrt(v + eps) if before_sqrt else math.sqrt(v) + eps
        return (value - float(mean[c]) * inverse) / deviation

    found = run_layer("BatchNorm", x, param=f"batch_norm_param {{ {text} }}", blobs=blobs)
    assert np.allclose(found, per_channel(x, formula), rtol=1e-5, atol=1e-5)


def test_batch_norm_subtracts_the_mean_before_it_scales(run_layer):
    """With a variance near 0, scale * x and scale * mean are huge and their difference is not."""
    x = np.full((1, 1, 2, 2), 1000.0, np.float32)
    x[0, 0, 0, 0] += np.float32(0.0625)
    blobs = [np.array([1000.0], np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)]
    found = run_layer("BatchNorm", x, blobs=blobs)
    assert found.reshape(-1) == pytest.approx([0.0625 / math.sqrt(1e-5), 0, 0, 0], rel=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "scale_bias: true", "scale_bias: true use_global_stats: false", "scale_bias: true engine: CUDNN",
        "scale_filler { value: 1 }", 'bias_filler { type: "constant" }',
        'scale_bias: false scale_filler { type: "xavier" } bias_filler { value: 0.1 }',
    ],
)  # fmt: skip
def test_batch_norm_with_gamma_and_beta(run_layer, text):
    x, mean, variance, gamma, beta = random(2, 3, 2, 2), random(3), positive(3), random(3) + 3, random(3)
    found = run_layer(
        "BatchNorm", x, param=f"batch_norm_param {{ eps: 1e-9 {text} }}",
        blobs=[mean, variance, np.array([7], np.float32), gamma, beta],
    )  # fmt: skip

    def formula(value, c):
        return gamma[c] * (value - mean[c]) / math.sqrt(variance[c] + 1e-5) + beta[c]

    assert np.allclose(found, per_channel(x, formula), rtol=1e-5, atol=1e-5)


def test_fillers_of_intel_add_no_blobs(run_layer):
    x, blobs = random(2, 3, 2, 2), [random(3), positive(3), np.ones(1, np.float32)]
    text = "batch_norm_param { filler { value: 1 } bias_filler { value: 0 } engine: MKL2017 }"
    assert np.array_equal(run_layer("BatchNorm", x, param=text, blobs=blobs), run_layer("BatchNorm", x, blobs=blobs))


def test_batch_norm_of_blobs_with_four_axes(run_layer):
    x, mean, variance = random(2, 3, 2, 2), random(1, 3, 1, 1), positive(1, 3, 1, 1)
    found = run_layer("BatchNorm", x, blobs=[mean, variance, np.ones((1, 1, 1, 1), np.float32)])
    assert np.allclose(found, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-5, atol=1e-5)


def test_batch_norm_without_variance_is_infinite_and_silent(run_layer):
    zero = np.zeros(1, np.float32)
    found = run_layer("BatchNorm", [[2.0], [-3.0]], param="batch_norm_param { eps: 0 }", blobs=[zero, zero, zero + 1])
    assert found.tolist() == [[np.inf], [-np.inf]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("use_global_stats: false", "statistics of the batch are for training"),
        ("relu: true", "a layer of its own"),
        ("use_weight_bias: true", "as a Scale layer"),
    ],
)
def test_batch_norm_refused(refusal, text, reason):
    assert reason in refusal("BatchNorm", (2, 3, 4, 4), param=f"batch_norm_param {{ {text} }}")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple), st.sampled_from([1e-5, 1e-2]), st.booleans())
def test_bn(run_layer, shape, eps, merged):
    blob = (1, shape[1], 1, 1)
    x, slope, bias, mean, variance = random(*shape), random(*blob) + 2, random(*blob), random(*blob), positive(*blob)
    text = "bn_mode: INFERENCE" if merged else f"eps: {eps} frozen: true momentum: 0.9 slope_filler {{ value: 2 }}"
    blobs = [slope, bias] if merged else [slope, bias, mean, variance]

    def formula(value, c):
        s, b, m, v = (float(a[0, c, 0, 0]) for a in (slope, bias, mean, variance))
        return s * value + b if merged else s * (value - m) / math.sqrt(v + eps) + b

    found = run_layer("BN", x, param=f"bn_param {{ {text} }}", blobs=blobs)
    assert np.allclose(found, per_channel(x, formula), rtol=1e-5, atol=1e-5)


def test_bn_refused(refusal):
    assert "icnet is set" in refusal("BN", (2, 3, 4, 4), param="bn_param { icnet: true }")
    assert "bottom has 5 dimensions" in refusal("BN", (2, 3, 4, 4, 4))
    assert "bottom has 1 dimensions" in refusal("BN", (2,))


@settings(max_examples=40, deadline=None)
@given(
    images, st.sampled_from([1, 3, 5, 7]), st.sampled_from([0, 0.0001, 0.5, 2]), st.sampled_from([0, 0.75, 1.5, -0.5]),
    st.sampled_from([0.5, 1, 2.25]), st.booleans(),
)  # fmt: skip
def test_lrn(run_layer, shape, size, alpha, beta, k, within):
    x, half = random(*shape) * 2, size // 2
    text = f"local_size: {size} alpha: {alpha} beta: {beta} k: {k} {'norm_region: WITHIN_CHANNEL' if within else ''}"
    found = run_layer("LRN", x, param=f"lrn_param {{ {text} }}")
    _, channels, height, width = shape
    for n, c, h, w in np.ndindex(*shape):
        if within:
            near = [
                float(x[n, c, i, j]) ** 2
                for i in range(max(h - half, 0), min(h + half + 1, height))
                for j in range(max(w - half, 0), min(w + half + 1, width))
            ]
            scale = 1 + alpha * sum(near) / size**2
        else:
            near = [float(x[n, i, h, w]) ** 2 for i in range(max(c - half, 0), min(c + half + 1, channels))]
            scale = k + alpha / size * sum(near)
        assert found[n, c, h, w] == pytest.approx(float(x[n, c, h, w]) * scale**-beta, rel=1e-4, abs=1e-6)


def test_lrn_refused(refusal):
    assert "local_size is 4, expected an odd number" in refusal(
        "LRN", (1, 2, 3, 3), param="lrn_param { local_size: 4 }"
    )
    assert "local_size is 0" in refusal("LRN", (1, 2, 3, 3), param="lrn_param { local_size: 0 }")
    assert "bottom has 3 dimensions" in refusal("LRN", (2, 3, 3))


@settings(max_examples=40, deadline=None)
@given(ranks.filter(lambda s: len(s) < 5), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1e-9, 0.25]))
def test_mvn(run_layer, shape, across, variance, before_sqrt, eps):
    x = random(*shape) * 3 + 1
    text = f"across_channels: {str(across).lower()} normalize_variance: {str(variance).lower()} eps: {eps} "
    text += "add_eps_before_sqrt: true" if before_sqrt else ""
    found = run_layer("MVN", x, param=f"mvn_param {{ {text} }}")
    four = shape + (1,) * (4 - len(shape))
    assert found.shape == four
    x = x.reshape(four).astype(np.float64)
    for n, c in np.ndindex(*four[:2]):
        part = x[n] if across else x[n, c]
        centred = x[n, c] - sum(part.flat) / part.size
        spread = sum((v - sum(part.flat) / part.size) ** 2 for v in part.flat) / part.size
        if variance and spread > 1e-6:  # of equal values only rounding is left to divide by
            centred = centred / (math.sqrt(spread + eps) if before_sqrt else math.sqrt(spread) + eps)
        elif variance:
            continue
        assert np.allclose(found[n, c], centred, atol=1e-4)


def test_mvn_refused(refusal):
    assert "bottom has 5 dimensions" in refusal("MVN", (1, 1, 1, 1, 1))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([1e-10, 0.5]),
)  # fmt: skip
def test_normalize(run_layer, shape, across, shared, before_sqrt, eps):
    x, scale = random(*shape), random() + 2 if shared else random(shape[1]) + 2
    text = f"across_spatial: {str(across).lower()} channel_shared: {str(shared).lower()} eps: {eps} "
    text += f"scale_filler {{ value: 20 }} {'' if before_sqrt else 'add_eps_before_sqrt: false'}"
    found = run_layer("Normalize", x, param=f"norm_param {{ {text} }}", blobs=[scale])
    for place in np.ndindex(*shape):
        part = x[place[0]] if across else x[(place[0], slice(None), *place[2:])]
        energy = sum(float(v) ** 2 for v in part.flat)
        norm = math.sqrt(energy) + eps if across and not before_sqrt else math.sqrt(energy + eps)
        expected = float(x[place]) / norm * float(scale if shared else scale[place[1]])
        assert found[place] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_normalize_refused(refusal):
    assert "bottom has 1 dimensions" in refusal("Normalize", (3,))
    assert "bottom has 5 dimensions" in refusal("Normalize", (1, 1, 1, 1, 1))


@settings(max_examples=30, deadline=None)
@given(ranks, st.integers(-5, 4))
def test_softmax(run_layer, refusal, shape, axis):
    param = f"softmax_param {{ axis: {axis} }}"
    if not -len(shape) <= axis < len(shape):
        assert f"softmax_param.axis {axis} is outside" in refusal("Softmax", shape, param=param)
        return
    x, i = random(*shape) * 3, axis % len(shape)
    found = run_layer("Softmax", x, param=param)
    for place in np.ndindex(*shape):
        line = [float(x[(*place[:i], j, *place[i + 1 :])]) for j in range(shape[i])]
        expected = math.exp(float(x[place])) / sum(map(math.exp, line))
        assert found[place] == pytest.approx(expected, rel=1e-4)


def test_softmax_of_large_numbers(run_layer):
    assert run_layer("Softmax", [[1e4, 1e4, -1e4]]).tolist() == [[0.5, 0.5, 0]]
