"""Layers that reorder, join, cut or rename: every element of every top, in float and on 8-bit codes; ReLU, Dropout."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.engine import run_float
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def numbered(*shape) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


def in_order(run_layer, move_codes, layer_type, x, param, top_shape) -> None:
    """The top must hold the bottom's elements in the bottom's order."""
    found = run_layer(layer_type, x, param=param)
    assert found.shape == top_shape
    assert found.reshape(-1).tolist() == x.reshape(-1).tolist()
    moved = move_codes(layer_type, (x % 251).astype(np.uint8), param)
    assert moved.shape == top_shape
    assert moved.reshape(-1).tolist() == (x % 251).reshape(-1).tolist()


@settings(max_examples=40, deadline=None)
@given(shapes, st.data())
def test_flatten(run_layer, move_codes, refusal, shape, data):
    start, end = (data.draw(st.integers(0, len(shape) - 1)) for _ in range(2))
    begin, last = (i - len(shape) if data.draw(st.booleans()) else i for i in (start, end))
    param = f"flatten_param {{ axis: {begin} end_axis: {last} }}"
    if start > end + 1:
        assert f"axis {start} lies beyond end_axis {end}" in refusal("Flatten", shape, param=param)
        return
    top = (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
    in_order(run_layer, move_codes, "Flatten", numbered(*shape), param, top)


def test_flatten_keeps_the_first_axis_by_default(run_layer):
    assert run_layer("Flatten", numbered(2, 3, 2)).shape == (2, 6)


@pytest.mark.parametrize(
    ("shape", "text", "top"),
    [
        ((2, 3, 4), "shape { dim: 0 dim: -1 }", (2, 12)),
        ((2, 3, 4), "shape { dim: -1 dim: 0 dim: 2 }", (4, 3, 2)),
        ((2, 3, 4), "shape { dim: 24 }", (24,)),
        ((2, 3, 4), "shape { dim: -1 dim: 6 } axis: 1", (2, 2, 6)),
        ((2, 3, 4), "shape { dim: 3 dim: 1 } axis: 1 num_axes: 1", (2, 3, 1, 4)),
        ((2, 3, 4), "shape { dim: 0 dim: 2 dim: -1 } axis: 1 num_axes: 2", (2, 3, 2, 2)),
        ((2, 3, 4), "shape { dim: 1 } axis: 0 num_axes: 0", (1, 2, 3, 4)),
        ((2, 3, 4), "shape { dim: 1 dim: 1 } axis: -1 num_axes: 0", (2, 3, 4, 1, 1)),
        ((2, 3, 4), "shape { dim: 2 dim: 2 } axis: -2", (2, 3, 2, 2)),
        ((2, 3, 4), "shape { dim: -1 } axis: -4", (24,)),
        ((1, 1), "shape { } axis: 0 num_axes: 1", (1,)),
        ((1, 1), "", ()),
    ],
)
def test_reshape(run_layer, move_codes, shape, text, top):
    in_order(run_layer, move_codes, "Reshape", numbered(*shape), f"reshape_param {{ {text} }}", top)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(2, 3))
def test_pixel_shuffle(run_layer, move_codes, n, c, h, w, r):
    x, param = numbered(n, c * r * r, h, w), f"reshape_param {{ pixelshuffler: {r} }}"
    found, moved = run_layer("Reshape", x, param=param), move_codes("Reshape", (x % 251).astype(np.uint8), param)
    assert found.shape == (n, c, h * r, w * r)
    for i, channel, row, column in np.ndindex(*x.shape):
        place = (i, channel // (r * r), row * r + channel // r % r, column * r + channel % (r * r) % r)
        assert found[place] == x[i, channel, row, column]
        assert moved[place] == x[i, channel, row, column] % 251


@pytest.mark.parametrize(
    ("shape", "text", "reason"),
    [
        ((2, 3), "shape { dim: -1 dim: -1 }", "-1 at most once"),
        ((2, 3), "shape { dim: -2 dim: 3 }", "expected sizes, 0, and -1"),
        ((2, 3), "shape { dim: 5 }", "does not fit the bottom [2, 3]"),
        ((2, 3), "shape { dim: 4 dim: -1 }", "does not fit the bottom [2, 3]"),
        ((2, 3), "shape { dim: 2 dim: 3 dim: 0 }", "has a 0 for axis 2"),
        ((2, 3), "shape { dim: -1 } axis: 3", "is outside a bottom of 2 dimensions"),
        ((2, 3), "shape { dim: -1 } axis: -4", "is outside a bottom of 2 dimensions"),
        ((2, 3), "shape { dim: -1 } axis: 1 num_axes: 2", "is outside a bottom of 2 dimensions"),
        ((2, 3), "shape { dim: -1 } num_axes: -2", "num_axes is -2"),
        ((2, 3), "pixelshuffler: 0", "pixelshuffler is 0"),
        ((1, 6, 2, 2), "pixelshuffler: 2", "with C a multiple of 4"),
        ((4, 3), "pixelshuffler: 2", "expects N, C, H, W"),
    ],
)
def test_reshape_refused(refusal, shape, text, reason):
    assert reason in refusal("Reshape", shape, param=f"reshape_param {{ {text} }}")


@settings(max_examples=30, deadline=None)
@given(shapes, st.data())
def test_permute(run_layer, move_codes, shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    named = order[: data.draw(st.integers(0, len(shape)))]
    full = [*named, *(i for i in range(len(shape)) if i not in named)]
    param = f"permute_param {{ {' '.join(f'order: {i}' for i in named)} }}"
    x = numbered(*shape)
    found, moved = run_layer("Permute", x, param=param), move_codes("Permute", (x % 251).astype(np.uint8), param)
    assert found.shape == tuple(shape[i] for i in full)
    for place in np.ndindex(*shape):
        there = tuple(place[i] for i in full)
        assert found[there] == x[place]
        assert moved[there] == x[place] % 251


def test_permute_refused(refusal):
    assert "expected no axis twice" in refusal("Permute", (2, 3), param="permute_param { order: 1 order: 1 }")
    assert "the bottom has 2 dimensions" in refusal("Permute", (2, 3), param="permute_param { order: 2 }")


@settings(max_examples=30, deadline=None)
@given(shapes, st.data())
def test_concat(run_layer, shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    bottoms = [numbered(*shape[:axis], n, *shape[axis + 1 :]) + 1000 * i for i, n in enumerate(lengths)]
    text = f"concat_dim: {axis}" if data.draw(st.booleans()) else f"axis: {axis - len(shape)}"
    found = run_layer("Concat", *bottoms, param=f"concat_param {{ {text} }}")
    assert found.shape == (*shape[:axis], sum(lengths), *shape[axis + 1 :])
    for i, first in enumerate(itertools.accumulate([0, *lengths[:-1]])):
        for place in np.ndindex(*bottoms[i].shape):
            assert found[(*place[:axis], first + place[axis], *place[axis + 1 :])] == bottoms[i][place]


@pytest.mark.parametrize(
    ("bottoms", "text", "reason"),
    [
        ([(2, 3), (2, 4, 1)], "", "bottoms may differ on axis 1 only"),
        ([(2, 3), (1, 3)], "", "bottoms may differ on axis 1 only"),
        ([(2, 3), (2, 3)], "axis: 2", "concat_param.axis 2 is outside"),
        ([(2, 3), (2, 3)], "axis: 1 concat_dim: 1", "sets both axis and concat_dim"),
    ],
)
def test_concat_refused(refusal, bottoms, text, reason):
    assert reason in refusal("Concat", *bottoms, param=f"concat_param {{ {text} }}")


@settings(max_examples=30, deadline=None)
@given(shapes, st.data())
def test_slice(run_layer, shape, data):
    axis, tops = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(1, 3))
    even = data.draw(st.booleans())
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=tops, max_size=tops))
    lengths = [lengths[0]] * tops if even else lengths
    x = numbered(*shape[:axis], sum(lengths), *shape[axis + 1 :])
    text = f"slice_dim: {axis} " if data.draw(st.booleans()) else f"axis: {axis - len(shape)} "
    first = list(itertools.accumulate([0, *lengths[:-1]]))
    text += "" if even else " ".join(f"slice_point: {p}" for p in first[1:])
    found = run_layer("Slice", x, param=f"slice_param {{ {text} }}", tops=tops)
    for start, n, top in zip(first, lengths, found if tops > 1 else [found], strict=True):
        assert top.shape == (*shape[:axis], n, *shape[axis + 1 :])
        for place in np.ndindex(*top.shape):
            assert top[place] == x[(*place[:axis], start + place[axis], *place[axis + 1 :])]


@pytest.mark.parametrize(
    ("text", "tops", "reason"),
    [
        ("", 2, "2 tops cannot be equal parts of 5"),
        ("slice_point: 2", 3, "has 1 slice_point for 3 tops"),
        ("slice_point: 3 slice_point: 2", 3, "expected to rise"),
        ("slice_point: 2 slice_point: 2", 3, "expected to rise"),
        ("slice_point: 5", 2, "between 1 and 4"),
        ("slice_point: 0", 2, "between 1 and 4"),
        ("axis: 2", 1, "slice_param.axis 2 is outside"),
        ("axis: 1 slice_dim: 1", 1, "sets both axis and slice_dim"),
    ],
)
def test_slice_refused(refusal, text, tops, reason):
    assert reason in refusal("Slice", (2, 5), param=f"slice_param {{ {text} }}", tops=tops)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_crop(run_layer, data):
    top = data.draw(shapes)
    axis = data.draw(st.integers(0, len(top) - 1))
    form = data.draw(st.sampled_from(["none", "one", "each"]))
    count = {"none": 0, "one": 1, "each": len(top) - axis}[form]
    offset = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    starts = [0] * axis + {"none": [0], "one": offset}.get(form, []) * (len(top) - axis) + offset * (form == "each")
    spare = data.draw(st.lists(st.integers(0, 2), min_size=len(top), max_size=len(top)))
    x = numbered(*(n + s + (e if i >= axis else 0) for i, (n, s, e) in enumerate(zip(top, starts, spare, strict=True))))
    other = [data.draw(st.integers(1, 3)) if i < axis else n for i, n in enumerate(top)]
    text = f"axis: {axis - len(top) if data.draw(st.booleans()) else axis} " + " ".join(f"offset: {o}" for o in offset)
    found = run_layer("Crop", x, np.zeros(other), param=f"crop_param {{ {text} }}")
    assert found.shape == top
    for place in np.ndindex(*top):
        assert found[place] == x[tuple(p + s for p, s in zip(place, starts, strict=True))]


def test_crop_cuts_height_and_width_by_default(run_layer):
    found = run_layer("Crop", numbered(1, 2, 4, 5), np.zeros((3, 1, 2, 3)), param="crop_param { offset: 1 offset: 2 }")
    assert found.tolist() == numbered(1, 2, 4, 5)[:, :, 1:3, 2:5].tolist()


@pytest.mark.parametrize(
    ("bottoms", "text", "reason"),
    [
        ([(1, 2, 4, 4)], "", "has 1 bottoms, expected 2"),
        ([(1, 2, 4, 4), (1, 2, 5, 4)], "", "axis 2 has 4 elements, too few for 5"),
        ([(1, 2, 4, 4), (1, 2, 3, 3)], "offset: 2", "too few for 3 of them from 2 on"),
        ([(1, 2, 4, 4), (1, 2, 3)], "", "the second bottom [1, 2, 3] has no axis 3"),
        ([(1, 2, 4, 4), (1, 2, 3, 3)], "offset: 1 offset: 1 offset: 1", "has 3 offset, and 2 axes"),
        ([(1, 2), (1, 2)], "", "crop_param.axis 2 is outside"),
    ],
)
def test_crop_refused(refusal, bottoms, text, reason):
    assert reason in refusal("Crop", *bottoms, param=f"crop_param {{ {text} }}")


@pytest.mark.parametrize("tops", [1, 2, 4])
def test_split(run_layer, tops):
    x = numbered(2, 3)
    for top in run_layer("Split", x, tops=tops) if tops > 1 else [run_layer("Split", x)]:
        assert top.tolist() == x.tolist()


def test_silence_ends_its_bottoms():
    text = """
        layer { name: "x" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 } } }
        layer { name: "r" type: "ReLU" bottom: "a" top: "c" }
        layer { name: "s" type: "Silence" bottom: "b" bottom: "a" }
    """
    model = build_model(parse_prototxt(text))
    assert model.net.outputs == ("c",)
    values = run_float(model, {"a": np.array([-1, 2], np.float32), "b": np.zeros(2, np.float32)}, observe=["c"])
    assert values["c"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("", lambda x: max(x, 0)),
        ("negative_slope: 0.25", lambda x: max(x, 0) + 0.25 * min(x, 0)),
        ("negative_slope: -1", abs),
        ("negative_slope: 2", lambda x: max(x, 0) + 2 * min(x, 0)),
        ("relu6: true", lambda x: min(max(x, 0), 6)),
        ("relu6: true negative_slope: 0.5", lambda x: min(max(x, 0) + 0.5 * min(x, 0), 6)),
        ("maximum: 3", lambda x: min(max(x, 0), 3)),
        ("maximum: 8 relu6: true", lambda x: min(max(x, 0), 6)),
        ("maximum: -3", lambda x: max(x, 0)),
        ("minimum: 1.5", lambda x: max(x, 1.5)),
        ("minimum: -1 negative_slope: 1", lambda x: max(x, -1)),
        ("minimum: 5 maximum: 3", lambda x: 5),
    ],
)
@pytest.mark.parametrize("shape", [(40,), (4, 10), (2, 2, 1, 2, 5)])
def test_relu(run_layer, text, formula, shape):
    x = np.linspace(-9.75, 9.75, 40, dtype=np.float32).reshape(shape)
    found = run_layer("ReLU", x, param=f"relu_param {{ {text} }}")
    assert found.shape == shape
    assert found.reshape(-1).tolist() == pytest.approx([formula(float(v)) for v in x.flat])


@pytest.mark.parametrize(
    ("layer_type", "param", "factor"),
    [
        ("Dropout", "", 1),
        ("Dropout", "dropout_param { dropout_ratio: 0.9 }", 1),
        ("Dropout", "dropout_param { dropout_ratio: 0.75 scale_train: false }", 0.25),
        ("SpatialDropout", "spatial_dropout_param { dropout_ratio: 0.3 }", 1),
        ("SpatialDropout", "dropout_param { dropout_ratio: 0.3 }", 1),
    ],
)
def test_dropout_in_test(run_layer, layer_type, param, factor):
    x = numbered(2, 3, 2, 2)
    assert run_layer(layer_type, x, param=param).tolist() == (x * factor).tolist()


def test_dropout_that_samples_in_test_is_refused(refusal):
    reason = refusal("Dropout", (2, 3), param="dropout_param { sample_weights_test: true }")
    assert "drops at random in TEST" in reason
