"""Interp against the four neighbours of each place, weighted in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def weights_of(place: int, top: int, bottom: int) -> list[tuple[int, float]]:
    """Which bottom rows (or columns) make one of the top, and with what weights."""
    at = place * (bottom - 1) / (top - 1) if top > 1 else 0.0
    low = min(int(at), bottom - 1)
    return [(low, 1 - (at - low)), (min(low + 1, bottom - 1), at - low)]


def interpolate(x: np.ndarray, height: int, width: int) -> np.ndarray:
    found = np.zeros((*x.shape[:2], height, width))
    for n, c, h, w in np.ndindex(*found.shape):
        for row, a in weights_of(h, height, x.shape[2]):
            for column, b in weights_of(w, width, x.shape[3]):
                found[n, c, h, w] += a * b * float(x[n, c, row, column])
    return found


FORMS = {
    "height: 5 width: 3": lambda h, w: (5, 3),
    "height: 1 width: 1": lambda h, w: (1, 1),
    "zoom_factor: 3": lambda h, w: (h + (h - 1) * 2, w + (w - 1) * 2),
    "zoom_factor: 1": lambda h, w: (h, w),
    "shrink_factor: 2": lambda h, w: ((h - 1) // 2 + 1, (w - 1) // 2 + 1),
    "shrink_factor: 2 zoom_factor: 2": lambda h, w: ((h - 1) // 2 * 2 + 1, (w - 1) // 2 * 2 + 1),
    "shrink_factor: 2 height: 7 width: 8": lambda h, w: ((h - 1) // 2 + 1, (w - 1) // 2 + 1),
    "shrink_factor: 2 zoom_factor: 2 height: 7 width: 8": lambda h, w: (7, 8),
    "zoom_factor: 2 height: 9": lambda h, w: (2 * h - 1, 2 * w - 1),
    "full_zoom_factor: 2": lambda h, w: (2 * h, 2 * w),
}


@pytest.mark.parametrize("form", FORMS)
def test_against_neighbours(run_layer, form):
    @settings(max_examples=6, deadline=None)
    @given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2), st.integers(0, 1))
    def holds(h, w, begin, end):
        x = np.random.default_rng(h * 8 + w).standard_normal((2, 2, h + begin + end, w + begin + end), np.float32)
        found = run_layer("Interp", x, param=f"interp_param {{ {form} pad_beg: {-begin} pad_end: {-end} }}")
        kept = x[:, :, begin : begin + h, begin : begin + w]
        expected = interpolate(kept, *FORMS[form](h, w))
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5

    holds()


@pytest.mark.parametrize("size", ["height: 9 width: 7", "height: 2 width: 11", "height_scale: 2 width_scale: 3"])
@pytest.mark.parametrize("mode", ["", "mode: BILINEAR"])
def test_upsample_of_caffe_plus_interpolates_by_default(run_layer, size, mode):
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5), np.float32)
    found = run_layer("Upsample", x, param=f"upsample_param {{ {size} {mode} }}")
    first, second = (int(word) for word in size.split()[1::2])
    expected = interpolate(x, 8, 15) if "scale" in size else interpolate(x, first, second)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


def test_upsample_of_caffe_plus_to_the_size_of_a_second_bottom(run_layer):
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 4), np.float32)
    found = run_layer("Upsample", x, np.zeros((1, 7, 9, 6), np.float32), param="upsample_param { mode: BILINEAR }")
    assert np.abs(found - interpolate(x, 9, 6)).max() < 1e-5


@pytest.mark.parametrize(
    ("param", "reason"),
    [
        ("", "sets no output size"),
        ("height: 4", "sets no output size"),
        ("height: 0 width: 4", "the top would be 0 x 4"),
        ("height: -1 width: 4", "the top would be -1 x 4"),
        ("zoom_factor: 0", "zoom_factor is 0"),
        ("shrink_factor: -2", "shrink_factor is -2"),
        ("zoom_factor: 2 pad_beg: 1", "above 0"),
        ("zoom_factor: 2 pad_beg: -2 pad_end: -2", "leave 0 x 1 of the bottom"),
    ],
)
def test_refuses(refusal, param, reason):
    assert reason in refusal("Interp", (1, 1, 4, 5), param=f"interp_param {{ {param} }}")


def test_wants_an_image(refusal):
    assert "bottom has 3 dimensions" in refusal("Interp", (1, 4, 5), param="interp_param { zoom_factor: 2 }")


def test_the_size_of_a_second_bottom(run_layer):
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 4), np.float32)
    other = np.zeros((1, 7, 9, 6), np.float32)
    found = run_layer("Interp", x, other, param="interp_param { use_blob_size: true zoom_factor: 5 }")
    assert np.abs(found - interpolate(x, 9, 6)).max() < 1e-5


def test_a_second_bottom_and_its_switch_go_together(refusal):
    shape = (1, 1, 4, 5)
    assert "go together" in refusal("Interp", shape, param="interp_param { use_blob_size: true }")
    assert "go together" in refusal("Interp", shape, shape, param="interp_param { zoom_factor: 2 }")
