"""Convolution and its depthwise and transposed kin, against loops over every product."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calib8.engine import run_float
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt


def random(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape).astype(np.float32)


def convolve(x, w, b, group, stride, pads, dilation) -> np.ndarray:
    """x (N, C, spatial...), w (O, C/group, kernel...); pads as (before, behind) of each axis."""
    kernel, size = w.shape[2:], x.shape[2:]
    top = [
        (s + sum(p) - d * (k - 1) - 1) // t + 1
        for s, p, d, k, t in zip(size, pads, dilation, kernel, stride, strict=True)
    ]
    y = np.zeros((len(x), len(w), *top))
    for n, o in np.ndindex(len(x), len(w)):
        first = o // (len(w) // group) * w.shape[1]
        for place in np.ndindex(*top):
            total = 0.0 if b is None else float(b[o])
            for c, *k in np.ndindex(*w.shape[1:]):
                at = [i * t - p[0] + j * d for i, t, p, j, d in zip(place, stride, pads, k, dilation, strict=True)]
                if all(0 <= i < s for i, s in zip(at, size, strict=True)):
                    total += float(w[(o, c, *k)]) * float(x[(n, first + c, *at)])
            y[(n, o, *place)] = total
    return y


def deconvolve(x, w, b, group, stride, pads, dilation) -> np.ndarray:
    """x (N, C, spatial...), w (C, O/group, kernel...): every element is spread over a window."""
    kernel, size = w.shape[2:], x.shape[2:]
    whole = [t * (s - 1) + d * (k - 1) + 1 for t, s, d, k in zip(stride, size, dilation, kernel, strict=True)]
    outputs = w.shape[1] * group
    y = np.zeros((len(x), outputs, *whole))
    for n, c in np.ndindex(*x.shape[:2]):
        first = c // (x.shape[1] // group) * w.shape[1]
        for place in np.ndindex(*size):
            for o, *k in np.ndindex(*w.shape[1:]):
                at = [i * t + j * d for i, t, j, d in zip(place, stride, k, dilation, strict=True)]
                y[(n, first + o, *at)] += float(x[(n, c, *place)]) * float(w[(c, o, *k)])
    y = y[(..., *(slice(p[0], s - p[1]) for p, s in zip(pads, whole, strict=True)))]
    return y if b is None else y + np.reshape(b, (-1,) + (1,) * len(size))


@st.composite
def cases(draw, axes=(1, 2, 2, 3)):
    """Shapes and parameters of one layer, and the text of its convolution_param."""
    count = draw(st.sampled_from(axes))
    several = st.lists(st.integers(1, 3), min_size=count, max_size=count)
    group = draw(st.integers(1, 3))
    case = {
        "n": draw(st.integers(1, 2)),
        "channels": group * draw(st.integers(1, 2)),
        "outputs": group * draw(st.integers(1, 2)),
        "group": group,
        "size": draw(st.lists(st.integers(1, 6), min_size=count, max_size=count)),
        "kernel": draw(several),
        "stride": draw(several),
        "dilation": draw(several),
        "pad": draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)),
        "bias": draw(st.booleans()),
    }
    text = f"num_output: {case['outputs']} group: {group} bias_term: {str(case['bias']).lower()} "
    for field, name in (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad"), ("dilation", "dilation")):
        pair = count == 2 and name != "dilation" and draw(st.booleans())
        if pair:
            text += f"{name}_h: {case[name][0]} {name}_w: {case[name][1]} "
        elif len(set(case[name])) == 1 and draw(st.booleans()):
            text += f"{field}: {case[name][0]} "
        else:
            text += "".join(f"{field}: {v} " for v in case[name])
    return case, f"convolution_param {{ {text} }}"


def run_and_compare(run_layer, layer_type, case, param, weights_shape, oracle) -> None:
    x = random(case["n"], case["channels"], *case["size"])
    w, b = random(*weights_shape), random(case["outputs"]) if case["bias"] else None
    expected = oracle(x, w, b, case["group"], case["stride"], [(p, p) for p in case["pad"]], case["dilation"])
    found = run_layer(layer_type, x, param=param, blobs=[w] if b is None else [w, b])
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-4)


def extents(case):
    return [d * (k - 1) + 1 for d, k in zip(case["dilation"], case["kernel"], strict=True)]


@settings(max_examples=40, deadline=None)
@given(cases())
def test_convolution(run_layer, drawn):
    case, param = drawn
    assume(all(e <= s + 2 * p for e, s, p in zip(extents(case), case["size"], case["pad"], strict=True)))
    shape = (case["outputs"], case["channels"] // case["group"], *case["kernel"])
    run_and_compare(run_layer, "Convolution", case, param, shape, convolve)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_deconvolution(run_layer, drawn):
    case, param = drawn
    whole = [t * (s - 1) + e for t, s, e in zip(case["stride"], case["size"], extents(case), strict=True)]
    assume(all(w > 2 * p for w, p in zip(whole, case["pad"], strict=True)))
    shape = (case["channels"], case["outputs"] // case["group"], *case["kernel"])
    run_and_compare(run_layer, "Deconvolution", case, param, shape, deconvolve)


@pytest.mark.parametrize("output", ["", "num_output: 3"])
def test_convolution_depthwise_takes_its_groups_from_the_bottom(run_layer, output):
    x, w, b = random(2, 3, 5, 6), random(3, 1, 3, 2), random(3)
    param = f"convolution_param {{ {output} kernel_h: 3 kernel_w: 2 pad: 1 stride: 2 }}"
    found = run_layer("ConvolutionDepthwise", x, param=param, blobs=[w, b])
    assert np.allclose(found, convolve(x, w, b, 3, (2, 2), [(1, 1)] * 2, (1, 1)), atol=1e-5)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_depthwise_convolution_is_a_convolution(run_layer, group):
    x, w = random(1, 4, 5, 5), random(4, 4 // group, 3, 3)
    param = f"convolution_param {{ num_output: 4 group: {group} kernel_size: 3 bias_term: false engine: CAFFE }}"
    found = run_layer("DepthwiseConvolution", x, param=param, blobs=[w])
    assert np.allclose(found, convolve(x, w, None, group, (1, 1), [(0, 0)] * 2, (1, 1)), atol=1e-5)


@pytest.mark.parametrize(("layer_type", "oracle"), [("Convolution", convolve), ("Deconvolution", deconvolve)])
def test_a_pad_for_each_side(run_layer, layer_type, oracle):
    x, w = random(1, 2, 5, 6), random(2, 2, 3, 3)
    for top, bottom, left, right in itertools.product((0, 1), (0, 2), (0, 1), (2,)):
        sides = f"pad_t: {top} pad_b: {bottom} pad_l: {left} pad_r: {right}"
        param = f"convolution_param {{ num_output: 2 kernel_size: 3 stride: 2 bias_term: false {sides} }}"
        expected = oracle(x, w, None, 1, (2, 2), [(top, bottom), (left, right)], (1, 1))
        assert np.allclose(run_layer(layer_type, x, param=param, blobs=[w]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "dilation"), [("hole: 2", (2, 2)), ("hole_h: 2", (2, 1)), ("hole_h: 2 hole_w: 3", (2, 3))]
)
def test_holes_are_dilation(run_layer, field, dilation):
    x, w = random(1, 2, 7, 9), random(2, 2, 3, 3)
    param = f"convolution_param {{ num_output: 2 kernel_size: 3 bias_term: false {field} }}"
    expected = convolve(x, w, None, 1, (1, 1), [(0, 0)] * 2, dilation)
    assert np.allclose(run_layer("Convolution", x, param=param, blobs=[w]), expected, atol=1e-5)


def test_pads_for_each_side_that_are_zero_leave_pad_alone(run_layer):
    x, w = random(1, 1, 4, 4), random(1, 1, 3, 3)
    param = "convolution_param { num_output: 1 kernel_size: 3 pad: 1 bias_term: false pad_l: 0 pad_b: 0 }"
    found = run_layer("Convolution", x, param=param, blobs=[w])
    assert np.allclose(found, convolve(x, w, None, 1, (1, 1), [(1, 1)] * 2, (1, 1)), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -4])
@pytest.mark.parametrize(("layer_type", "oracle"), [("Convolution", convolve), ("Deconvolution", deconvolve)])
def test_any_axis_of_channels(run_layer, layer_type, oracle, axis):
    x = random(2, 3, 4, 5)
    images, channels, spatial = x.shape[: axis % 4], x.shape[axis], x.shape[axis % 4 + 1 :]
    kernel = (2,) * len(spatial)
    w = random(6, channels, *kernel) if layer_type == "Convolution" else random(channels, 6, *kernel)
    param = f"convolution_param {{ num_output: 6 kernel_size: 2 axis: {axis} bias_term: false }}"
    found = run_layer(layer_type, x, param=param, blobs=[w])
    ones = (1,) * len(spatial)
    expected = oracle(x.reshape(-1, channels, *spatial), w, None, 1, ones, [(0, 0)] * len(spatial), ones)
    assert found.shape == (*images, *expected.shape[1:])
    assert np.allclose(found, expected.reshape(found.shape), atol=1e-5)


def test_several_bottoms_share_the_weights():
    text = """
        layer { name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
        layer { name: "l" type: "Convolution" bottom: "a" bottom: "b" top: "c" top: "d"
                convolution_param { num_output: 3 kernel_size: 2 } }
    """
    w, b, bottoms = random(3, 2, 2, 2), random(3), {"a": random(1, 2, 4, 4), "b": -2 * random(1, 2, 4, 4)}
    found = run_float(build_model(parse_prototxt(text), {"l": (w, b)}), bottoms, observe=["c", "d"])
    for bottom, top in (("a", "c"), ("b", "d")):
        assert np.allclose(found[top], convolve(bottoms[bottom], w, b, 1, (1, 1), [(0, 0)] * 2, (1, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("layer_type", "shapes", "param", "tops", "reason"),
    [
        ("Convolution", [(1, 2, 4, 4)], "kernel_size: 3", 1, "has no num_output"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2", 1, "has no kernel size"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 0", 1, "kernel_size is 0, expected at least 1"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_h: 3", 1, "kernel_size is 3x0"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 stride: 0", 1, "stride is 0"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 dilation: 0", 1, "dilation is 0"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 3 kernel_size: 1 group: 2", 1, "num_output 3 is not a multiple"),
        ("Convolution", [(1, 3, 4, 4)], "num_output: 2 kernel_size: 1 group: 2", 1, "bottom has 3 channels"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 5", 1, "a window of 5 does not fit into 4"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 kernel_h: 1", 1, "keep one form"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 pad: 1 pad_l: 1", 1, "keep one form"),
        ("Convolution", [(1, 2, 4)], "num_output: 2 kernel_h: 1 kernel_w: 1", 1, "bottom has 1 spatial axes"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 axis: 4", 1, "axis 4 is outside"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 relu: true", 1, "a layer of its own"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 fusion_type: SUM_FUSION", 1, "SUM_FUSION"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 pad_type: 1", 1, "pad_type is set"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 hole: 2 dilation: 2", 1, "keep one form"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 hole: 2 hole_h: 2", 1, "keep one form"),
        ("Convolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 hole: 0", 1, "dilation is 0"),
        ("Convolution", [(1, 2, 4, 4)] * 2, "num_output: 2 kernel_size: 1", 1, "2 bottoms and 1 tops"),
        ("Convolution", [(1, 2, 4, 4), (1, 2, 4, 5)], "num_output: 2 kernel_size: 1", 2, "different shapes"),
        ("ConvolutionDepthwise", [(1, 2, 4, 4)], "num_output: 4 kernel_size: 1", 1, "bottom has 2 channels"),
        ("Deconvolution", [(1, 2, 4, 4)], "num_output: 2 kernel_size: 1 pad: 2", 1, "cut off more than there is"),
    ],
)  # fmt: skip
def test_refused(refusal, layer_type, shapes, param, tops, reason):
    assert reason in refusal(layer_type, *shapes, param=f"convolution_param {{ {param} }}", tops=tops)
