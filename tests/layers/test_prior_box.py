"""PriorBox and PriorBoxClustered against loops over cells, sizes and ratios."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

f32 = np.float32


def box(centre_x, centre_y, width, height, image_h, image_w):
    return [
        f32((float(centre_x) - float(width) / 2) / image_w),
        f32((float(centre_y) - float(height) / 2) / image_h),
        f32((float(centre_x) + float(width) / 2) / image_w),
        f32((float(centre_y) + float(height) / 2) / image_h),
    ]


def ratio_list(aspect_ratio, flip, default):
    ratios = [f32(1)] if default else []
    for ratio in map(f32, aspect_ratio):
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios.append(ratio)
            if flip:
                ratios.append(f32(1 / float(ratio)))
    return ratios


def cells(h, w, step_h, step_w, offset):
    for y in range(h):
        for x in range(w):
            yield f32(f32(x) + f32(offset)) * f32(step_w), f32(f32(y) + f32(offset)) * f32(step_h)


def ssd_priors(h, w, image_h, image_w, small, large, ratios, default, steps, offset):
    values = []
    for cx, cy in cells(h, w, *steps, offset):
        for s, size in enumerate(map(int, small)):
            if default:
                values += box(cx, cy, size, size, image_h, image_w)
            if large:
                side = f32(np.sqrt(float(size * int(large[s]))))
                values += box(cx, cy, side, side, image_h, image_w)
            for ratio in ratios:
                if abs(ratio - 1) >= 1e-6:
                    root = f32(np.sqrt(ratio))
                    values += box(cx, cy, f32(size) * root, f32(size) / root, image_h, image_w)
    return values


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_prior_box(run_layer, data):
    h, w = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    image_h, image_w = data.draw(st.integers(10, 300)), data.draw(st.integers(10, 300))
    small = data.draw(st.lists(st.sampled_from([4.0, 7.5, 20.0, 31.25]), min_size=1, max_size=3))
    large = [s + 11.5 for s in small] if data.draw(st.booleans()) else []
    aspect_ratio = data.draw(st.lists(st.sampled_from([1.0, 2.0, 3.0, 0.5, 1.5]), max_size=4))
    flip, clip, default = (data.draw(st.booleans()) for _ in range(3))
    offset = data.draw(st.sampled_from([0.5, 0.0, 0.25]))
    variance = data.draw(st.sampled_from([[], [0.25], [0.1, 0.1, 0.2, 0.3]]))
    step = data.draw(st.sampled_from(["", "step: 8", "step_h: 7.5 step_w: 16"]))
    size = data.draw(st.sampled_from(["", "img_size: 64", "img_h: 40 img_w: 90"]))
    ratios = ratio_list(aspect_ratio, flip, default)
    if not ratios and not large:
        return
    param = " ".join(
        [f"min_size: {s}" for s in small]
        + [f"max_size: {s}" for s in large]
        + [f"aspect_ratio: {r}" for r in aspect_ratio]
        + [f"variance: {v}" for v in variance]
        + [f"flip: {str(flip).lower()} clip: {str(clip).lower()} use_default_aspect_ratio: {str(default).lower()}"]
        + [f"offset: {offset}", step, size]
    )
    bottoms = np.zeros((2, 3, h, w)), np.zeros((2, 3, image_h, image_w))
    found = run_layer("PriorBox", *bottoms, param=f"prior_box_param {{ {param} }}")

    image_h, image_w = {"": (image_h, image_w), "img_size: 64": (64, 64)}.get(size, (40, 90))
    steps = {"": (f32(image_h) / f32(h), f32(image_w) / f32(w)), "step: 8": (8, 8)}.get(step, (7.5, 16))
    values = ssd_priors(h, w, image_h, image_w, small, large, ratios, default, steps, offset)
    count = h * w * (len(ratios) * len(small) + len(large)) * 4
    expected = np.zeros((1, 2, count), f32)
    expected[0, 0, : len(values)] = np.clip(values, 0, 1) if clip else values
    expected[0, 1] = np.resize(np.array(variance or [0.1], f32), count)
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


def test_one_bottom_is_enough_with_the_size_of_the_image(run_layer):
    param = "prior_box_param { min_size: 8 img_size: 32 }"
    alone = run_layer("PriorBox", np.zeros((1, 1, 2, 2)), param=param)
    both = run_layer("PriorBox", np.zeros((1, 1, 2, 2)), np.zeros((1, 3, 99, 99)), param=param)
    assert np.array_equal(alone, both)


def test_explicit_boxes_with_y_first(run_layer):
    param = "prior_box_param { box_width: 10 box_width: 3 box_height: 4 box_height: 9 yx_order: true }"
    found = run_layer("PriorBox", np.zeros((1, 1, 2, 3)), np.zeros((1, 3, 40, 60)), param=param)
    expected = []
    for cx, cy in cells(2, 3, 20, 20, 0.5):
        for width, height in ((10, 4), (3, 9)):
            x0, y0, x1, y1 = box(cx, cy, width, height, 40, 60)
            expected += [y0, x0, y1, x1]
    assert np.array_equal(found[0, 0], np.array(expected, f32))


def test_tensorflow_order(run_layer):
    param = "prior_box_param { min_size: 60 max_size: 80 aspect_ratio: 2 flip: false tf: true }"
    found = run_layer("PriorBox", np.zeros((1, 1, 1, 1)), np.zeros((1, 3, 100, 200)), param=param)
    first = np.add(box(100, 50, 60, 60, 100, 200), [0.05, 0.05, -0.05, -0.05])
    side = f32(np.sqrt(4800.0))
    wide = box(100, 50, f32(60) * f32(np.sqrt(f32(2))), f32(60) / f32(np.sqrt(f32(2))), 100, 200)
    expected = [*first, *wide, *box(100, 50, side, side, 100, 200)]
    assert np.allclose(found[0, 0], expected, atol=1e-6)


def test_face_boxes_are_dense_where_small(run_layer):
    param = "prior_box_param { min_size: 32 min_size: 64 min_size: 128 step: 32 faceboxes: true }"
    found = run_layer("PriorBox", np.zeros((1, 1, 1, 2)), np.zeros((1, 3, 128, 128)), param=param)
    expected = []
    for cx, cy in cells(1, 2, 32, 32, 0.5):
        for size, shifts in ((32, (-16, -8, 0, 8)), (64, (-16, 0)), (128, (0,))):
            for down in shifts:
                for right in shifts:
                    expected += box(cx + f32(right), cy + f32(down), size - 1, size - 1, 128, 128)
    assert len(expected) == 2 * 21 * 4
    assert np.array_equal(found[0, 0], np.array(expected, f32))


def test_clustered(run_layer):
    param = (
        "prior_box_param { width: 9.4 height: 5 width: 20.5 height: 31 clip: true step_h: 9 step_w: 7 offset: 0.25 "
        "flip: false variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4 }"
    )
    found = run_layer("PriorBoxClustered", np.zeros((2, 8, 3, 2)), np.zeros((2, 3, 27, 14)), param=param)
    values = []
    for cx, cy in cells(3, 2, 9, 7, 0.25):
        for width, height in ((9.4, 5), (20.5, 31)):
            values += box(cx, cy, f32(width), f32(height), 27, 14)
    assert np.array_equal(found[0, 0], np.clip(np.array(values, f32), 0, 1))
    assert np.array_equal(found[0, 1], np.resize(np.array([0.1, 0.2, 0.3, 0.4], f32), 48))


@pytest.mark.parametrize(
    ("param", "part"),
    [
        ("", "no prior_box_param.min_size"),
        ("min_size: -1", "a min_size or max_size is -1"),
        ("min_size: 4 max_size: 3", "max_size 3 is not larger"),
        ("min_size: 4 min_size: 5 max_size: 9", "2 min_size and 1 max_size"),
        ("min_size: 4 variance: 0.1 variance: 0.2", "variance"),
        ("min_size: 4 variance: 0", "variance"),
        ("min_size: 4 img_size: 9 img_h: 9", "img_size"),
        ("min_size: 4 img_h: 9", "9x0"),
        ("min_size: 4 step: 4 step_h: 4", "step"),
        ("min_size: 4 step: 0", "step"),
        ("min_size: 4 aspect_ratio: 0", "aspect_ratio"),
        ("box_width: 4", "1 box_width and 0 box_height"),
        ("min_size: 4 faceboxes: true aspect_ratio: 2", "faceboxes"),
        ("min_size: 4 use_default_aspect_ratio: false", "0 boxes"),
        ("min_size: 4 width: 3", "prior_box_param.width is set"),
        ("min_size: 4 offset_h: 3", "prior_box_param.offset_h is set"),
    ],
)
def test_refused(refusal, param, part):
    assert part in refusal("PriorBox", (1, 3, 4, 4), (1, 3, 8, 8), param=f"prior_box_param {{ {param} }}")


def test_refused_bottoms(refusal):
    assert "size is needed" in refusal("PriorBox", (1, 3, 4, 4), param="prior_box_param { min_size: 3 }")
    assert "5 dimensions" in refusal("PriorBox", (1, 3, 4, 4, 4), (1, 3, 8, 8), param="prior_box_param { min_size: 3 }")


@pytest.mark.parametrize(
    ("param", "part"),
    [
        ("", "0 prior_box_param.width"),
        ("width: 3", "1 prior_box_param.width and 0 height"),
        ("width: 3 height: 0", "height is 0"),
        ("width: 3 height: 2 min_size: 4", "min_size is set"),
    ],
)
def test_clustered_refused(refusal, param, part):
    assert part in refusal("PriorBoxClustered", (1, 3, 4, 4), (1, 3, 8, 8), param=f"prior_box_param {{ {param} }}")
