"""`PartsSeen`: what INT8 makes one number everywhere, against a look at each part by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calib8.analyze.lost_parts import PartsSeen
from calib8.graph import Layer
from calib8.proto import caffe_pb2


def seen(*runs):
    parts = PartsSeen(Layer("join", "Concat", (), ("y",), (), ("y",), caffe_pb2.LayerParameter()))
    for fp32, int8 in runs:
        parts.add(np.asarray(fp32, np.float32), np.asarray(int8, np.float32))
    return parts.lost


@pytest.fixture
def random():
    return np.random.default_rng(0)


def boxes_and_scores(random, axis):
    """Four large numbers and two small ones of 100 anchors, the numbers on one axis."""
    x = np.concatenate([random.uniform(0, 320, (4, 100)), random.uniform(0, 0.9, (2, 100))])
    return (x if axis == 1 else x.T)[None]


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_beside_corners(random, axis):
    x = boxes_and_scores(random, axis)
    found = seen((x, np.round(x / 2.5) * 2.5))
    assert (found.axis, found.indices, found.count) == (axis, (4, 5), 6)
    small = x[:, 4:] if axis == 1 else x[..., 4:]
    assert found.largest == pytest.approx(small.max())
    assert found.text.startswith("2 of 6 " + ("channels" if axis == 1 else "places of axis 2") + " lost (4 to 5:")


def test_one_run_in_which_it_says_something_is_enough(random):
    x = boxes_and_scores(random, 1)
    assert seen((x, np.round(x / 2.5) * 2.5), (x, np.round(x / 0.5) * 0.5)) is None


def test_what_fp32_does_not_say_is_not_lost(random):
    x = boxes_and_scores(random, 1)
    x[:, 4:] = 0.3
    assert seen((x, np.round(x / 2.5) * 2.5)) is None


def test_runs_without_a_row_say_nothing(random):
    x, none = boxes_and_scores(random, 2), np.zeros((0, 100, 6))
    assert seen((none, none)) is None
    assert seen((none, none), (x, np.round(x / 2.5) * 2.5)).indices == (4, 5)


def test_few_numbers_and_few_parts_say_nothing(random):
    few = random.uniform(0, 1, (1, 20, 2))
    assert seen((few, np.zeros_like(few))) is None
    one_of_nine = random.uniform(1, 2, (1, 9, 100))
    coarse = one_of_nine.copy()
    coarse[:, 0] = 1
    assert seen((one_of_nine, coarse)) is None
    assert seen((one_of_nine[:, :8], coarse[:, :8])).indices == (0,)


def test_ranges_in_words(random):
    x = random.uniform(1, 2, (1, 12, 100))
    y = x.copy()
    y[:, [0, 1, 3, 6, 7, 11]] = 1
    assert "(0 to 1, 3, 6 to 7, ..: one number" in seen((x, y)).text


@given(
    arrays(np.float32, (2, 3, 4, 40), elements=st.integers(0, 2).map(float)),
    arrays(np.float32, (2, 3, 4, 40), elements=st.integers(0, 1).map(float)),
)
def test_against_a_look_at_each_part(fp32, int8):
    found = seen(*zip(fp32[:, None], int8[:, None], strict=True))
    whole = {}
    for axis in (1, 2, 3):  # the same axes of a run, which has one sample
        parts = [(np.take(fp32, i, axis), np.take(int8, i, axis)) for i in range(fp32.shape[axis])]
        lost = tuple(i for i, (x, y) in enumerate(parts) if np.ptp(x) > 0 and np.ptp(y) == 0)
        if parts[0][0].size >= 64 and len(lost) * 8 >= len(parts):
            whole[axis] = lost, len(parts)
    if found is None:
        assert not whole
    else:
        assert whole[found.axis] == (found.indices, found.count)
        assert len(found.indices) / found.count == max(len(lost) / count for lost, count in whole.values())
