"""ROIPooling and PSROIPooling against loops over regions and parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.errors import Calib8Error

f32 = np.float32


def c_round(x) -> int:
    return int(math.copysign(math.floor(abs(float(x)) + 0.5), x))


def clip(x, size):
    return min(max(int(x), 0), size)


def roi_pooling(x, regions, pooled, scale):
    top = np.zeros((len(regions), x.shape[1], *pooled), f32)
    for r, region in enumerate(regions):
        x1, y1, x2, y2 = (c_round(f32(v) * f32(scale)) for v in region[1:])
        part_h, part_w = (f32(max(b - a + 1, 1)) / f32(n) for a, b, n in ((y1, y2, pooled[0]), (x1, x2, pooled[1])))
        for i in range(pooled[0]):
            for j in range(pooled[1]):
                top_row = clip(math.floor(f32(i) * part_h) + y1, x.shape[2])
                bottom_row = clip(math.ceil(f32(i + 1) * part_h) + y1, x.shape[2])
                left = clip(math.floor(f32(j) * part_w) + x1, x.shape[3])
                right = clip(math.ceil(f32(j + 1) * part_w) + x1, x.shape[3])
                if bottom_row > top_row and right > left:
                    top[r, :, i, j] = x[int(region[0]), :, top_row:bottom_row, left:right].max(axis=(1, 2))
    return top


def psroi_pooling(x, regions, dim, g, scale):
    top = np.zeros((len(regions), dim, g, g), f32)
    for r, region in enumerate(regions):
        x1, y1 = (f32(c_round(v)) * f32(scale) for v in region[1:3])
        x2, y2 = (f32(c_round(v) + 1) * f32(scale) for v in region[3:])
        part_w, part_h = max(x2 - x1, f32(0.1)) / f32(g), max(y2 - y1, f32(0.1)) / f32(g)
        for c in range(dim):
            for i in range(g):
                for j in range(g):
                    rows = [
                        clip(e, x.shape[2])
                        for e in (math.floor(f32(i) * part_h + y1), math.ceil(f32(i + 1) * part_h + y1))
                    ]
                    cols = [
                        clip(e, x.shape[3])
                        for e in (math.floor(f32(j) * part_w + x1), math.ceil(f32(j + 1) * part_w + x1))
                    ]
                    part = x[int(region[0]), (c * g + i) * g + j, rows[0] : rows[1], cols[0] : cols[1]]
                    top[r, c, i, j] = part.astype(float).mean() if part.size else 0
    return top


@st.composite
def regions_of(draw, images):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 6))
    corners = rng.uniform(-30, 150, (count, 4))
    if draw(st.booleans()):
        corners = np.round(corners * 2) / 2
    return np.column_stack([rng.integers(0, images, count), corners]).astype(f32)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_roi_pooling(run_layer, data):
    shape = [data.draw(st.integers(1, n)) for n in (2, 3, 9, 9)]
    x = np.random.default_rng(sum(shape)).standard_normal(shape).astype(f32)
    regions = data.draw(regions_of(shape[0]))
    pooled = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    scale = data.draw(st.sampled_from([0.0625, 0.1, 1.0]))
    param = f"roi_pooling_param {{ pooled_h: {pooled[0]} pooled_w: {pooled[1]} spatial_scale: {scale} }}"
    expected = roi_pooling(x, regions, pooled, scale)
    assert np.array_equal(run_layer("ROIPooling", x, regions, param=param), expected)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_psroi_pooling(run_layer, data):
    images, dim, g = (data.draw(st.integers(1, n)) for n in (2, 3, 3))
    x = np.random.default_rng(g).standard_normal((images, dim * g * g, 7, 8)).astype(f32)
    regions = data.draw(regions_of(images))
    scale = data.draw(st.sampled_from([0.0625, 0.1, 1.0]))
    param = f"psroi_pooling_param {{ spatial_scale: {scale} output_dim: {dim} group_size: {g} }}"
    found = run_layer("PSROIPooling", x, regions, param=param)
    expected = psroi_pooling(x, regions, dim, g, scale)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [(6, 5), (6, 5, 1, 1), (6, 1, 1, 5), (2, 1, 3, 5)])
def test_layouts_of_regions(run_layer, layout):
    rng = np.random.default_rng(0)
    x, regions = rng.standard_normal((2, 4, 6, 6)), rng.uniform(0, 90, (6, 5)).astype(f32)
    regions[:, 0] = np.arange(6) // 3
    param = "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.0625 }"
    flat = run_layer("ROIPooling", x, regions, param=param)
    assert flat.shape == (6, 4, 2, 3)
    assert np.array_equal(run_layer("ROIPooling", x, regions.reshape(layout), param=param), flat)


def test_a_region_of_no_image(run_layer):
    param = "psroi_pooling_param { spatial_scale: 1 output_dim: 1 group_size: 1 }"
    with pytest.raises(Calib8Error, match="belongs to image 2; there are 2"):
        run_layer("PSROIPooling", np.zeros((2, 1, 4, 4)), [[2, 0, 0, 3, 3]], param=param)


@pytest.mark.parametrize(
    ("layer_type", "shapes", "param", "part"),
    [
        ("ROIPooling", [(1, 3, 4, 4), (2, 5)], "roi_pooling_param { pooled_h: 2 }", "2x0"),
        ("ROIPooling", [(1, 3, 4, 4), (2, 4)], "roi_pooling_param { pooled_h: 2 pooled_w: 2 }", "expected Rx5"),
        ("ROIPooling", [(1, 3, 4), (2, 5)], "roi_pooling_param { pooled_h: 2 pooled_w: 2 }", "3 dimensions"),
        ("ROIPooling", [(1, 3, 4, 4), (2, 5)], "roi_pooling_param { pooled_size: 2 pooled_h: 2 pooled_w: 2 }", "set"),
        (
            "PSROIPooling",
            [(1, 8, 4, 4), (2, 5)],
            "psroi_pooling_param { spatial_scale: 1 output_dim: 3 group_size: 2 }",
            "8 channels",
        ),
        (
            "PSROIPooling",
            [(1, 8, 4, 4), (2, 5)],
            "psroi_pooling_param { spatial_scale: 1 output_dim: 0 group_size: 2 }",
            "output_dim is 0",
        ),
    ],
)
def test_refused(refusal, layer_type, shapes, param, part):
    assert part in refusal(layer_type, *shapes, param=param)
