"""Layers that only move elements: every place of the top against loops, in float and on 8-bit codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def numbered(shape) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def places(shape):
    return itertools.product(*(range(d) for d in shape))


def check(run_layer, move_codes, layer_type, param, x, top_shape, source) -> None:
    """The top's element at `place` must be the bottom's at `source(place)`."""
    found = run_layer(layer_type, x, param=param)
    assert found.shape == top_shape
    for place in places(top_shape):
        assert found[place] == x[source(place)], place
    codes = (np.arange(x.size) % 251).astype(np.uint8).reshape(x.shape)
    moved = move_codes(layer_type, codes, param)
    assert moved.dtype == np.uint8
    for place in places(top_shape):
        assert moved[place] == codes[source(place)], place


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(-5, 4), st.integers(1, 3))
def test_tile(run_layer, move_codes, refusal, shape, axis, tiles):
    param = f"tile_param {{ axis: {axis} tiles: {tiles} }}"
    if not -len(shape) <= axis < len(shape):
        assert f"tile_param.axis {axis} is outside" in refusal("Tile", shape, param=param)
        return
    i = axis % len(shape)
    top = (*shape[:i], shape[i] * tiles, *shape[i + 1 :])

    def source(place):
        return (*place[:i], place[i] % shape[i], *place[i + 1 :])

    check(run_layer, move_codes, "Tile", param, numbered(shape), top, source)


def test_tile_without_a_number_of_tiles(refusal):
    assert "has no tile_param.tiles" in refusal("Tile", (2, 3))
    assert "tiles is 0" in refusal("Tile", (2, 3), param="tile_param { tiles: 0 }")
    assert "tiles is -1" in refusal("Tile", (2, 3), param="tile_param { tiles: -1 }")


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(-5, 4))
def test_reverse(run_layer, move_codes, refusal, shape, axis):
    param = f"reverse_param {{ axis: {axis} }}"
    if not -len(shape) <= axis < len(shape):
        assert f"reverse_param.axis {axis} is outside" in refusal("Reverse", shape, param=param)
        return
    i = axis % len(shape)

    def source(place):
        return (*place[:i], shape[i] - 1 - place[i], *place[i + 1 :])

    check(run_layer, move_codes, "Reverse", param, numbered(shape), shape, source)


def test_reverse_is_along_the_first_axis_by_default(run_layer):
    assert run_layer("Reverse", [[1, 2], [3, 4]]).tolist() == [[3, 4], [1, 2]]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(1, 3), max_size=2))
def test_shuffle_channel(run_layer, move_codes, group, per_group, samples, spatial):
    channels = group * per_group
    x = numbered((samples, channels, *spatial))
    top = (samples, channels, *spatial, *(1,) * (2 - len(spatial)))

    def source(place):
        n, c, *rest = place
        return (n, c % group * per_group + c // group, *rest[: len(spatial)])

    check(run_layer, move_codes, "ShuffleChannel", f"shuffle_channel_param {{ group: {group} }}", x, top, source)


def test_shuffle_channel_refuses(refusal):
    assert "6 channels, not a multiple of group 4" in refusal(
        "ShuffleChannel", (1, 6, 2, 2), param="shuffle_channel_param { group: 4 }"
    )
    assert "group is 0" in refusal("ShuffleChannel", (1, 6), param="shuffle_channel_param { group: 0 }")
    assert "bottom has 1 dimensions" in refusal("ShuffleChannel", (6,))
    assert "bottom has 5 dimensions" in refusal("ShuffleChannel", (1, 2, 3, 4, 5))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_reorg(run_layer, move_codes, stride, n, c, rows, columns):
    x = numbered((n, c, rows * stride, columns * stride))

    def source(place):
        sample, k, h, w = place
        i, j = divmod(k // c, stride)
        return sample, k % c, h * stride + i, w * stride + j

    top = (n, c * stride**2, rows, columns)
    check(run_layer, move_codes, "Reorg", f"reorg_param {{ stride: {stride} }}", x, top, source)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_reorg_reverse_undoes_it(run_layer, move_codes, stride, n, c, rows, columns):
    x = numbered((n, c, rows * stride, columns * stride))
    folded = run_layer("Reorg", x, param=f"reorg_param {{ stride: {stride} }}")
    param = f"reorg_param {{ stride: {stride} reverse: true }}"
    assert np.array_equal(run_layer("Reorg", folded, param=param), x)
    assert np.array_equal(move_codes("Reorg", (folded % 251).astype(np.uint8), param), x % 251)


def test_reorg_refuses(refusal):
    assert "has no reorg_param.stride" in refusal("Reorg", (1, 4, 4, 4))
    assert "bottom is 4 x 5, not a multiple" in refusal("Reorg", (1, 4, 4, 5), param="reorg_param { stride: 2 }")
    assert "6 channels" in refusal("Reorg", (1, 6, 4, 4), param="reorg_param { stride: 2 reverse: true }")
    assert "bottom has 3 dimensions" in refusal("Reorg", (4, 4, 4), param="reorg_param { stride: 2 }")


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(*[st.integers(1, 3)] * 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["scale", "size", "scale_h", "upsample_h", "stride", "stride_h"]),
)
def test_nearest_upsample(run_layer, move_codes, shape, scale_h, scale_w, form):
    if form in ("scale", "size", "stride"):
        scale_w = scale_h
    n, c, h, w = shape
    param = {
        "scale": f"scale: {scale_h}",
        "size": f"size: {scale_h}",
        "scale_h": f"scale_h: {scale_h} scale_w: {scale_w}",
        "upsample_h": f"upsample_h: {h * scale_h} upsample_w: {w * scale_w} scale: 7",
        "stride": f"stride: {scale_h} scale: 1",
        "stride_h": f"stride_h: {scale_h} stride_w: {scale_w}",
    }[form]

    def source(place):
        return *place[:2], place[2] // scale_h, place[3] // scale_w

    top = (n, c, h * scale_h, w * scale_w)
    check(run_layer, move_codes, "Upsample", f"upsample_param {{ {param} }}", numbered(shape), top, source)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 4))
def test_nearest_upsample_to_any_size(run_layer, move_codes, sides):
    h, w, top_h, top_w = sides[0], sides[1], sides[2] + 1, sides[3] + 1

    def source(place):
        return *place[:2], place[2] * h // top_h, place[3] * w // top_w

    param = f"upsample_param {{ height: {top_h} width: {top_w} mode: NEAREST }}"
    check(run_layer, move_codes, "Upsample", param, numbered((1, 2, h, w)), (1, 2, top_h, top_w), source)


def test_nearest_upsample_to_a_size_that_floats_miss(run_layer):
    # 5 * 6 / 10 is 3; as floats divide, 5 / (10 / 6) may be just below.
    x = numbered((1, 1, 6, 1))
    found = run_layer("Upsample", x, param="upsample_param { height: 10 width: 2 mode: NEAREST }")
    assert found[0, 0, :, 1].tolist() == [i * 6 // 10 for i in range(10)]


def test_upsample_of_ascend_multiplies(run_layer):
    found = run_layer("Upsample", numbered((1, 1, 2, 2)), param="upsample_param { scale: 2.5 stride: 2 }")
    assert found[0, 0].tolist() == [[0, 0, 2.5, 2.5]] * 2 + [[5, 5, 7.5, 7.5]] * 2


@pytest.mark.parametrize(
    ("param", "reason"),
    [
        ("", "sets no size, and forks differ"),
        ("pad_out_h: false", "sets no size, and forks differ"),
        ("mode: NEAREST", "sets no size, and forks differ"),
        ("scale: nan", "scale is nan; expected a whole number"),
        ("scale: inf stride: 2", "scale is inf; expected a finite number"),
        ("scale: 1.5", "scale is 1.5; expected a whole number"),
        ("scale: 2 mode: BILINEAR", "mode BILINEAR needs height and width"),
        ("height: 4", "height and width must be set together"),
        ("height_scale: 2", "height_scale and width_scale must be set together"),
        ("height: 1 width: 8", "below 2"),
        ("height_scale: 1 width_scale: 1", "below 2"),
        ("height: 4 width: 8 scale: 2", "fields of forks that do not have each other's"),
        ("stride: 2 size: 2", "fields of forks that do not have each other's"),
        ("stride: 2 stride_h: 2 stride_w: 2", "keep one"),
        ("stride: 0", "scales by 0 x 0"),
        ("scale: 2 size: 2", "more than one of"),
        ("scale: 2 scale_h: 2 scale_w: 2", "more than one of"),
        ("scale_h: 2", "scale_h and scale_w must be set together"),
        ("upsample_w: 8", "upsample_h and upsample_w must be set together"),
        ("scale: 0", "scales by 0 x 0"),
        ("scale: -2", "scales by -2 x -2"),
        ("scale: 2 pad_out_h: true", "pad_out_h needs a second bottom"),
        ("scale: 3 pad_out_w: true", "pad_out_w needs a scale of 2"),
        ("upsample_h: 5 upsample_w: 8", "5 x 8, not a multiple of the bottom's 2 x 4"),
        ("upsample_h: 1 upsample_w: 4", "1 x 4, not a multiple of the bottom's 2 x 4"),
    ],
)
def test_upsample_refuses(refusal, param, reason):
    assert reason in refusal("Upsample", (1, 3, 2, 4), param=f"upsample_param {{ {param} }}")


def test_upsample_wants_an_image(refusal):
    assert "bottom has 2 dimensions" in refusal("Upsample", (3, 4), param="upsample_param { scale: 2 }")


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)), st.tuples(*[st.integers(1, 3)] * 4))
def test_transpose(run_layer, move_codes, dim, shape):
    def source(place):
        return tuple(place[dim.index(axis)] for axis in range(4))

    param = f"transpose_param {{ {' '.join(f'dim: {d}' for d in dim)} }}"
    check(run_layer, move_codes, "Transpose", param, numbered(shape), tuple(shape[d] for d in dim), source)


@pytest.mark.parametrize("dim", ["", "dim: 1 dim: 0", "dim: [0, 1, 1]", "dim: [0, 1, 3]", "dim: [0, 1, -1]"])
def test_transpose_names_every_axis_once(refusal, dim):
    assert "each of 0 to 2 is needed once" in refusal("Transpose", (2, 3, 4), param=f"transpose_param {{ {dim} }}")


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 3)] * 4), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_pass_through(run_layer, move_codes, sides, high, wide, names_outputs):
    n, c, h, w = sides

    def source(place):
        i, j = divmod(place[1] // c, wide)
        return place[0], place[1] % c, place[2] * high + i, place[3] * wide + j

    outputs = f"num_output: {c * high * wide}" if names_outputs else ""
    param = f"pass_through_param {{ block_height: {high} block_width: {wide} {outputs} }}"
    x = numbered((n, c, h * high, w * wide))
    check(run_layer, move_codes, "PassThrough", param, x, (n, c * high * wide, h, w), source)


@pytest.mark.parametrize(
    ("param", "reason"),
    [
        ("", "has no pass_through_param.block_height"),
        ("block_height: 2", "or one that is 0"),
        ("block_height: 2 block_width: 3", "4 x 4, not a multiple of the block 2 x 3"),
        ("block_height: 2 block_width: 2 num_output: 8", "num_output is 8, and the top has 12 channels"),
    ],
)
def test_pass_through_refuses(refusal, param, reason):
    assert reason in refusal("PassThrough", (1, 3, 4, 4), param=f"pass_through_param {{ {param} }}")


@pytest.mark.parametrize(
    ("shape", "axes", "top"),
    [
        ((1, 3, 1, 1), (), (3,)),
        ((1, 3, 1, 1), (2, -1), (1, 3)),
        ((1, 1, 1), (0,), (1, 1)),
        ((1, 1), (), ()),
        ((2, 3), (), (2, 3)),
    ],
)
def test_squeeze(run_layer, move_codes, shape, axes, top):
    param = f"squeeze_param {{ {' '.join(f'axis: {a}' for a in axes)} }}"
    x = numbered(shape)
    assert np.array_equal(run_layer("Squeeze", x, param=param), x.reshape(top))
    assert np.array_equal(move_codes("Squeeze", x.astype(np.uint8), param), x.reshape(top))


def test_squeeze_refuses(refusal):
    assert "axis 1 has the length 3" in refusal("Squeeze", (1, 3), param="squeeze_param { axis: 1 }")
    assert "axis 2 is outside" in refusal("Squeeze", (1, 3), param="squeeze_param { axis: 2 }")


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 3)] * 4), st.tuples(*[st.integers(0, 3)] * 4), st.integers(-3, 3))
def test_padding(run_layer, shape, pads, value):
    left, right, top, bottom = pads
    param = f"pad_l: {left} pad_r: {right} pad_t: {top} pad_b: {bottom} pad_value: {value} pad_method: CONSTANT"
    x = numbered(shape) + 10
    found = run_layer("Padding", x, param=f"padding_param {{ {param} }}")
    n, c, h, w = shape
    assert found.shape == (n, c, top + h + bottom, left + w + right)
    for i, j, k, m in places(found.shape):
        inside = top <= k < top + h and left <= m < left + w
        assert found[i, j, k, m] == (x[i, j, k - top, m - left] if inside else value)


def test_padding_refuses(refusal):
    assert "bottom has 3 dimensions" in refusal("Padding", (1, 2, 3))
    assert "pad_param" in refusal("Padding", (1, 2, 3, 4), param="pad_param { pads: 1 value: 0 }")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.data())
def test_batch_reindex(run_layer, shape, data):
    index = data.draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=6))
    x = numbered(shape)
    found = run_layer("BatchReindex", x, np.array(index) + 0.75)
    assert found.shape == (len(index), *shape[1:])
    for i, sample in enumerate(index):
        assert np.array_equal(found[i], x[sample])


def test_batch_reindex_wants_a_list(refusal):
    assert "expected samples, and a list" in refusal("BatchReindex", (3, 2), (2, 1))
