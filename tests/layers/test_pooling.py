"""Pooling against a loop over the windows of Caffe's source."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LOWEST = np.finfo(np.float32).min


def random(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def starts(size, kernel, stride, pads, ceil, extra=0, clip=False):
    """Where the windows of one axis begin."""
    length = (math.ceil if ceil else math.floor)((size + sum(pads) - kernel) / stride) + 1 + extra
    if clip and (length - 1) * stride >= size + pads[0]:
        length -= 1
    return [i * stride - pads[0] for i in range(length)]


def pool(x, rows, columns, kernel, method):
    """`method`: MAX, its MASK, AVE (over the whole window) or IMAGE (over its part in the image)."""
    y = np.zeros((*x.shape[:2], len(rows), len(columns)))
    for n, c, i, j in np.ndindex(*y.shape):
        inside = [
            (h, w)
            for h in range(rows[i], rows[i] + kernel[0])
            for w in range(columns[j], columns[j] + kernel[1])
            if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]
        ]
        values = [float(x[n, c, h, w]) for h, w in inside]
        if method == "MAX":
            y[n, c, i, j] = max(values, default=LOWEST)
        elif method == "MASK":
            h, w = inside[values.index(max(values))]
            y[n, c, i, j] = h * x.shape[3] + w
        else:
            y[n, c, i, j] = sum(values) / (kernel[0] * kernel[1] if method == "AVE" else max(len(values), 1))
    return y


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(4, 9), st.integers(4, 9)), pairs, pairs, st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from(["ceil", "round_mode: FLOOR", "ceil_mode: false"]), st.sampled_from(["MAX", "AVE"]), st.booleans(),
)  # fmt: skip
def test_pooling(run_layer, size, kernel, stride, pad, rounding, method, yolo):
    pad = tuple(min(p, k - 1) for p, k in zip(pad, kernel, strict=True))
    ceil = rounding == "ceil"
    rows, columns = (
        starts(*numbers, (p, p), ceil, extra=yolo, clip=any(pad))
        for *numbers, p in zip(size, kernel, stride, pad, strict=True)
    )
    x = random(2, 2, *size)
    text = f"pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
    text += f"pad_h: {pad[0]} pad_w: {pad[1]} {'' if ceil else rounding} {'yolo: true' if yolo else ''}"
    found = run_layer("Pooling", x, param=f"pooling_param {{ {text} }}")
    expected = pool(x, rows, columns, kernel, method)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_square_numbers_and_defaults(run_layer, method):
    x = random(1, 3, 7, 5)
    found = run_layer("Pooling", x, param=f"pooling_param {{ pool: {method} kernel_size: 3 pad: 1 stride: 2 }}")
    rows, columns = (starts(s, 3, 2, (1, 1), True, clip=True) for s in (7, 5))
    assert np.allclose(found, pool(x, rows, columns, (3, 3), method), atol=1e-6)
    assert run_layer("Pooling", x, param="pooling_param { kernel_size: 2 }").shape == (1, 3, 6, 4)


def test_a_pad_on_one_axis_drops_windows_on_both(run_layer):
    """The last window of H begins behind the image; only a pad, here that of W, lets Caffe drop it."""
    x = random(1, 1, 4, 4)
    pads = "kernel_h: 1 kernel_w: 2 stride_h: 5 stride_w: 1 pad_h: 0 pad_w:"
    assert run_layer("Pooling", x, param=f"pooling_param {{ {pads} 0 }}").shape == (1, 1, 2, 3)
    assert run_layer("Pooling", x, param=f"pooling_param {{ {pads} 1 }}").shape == (1, 1, 1, 5)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3)])
def test_global(run_layer, method, size):
    x = random(2, 3, *size)
    found = run_layer("Pooling", x, param=f"pooling_param {{ pool: {method} global_pooling: true stride: 1 pad: 0 }}")
    assert np.allclose(found, pool(x, [0], [0], size, method), atol=1e-6)


@pytest.mark.parametrize("sides", [(0, 0, 0, 1), (1, 0, 0, 2), (0, 2, 1, 1), (3, 3, 0, 0)])
@pytest.mark.parametrize(("method", "rule"), [("MAX", "MAX"), ("AVE", "AVE"), ("AVE_EXC_PAD", "IMAGE")])
@pytest.mark.parametrize("ceil", [True, False])
def test_a_pad_for_each_side(run_layer, sides, method, rule, ceil):
    top, bottom, left, right = sides
    x = random(1, 2, 6, 7)
    text = f"pool: {method} kernel_size: 3 stride: 2 ceil_mode: {str(ceil).lower()} "
    text += f"pad_t: {top} pad_b: {bottom} pad_l: {left} pad_r: {right}"
    rows, columns = (starts(s, 3, 2, p, ceil, clip=True) for s, p in ((6, (top, bottom)), (7, (left, right))))
    found = run_layer("Pooling", x, param=f"pooling_param {{ {text} }}")
    assert np.allclose(found, pool(x, rows, columns, (3, 3), rule), atol=1e-6)


@pytest.mark.parametrize("text", ["pool: AVE avg_include_pad: false", "pool: AVE_TF", "pool: AVE_EXC_PAD"])
def test_average_without_the_pad(run_layer, text):
    x = random(1, 2, 5, 6)
    rows, columns = (starts(s, 3, 2, (1, 1), True, clip=True) for s in (5, 6))
    found = run_layer("Pooling", x, param=f"pooling_param {{ {text} kernel_size: 3 stride: 2 pad: 1 }}")
    assert np.allclose(found, pool(x, rows, columns, (3, 3), "IMAGE"), atol=1e-6)


def test_mask_tells_the_first_of_equal_places(run_layer):
    x = np.round(random(2, 3, 6, 7))
    values, mask = run_layer("Pooling", x, param="pooling_param { kernel_size: 3 stride: 2 pad: 1 }", tops=2)
    rows, columns = (starts(s, 3, 2, (1, 1), True, clip=True) for s in (6, 7))
    assert np.array_equal(values, pool(x, rows, columns, (3, 3), "MAX"))
    assert np.array_equal(mask, pool(x, rows, columns, (3, 3), "MASK"))


def test_infinities_and_the_lowest_number(run_layer):
    x = np.array([[[[-np.inf, LOWEST], [1, np.inf]]]], np.float32)
    found = run_layer("Pooling", x, param="pooling_param { kernel_h: 1 kernel_w: 2 }")
    assert found.tolist() == [[[[LOWEST], [np.inf]]]]


@pytest.mark.parametrize(
    ("shape", "param", "tops", "reason"),
    [
        ((1, 2, 4), "kernel_size: 2", 1, "bottom has 3 dimensions"),
        ((1, 2, 4, 4), "", 1, "kernel is (0, 0)"),
        ((1, 2, 4, 4), "kernel_h: 2", 1, "kernel is (2, 0)"),
        ((1, 2, 4, 4), "kernel_size: 2 stride: 0", 1, "stride (0, 0)"),
        ((1, 2, 4, 4), "kernel_size: 2 pad: 2", 1, "pad (2, 2) is not smaller than the kernel (2, 2)"),
        ((1, 2, 4, 4), "kernel_size: 5", 1, "a window of 5 does not fit into 4"),
        ((1, 2, 4, 4), "kernel_size: 2 kernel_w: 2", 1, "keep one form"),
        ((1, 2, 4, 4), "kernel_size: 2 pad: 1 pad_r: 1", 1, "keep one form"),
        ((1, 2, 4, 4), "global_pooling: true kernel_size: 2", 1, "both global_pooling and a kernel size"),
        ((1, 2, 4, 4), "global_pooling: true stride: 2", 1, "only pad 0 and stride 1"),
        ((1, 2, 4, 4), "kernel_size: 2 pool: STOCHASTIC", 1, "STOCHASTIC, which only training uses"),
        ((1, 2, 4, 4), "kernel_size: 2 pool: AVE", 2, "only MAX has a mask"),
        ((1, 2, 4, 4), "kernel_size: 1 stride: 4 yolo: true", 2, "a window that lies wholly in the pad"),
        ((1, 2, 4, 4), "kernel_size_3d: 2", 1, "kernel is (0, 0)"),
        ((1, 2, 4, 4), "kernel_size: 2 pad_type: 1", 1, "pad_type is set"),
    ],
)  # fmt: skip
def test_refused(refusal, shape, param, tops, reason):
    assert reason in refusal("Pooling", shape, param=f"pooling_param {{ {param} }}", tops=tops)
