"""SPP, Im2col, and un-pooling with a mask, against loops over windows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calib8.engine import run_float
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt


def windows(size: int, kernel: int, stride: int, pad: int) -> list[tuple[int, int]]:
    """Begin and end of Caffe's pooling windows along one axis, not clipped."""
    length = math.ceil((size + 2 * pad - kernel) / stride) + 1
    if pad and (length - 1) * stride >= size + pad:
        length -= 1
    return [(i * stride - pad, i * stride - pad + kernel) for i in range(length)]


def pyramid_level(x: np.ndarray, bins: int, average: bool) -> np.ndarray:
    rows, columns = (
        windows(size, math.ceil(size / bins), math.ceil(size / bins), (math.ceil(size / bins) * bins - size + 1) // 2)
        for size in x.shape[2:]
    )
    pads = [(math.ceil(size / bins) * bins - size + 1) // 2 for size in x.shape[2:]]
    found = np.empty((*x.shape[:2], len(rows), len(columns)))
    for (i, (top, bottom)), (j, (left, right)) in itertools.product(enumerate(rows), enumerate(columns)):
        part = x[:, :, max(top, 0) : bottom, max(left, 0) : right].astype(np.float64)
        area = (min(bottom, x.shape[2] + pads[0]) - top) * (min(right, x.shape[3] + pads[1]) - left)
        found[:, :, i, j] = part.sum(axis=(2, 3)) / area if average else part.max(axis=(2, 3))
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.sampled_from(["MAX", "AVE"]))
def test_spp(run_layer, h, w, levels, method):
    assume(all((math.ceil(s / 2**i) * 2**i - s + 1) // 2 < math.ceil(s / 2**i) for s in (h, w) for i in range(levels)))
    x = np.random.default_rng(h + 16 * w).standard_normal((2, 3, h, w), np.float32)
    found = run_layer("SPP", x, param=f"spp_param {{ pyramid_height: {levels} pool: {method} }}")
    pooled = [pyramid_level(x, 2**i, method == "AVE") for i in range(levels)]
    expected = pooled[0] if levels == 1 else np.concatenate([p.reshape(2, -1) for p in pooled], axis=1)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-5)


def test_spp_refuses(refusal):
    assert "has no spp_param.pyramid_height" in refusal("SPP", (1, 2, 4, 4))
    assert "bottom has 2 dimensions" in refusal("SPP", (1, 2), param="spp_param { pyramid_height: 1 }")
    assert "is too high" in refusal("SPP", (1, 2, 4, 4), param="spp_param { pyramid_height: 4 }")
    assert "is too high" in refusal("SPP", (1, 2, 4, 4), param="spp_param { pyramid_height: 4000000000 }")
    assert "STOCHASTIC" in refusal("SPP", (1, 2, 4, 4), param="spp_param { pyramid_height: 1 pool: STOCHASTIC }")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_im2col(run_layer, data):
    axes = data.draw(st.integers(1, 3))
    axis = data.draw(st.integers(0, 2))
    numbers = [data.draw(st.tuples(*[st.integers(1, 3)] * 3, st.integers(0, 2))) for _ in range(axes)]
    spatial = [data.draw(st.integers(max(d * (k - 1) + 1 - 2 * p, 1), 7)) for k, _, d, p in numbers]
    outer = tuple(data.draw(st.integers(1, 2)) for _ in range(axis + 1))
    x = np.random.default_rng(7).standard_normal((*outer, *spatial)).astype(np.float32)
    kernel, stride, dilation, pad = (tuple(v) for v in zip(*numbers, strict=True))
    named = {"kernel_size": kernel, "stride": stride, "dilation": dilation, "pad": pad}
    fields = " ".join(f"{name}: {v}" for name, values in named.items() for v in values)
    found = run_layer("Im2col", x, param=f"convolution_param {{ {fields} axis: {axis - x.ndim} }}")
    output = [(s + 2 * p - d * (k - 1) - 1) // t + 1 for s, (k, t, d, p) in zip(spatial, numbers, strict=True)]
    assert found.shape == (*outer[:-1], outer[-1] * math.prod(kernel), *output)
    for before in np.ndindex(*outer):
        for column, offset in enumerate(np.ndindex(*kernel)):
            channel = (*before[:-1], before[-1] * math.prod(kernel) + column)
            for place in np.ndindex(*output):
                at = [i * t - p + o * d for i, o, (_, t, d, p) in zip(place, offset, numbers, strict=True)]
                inside = all(0 <= a < s for a, s in zip(at, spatial, strict=True))
                assert found[(*channel, *place)] == (x[(*before, *at)] if inside else 0)


def test_im2col_with_a_pad_of_its_own_on_each_side(run_layer):
    x = np.random.default_rng(2).standard_normal((1, 2, 4, 5), np.float32)
    param = "convolution_param { kernel_h: 2 kernel_w: 3 stride: 2 pad_l: 2 pad_r: 1 pad_t: 1 pad_b: 0 }"
    framed = np.zeros((1, 2, 5, 8), np.float32)
    framed[:, :, 1:, 2:7] = x
    found = run_layer("Im2col", x, param=param)
    assert found.shape == (1, 2 * 6, 2, 3)
    for c, i, j, h, w in itertools.product(range(2), range(2), range(3), range(2), range(3)):
        assert found[0, (c * 2 + i) * 3 + j, h, w] == framed[0, c, 2 * h + i, 2 * w + j]


def test_im2col_refuses(refusal):
    assert "none behind axis 1" in refusal("Im2col", (2, 3), param="convolution_param { kernel_size: 2 }")
    assert "does not fit" in refusal("Im2col", (1, 1, 2, 2), param="convolution_param { kernel_size: 3 }")
    assert "pad_type" in refusal("Im2col", (1, 1, 4, 4), param="convolution_param { kernel_size: 3 pad_type: 1 }")


def pool_with_mask(x: np.ndarray, kernel: int, stride: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (windows(size, kernel, stride, pad) for size in x.shape[2:])
    values = np.empty((*x.shape[:2], len(rows), len(columns)))
    mask = np.empty_like(values)
    for n, c, i, j in np.ndindex(*values.shape):
        best = (-math.inf, -1)
        for h in range(max(rows[i][0], 0), min(rows[i][1], x.shape[2])):
            for w in range(max(columns[j][0], 0), min(columns[j][1], x.shape[3])):
                if x[n, c, h, w] > best[0]:
                    best = (float(x[n, c, h, w]), h * x.shape[3] + w)
        values[n, c, i, j], mask[n, c, i, j] = best
    return values, mask


def pool_and_put_back(x: np.ndarray, pooling: str, upsample: str) -> list[np.ndarray]:
    shape = " ".join(f"dim: {d}" for d in x.shape)
    text = f"""
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {shape} }} }} }}
        layer {{ name: "pool" type: "Pooling" bottom: "x" top: "p" top: "mask" pooling_param {{ {pooling} }} }}
        layer {{ name: "up" type: "Upsample" bottom: "p" bottom: "mask" top: "y" upsample_param {{ {upsample} }} }}"""
    values = run_float(build_model(parse_prototxt(text)), {"x": x}, observe=["p", "mask", "y"])
    return [values[name] for name in ("p", "mask", "y")]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(3, 8), st.integers(3, 8))
def test_unpooling_puts_maxima_back(kernel, stride, pad, h, w):
    for size in (h, w):
        assume(pad < kernel and all(begin < size for begin, _ in windows(size, kernel, stride, pad)))
    # Few different values: of equal ones the first counts.
    x = np.random.default_rng(h * w).integers(-3, 3, (2, 2, h, w)).astype(np.float32)
    pooling = f"kernel_size: {kernel} stride: {stride} pad: {pad}"
    pooled, mask, restored = pool_and_put_back(x, pooling, f"upsample_h: {h} upsample_w: {w}")
    values, places = pool_with_mask(x, kernel, stride, pad)
    assert np.array_equal(pooled, values)
    assert np.array_equal(mask, places)
    expected = np.zeros_like(x)
    for n, c, i, j in np.ndindex(*values.shape):
        expected[n, c].flat[int(places[n, c, i, j])] = values[n, c, i, j]
    assert np.array_equal(restored, expected)


@pytest.mark.parametrize(
    ("size", "upsample", "top"),
    [
        ((6, 8), "scale: 2", (6, 8)),
        ((5, 8), "scale: 2 pad_out_h: true", (5, 8)),
        ((5, 7), "scale_h: 2 scale_w: 2 pad_out_h: true pad_out_w: true", (5, 7)),
        ((5, 7), "scale: 3", (9, 12)),
    ],
)
def test_unpooled_size(size, upsample, top):
    x = np.random.default_rng(0).standard_normal((1, 2, *size), np.float32)
    _, mask, y = pool_and_put_back(x, "kernel_size: 2 stride: 2", upsample)
    assert y.shape == (1, 2, *top)
    assert y[0, 1].flat[int(mask[0, 1, 0, 0])] == x[0, 1, :2, :2].max()


def test_mask_refuses(refusal):
    average = "pooling_param { pool: AVE kernel_size: 2 }"
    assert "only MAX has a mask" in refusal("Pooling", (1, 1, 4, 4), param=average, tops=2)
    wholly_in_pad = "pooling_param { kernel_size: 1 stride: 3 }"
    assert "lies wholly in the pad" in refusal("Pooling", (1, 1, 5, 5), param=wholly_in_pad, tops=2)
    scale = "upsample_param { scale: 2 }"
    assert "expected equal shapes" in refusal("Upsample", (1, 1, 2, 2), (1, 1, 2, 3), param=scale)
