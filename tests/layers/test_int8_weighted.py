"""Layers that multiply by weights, in INT8: every code is that of naive loops, from thresholds and float weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import integer_layers as oracle

from calib8.errors import QuantizationError
from calib8.lowering.readings import Codes
from calib8.quantize import make_plan

MANY = settings(max_examples=30, deadline=None)


def network(shape, layer_type: str, param: str) -> str:
    dims = " ".join(f"dim: {d}" for d in shape)
    return (
        f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'
        f'layer {{ name: "y" type: "{layer_type}" bottom: "x" top: "y" {param} }}'
    )


def repeated(name: str, values) -> str:
    return " ".join(f"{name}: {v}" for v in values)


@st.composite
def codes(draw, shape):
    """Any codes, small ones, or the extremes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low, high = draw(st.sampled_from([(-128, 128), (-128, 128), (-3, 4)]))
    if draw(st.integers(0, 4)) == 0:
        return rng.choice([-128, 127], shape)
    return rng.integers(low, high, shape)


@st.composite
def weights(draw, shape):
    """Float weights: any, multiples of a power of two (so that accumulators meet ties), one sign, or none at all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["any", "any", "steps", "steps", "one sign", "dead"]))
    values = {
        "any": rng.standard_normal(shape),
        "steps": rng.integers(-8, 9, shape) / 8,
        "one sign": np.full(shape, -1.0),
        "dead": np.zeros(shape),
    }[kind]
    return values.astype(np.float32)


@st.composite
def weighted_thresholds(draw, w):
    """tx and ty that give a right shift from 0 to 31, or none; often powers of two."""
    tx = draw(st.sampled_from([0.25, 1.0, 8.0, 3.7, 0.0613]))
    largest = float(np.abs(w).max(initial=0)) or 1.0
    ratio = draw(st.sampled_from([64.0, 64.0, 100.0, 127.5])) / 2.0 ** draw(st.integers(-1, 31))
    ty = tx * largest / ratio
    if draw(st.booleans()):
        ty = 2.0 ** math.ceil(math.log2(ty))
    return float(np.float32(tx)), float(np.float32(ty))


def bias_of(draw, outputs: int, ty: float, rshift: int):
    """Biases that are integers after quantising, so that they reach ties, and beyond 16 bits."""
    if draw(st.booleans()):
        return None
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from([4, 2**rshift, 2**rshift * 40]))
    half = rng.integers(-2, 3, outputs) * (2**rshift / 2)
    values = (half + rng.integers(-size, size + 1, outputs)) * ty / 128 / 2**rshift
    return values.astype(np.float32)


def check(random_model, run_int8, text, blobs, tx, ty, x, expected) -> None:
    model = random_model(text, 0, {"y": blobs})
    if expected is None:
        with pytest.raises(QuantizationError, match="layer 'y'"):
            make_plan(model, {"x": tx, "y": ty})
        return
    plan = make_plan(model, {"x": tx, "y": ty})
    found = run_int8(model, plan, {"x": x}, [Codes("y")])[Codes("y")]
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


def check_window(random_model, run_int8, draw, layer_type, transposed) -> None:
    axes = draw(st.sampled_from([2, 2, 2, 1, 3]))
    group, depth, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    sizes = [draw(st.lists(st.integers(*r), min_size=axes, max_size=axes)) for r in ((1, 3), (1, 3), (0, 2), (1, 2))]
    kernel, stride, pad, dilation = sizes
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    spatial = [draw(st.integers(1, 3)) if transposed else e + draw(st.integers(0, 3)) for e in extent]
    pad = [min(p, (e - 1) // 2 if transposed else e // 2) for p, e in zip(pad, extent, strict=True)]
    shape = (draw(st.integers(1, 2)), group * depth, *spatial)
    outputs = group * per_group
    w = draw(weights((shape[1], per_group, *kernel) if transposed else (outputs, depth, *kernel)))
    tx, ty = draw(weighted_thresholds(w))
    constants = oracle.weights_of(w, None, tx, ty)
    b = bias_of(draw, outputs, ty, constants[2] if constants else 0)
    param = (
        f"convolution_param {{ num_output: {outputs} group: {group} bias_term: {str(b is not None).lower()} "
        f"{repeated('kernel_size', kernel)} {repeated('stride', stride)} {repeated('pad', pad)} "
        f"{repeated('dilation', dilation)} }}"
    )
    x = draw(codes(shape))
    expected = None
    if constants is not None:
        slide = oracle.deconvolution if transposed else oracle.convolution
        geometry = {"stride": stride, "pad": pad, "pad_end": pad, "dilation": dilation, "group": group}
        expected = slide(x, oracle.weights_of(w, b, tx, ty), **geometry)
    blobs = [w] if b is None else [w, b]
    check(random_model, run_int8, network(shape, layer_type, param), blobs, tx, ty, x, expected)


@MANY
@given(data=st.data())
def test_convolution(random_model, run_int8, data):
    check_window(random_model, run_int8, data.draw, "Convolution", transposed=False)


@MANY
@given(data=st.data())
def test_deconvolution(random_model, run_int8, data):
    check_window(random_model, run_int8, data.draw, "Deconvolution", transposed=True)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_depthwise_convolution(random_model, run_int8, data):
    channels = data.draw(st.sampled_from([1, 3, 16, 33]))
    x = data.draw(codes((data.draw(st.integers(1, 2)), channels, 4, 3)))
    w = data.draw(weights((channels, 1, 3, 3)))
    tx, ty = data.draw(weighted_thresholds(w))
    constants = oracle.weights_of(w, np.zeros(channels), tx, ty)
    expected = constants and oracle.convolution(
        x, constants, stride=(1, 1), pad=(1, 1), pad_end=(1, 1), dilation=(1, 1), group=channels
    )
    text = network(x.shape, "ConvolutionDepthwise", "convolution_param { kernel_size: 3 pad: 1 }")
    check(random_model, run_int8, text, [w, np.zeros(channels)], tx, ty, x, expected)


@pytest.mark.parametrize("sides", ["pad_t: 1 pad_r: 2", "pad_l: 1 pad_b: 3"])
@pytest.mark.parametrize("layer_type", ["Convolution", "Deconvolution"])
def test_a_pad_of_each_side_holds_zeros(random_model, run_int8, layer_type, sides):
    rng = np.random.default_rng(3)
    x, w = rng.integers(-128, 128, (1, 2, 4, 4)), rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
    pads = dict(zip(sides.replace(":", "").split()[::2], map(int, sides.split()[1::2]), strict=True))
    pad, pad_end = [pads.get("pad_t", 0), pads.get("pad_l", 0)], [pads.get("pad_b", 0), pads.get("pad_r", 0)]
    constants = oracle.weights_of(w, np.zeros(2), 1.0, 16.0)
    slide = oracle.deconvolution if layer_type == "Deconvolution" else oracle.convolution
    expected = slide(x, constants, stride=(1, 1), pad=pad, pad_end=pad_end, dilation=(1, 1), group=1)
    text = network(x.shape, layer_type, f"convolution_param {{ num_output: 2 kernel_size: 3 {sides} }}")
    check(random_model, run_int8, text, [w, np.zeros(2)], 1.0, 16.0, x, expected)


@pytest.mark.parametrize("layer_type", ["Convolution", "Deconvolution"])
def test_axes_in_front_of_the_channels_are_images(random_model, run_int8, layer_type):
    rng = np.random.default_rng(4)
    x, w = rng.integers(-128, 128, (2, 3, 2, 5)), rng.standard_normal((2, 2, 3)).astype(np.float32)
    constants = oracle.weights_of(w, np.zeros(2), 1.0, 8.0)
    slide = oracle.deconvolution if layer_type == "Deconvolution" else oracle.convolution
    images = slide(x.reshape(6, 2, 5), constants, stride=(1,), pad=(0,), pad_end=(0,), dilation=(1,), group=1)
    text = network(x.shape, layer_type, "convolution_param { axis: 2 num_output: 2 kernel_size: 3 }")
    expected = images.reshape(2, 3, *images.shape[1:])
    check(random_model, run_int8, text, [w, np.zeros(2)], 1.0, 8.0, x, expected)


@pytest.mark.parametrize("layer_type", ["Convolution", "Deconvolution"])
def test_several_bottoms_share_the_weights(random_model, run_int8, layer_type):
    rng = np.random.default_rng(5)
    xs = {name: rng.integers(-128, 128, (1, 2, 4, 4)) for name in ("a", "b")}
    w = rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
    inputs = "".join(network((1, 2, 4, 4), "", "").split("\n")[0].replace('"x"', f'"{n}"') for n in xs)
    text = inputs + (
        f'layer {{ name: "y" type: "{layer_type}" bottom: "a" bottom: "b" top: "y" top: "z" '
        "convolution_param { num_output: 2 kernel_size: 3 } }"
    )
    model = random_model(text, 0, {"y": [w, np.zeros(2)]})
    plan = make_plan(model, {"a": 1.0, "b": 1.0, "y": 16.0, "z": 16.0})
    found = run_int8(model, plan, xs, [Codes("y"), Codes("z")])
    constants = oracle.weights_of(w, np.zeros(2), 1.0, 16.0)
    slide = oracle.deconvolution if layer_type == "Deconvolution" else oracle.convolution
    for bottom, top in (("a", "y"), ("b", "z")):
        expected = slide(xs[bottom], constants, stride=(1, 1), pad=(0, 0), pad_end=(0, 0), dilation=(1, 1), group=1)
        assert np.array_equal(found[Codes(top)], expected)


@MANY
@given(data=st.data())
def test_inner_product(random_model, run_int8, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    outputs, transpose = data.draw(st.integers(1, 5)), data.draw(st.booleans())
    columns = math.prod(shape[axis:])
    x = data.draw(codes(shape))
    w = data.draw(weights((columns, outputs) if transpose else (outputs, columns)))
    tx, ty = data.draw(weighted_thresholds(w))
    constants = oracle.weights_of(w, None, tx, ty)
    b = bias_of(data.draw, outputs, ty, constants[2] if constants else 0)
    given_axis = axis if data.draw(st.booleans()) else axis - len(shape)
    param = (
        f"inner_product_param {{ num_output: {outputs} axis: {given_axis} transpose: {str(transpose).lower()} "
        f"bias_term: {str(b is not None).lower()} }}"
    )
    expected = constants and oracle.inner_product(x, oracle.weights_of(w, b, tx, ty), axis=axis, transpose=transpose)
    blobs = [w] if b is None else [w, b]
    check(random_model, run_int8, network(shape, "InnerProduct", param), blobs, tx, ty, x, expected)


@MANY
@given(data=st.data())
def test_scale(random_model, run_int8, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    covered = data.draw(st.integers(0, len(shape) - axis))
    x, w = data.draw(codes(shape)), data.draw(weights(shape[axis : axis + covered]))
    tx, ty = data.draw(weighted_thresholds(w))
    constants = oracle.weights_of(w, None, tx, ty)
    b = bias_of(data.draw, w.size, ty, constants[2] if constants else 0)
    param = f"scale_param {{ axis: {axis} num_axes: {covered} bias_term: {str(b is not None).lower()} }}"
    expected = constants and oracle.affine(x, oracle.weights_of(w, b, tx, ty), axis)
    blobs = [w] if b is None else [w, b.reshape(w.shape)]
    check(random_model, run_int8, network(shape, "Scale", param), blobs, tx, ty, x, expected)


@MANY
@given(data=st.data())
def test_batch_norm_with_and_without_its_scale(random_model, run_int8, data):
    channels = data.draw(st.integers(1, 6))
    shape = (data.draw(st.integers(1, 2)), channels, *data.draw(st.sampled_from([(), (3,), (2, 3), (2, 1, 2)])))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mean, gamma, beta = (rng.standard_normal(channels).astype(np.float32) for _ in range(3))
    variance = (np.abs(rng.standard_normal(channels)) ** data.draw(st.sampled_from([1, 8]))).astype(np.float32)
    with_scale = data.draw(st.booleans())
    if not with_scale:
        gamma, beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    tx = data.draw(st.sampled_from([1.0, 4.0, 5.3]))
    ty = float(np.float32(2.0 ** data.draw(st.integers(-6, 26))))
    constants = oracle.batch_norm_of(mean, variance, 0.001, gamma, beta, tx, ty)
    text = network(shape, "BatchNorm", "batch_norm_param { eps: 0.001 }")
    blobs = {"y": [mean, variance, [1.0]], "z": [gamma, beta]}
    top, thresholds = "y", {"x": tx, "y": ty}
    if with_scale:
        text += '\nlayer { name: "z" type: "Scale" bottom: "y" top: "z" scale_param { bias_term: true } }'
        top, thresholds = "z", {"x": tx, "z": ty}
    model = random_model(text, 0, blobs)
    if constants is None:
        with pytest.raises(QuantizationError, match="layer 'y'"):
            make_plan(model, thresholds)
        return
    x = data.draw(codes(shape))
    s, b, rs = constants
    found = run_int8(model, make_plan(model, thresholds), {"x": x}, [Codes("y"), Codes(top)])
    expected = oracle.affine(x, (s.reshape(-1), b, rs), 1)
    assert np.array_equal(found[Codes(top)], expected)
    assert np.array_equal(found[Codes("y")], expected)


@MANY
@given(data=st.data())
def test_bn_in_both_dialects(random_model, run_int8, data):
    channels = data.draw(st.integers(1, 6))
    shape = (data.draw(st.integers(1, 2)), channels, *data.draw(st.sampled_from([(), (3,), (2, 3)])))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    slope, bias, mean = (rng.standard_normal(channels).astype(np.float32) for _ in range(3))
    variance = (np.abs(rng.standard_normal(channels)) ** data.draw(st.sampled_from([1, 8]))).astype(np.float32)
    tx = data.draw(st.sampled_from([1.0, 4.0, 5.3]))
    ty = float(np.float32(2.0 ** data.draw(st.integers(-6, 26))))
    is_merged = data.draw(st.booleans())
    if is_merged:
        constants = oracle.weights_of(slope.astype(np.float64), bias.astype(np.float64), tx, ty)
        mode, blobs = "bn_mode: INFERENCE", [slope, bias]
    else:
        constants = oracle.batch_norm_of(mean, variance, 0.001, slope, bias, tx, ty)
        mode, blobs = "", [slope, bias, mean, variance]
    text = network(shape, "BN", f"bn_param {{ eps: 0.001 {mode} }}")
    model = random_model(text, 0, {"y": [b.reshape(1, -1, 1, 1) for b in blobs]})
    thresholds = {"x": tx, "y": ty}
    if constants is None:
        with pytest.raises(QuantizationError, match="layer 'y'"):
            make_plan(model, thresholds)
        return
    x = data.draw(codes(shape))
    s, b, rs = constants
    plan = make_plan(model, thresholds)
    assert [tuple(blob.shape) for blob in plan.forms["y"].blobs] == [(1, channels, 1, 1)] * len(blobs)
    found = run_int8(model, plan, {"x": x}, [Codes("y")])
    assert np.array_equal(found[Codes("y")], oracle.affine(x, (s.reshape(-1), b, rs), 1))
