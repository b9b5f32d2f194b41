"""ArgMax against Caffe's sort of (value, place) pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

# Few different values, so that ties are the rule.
bottoms = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5), elements=st.sampled_from([-1.5, 0.0, 2.0])
)


def best(line: np.ndarray, top_k: int, smallest: bool) -> list[tuple[float, int]]:
    pairs = sorted(((float(v), i) for i, v in enumerate(line)), reverse=not smallest)
    return pairs[:top_k]


def along_axis(x, axis, top_k, values, smallest):
    lines = np.moveaxis(x, axis, -1)
    found = np.empty((*lines.shape[:-1], top_k))
    for place in np.ndindex(lines.shape[:-1]):
        found[place] = [pair[0 if values else 1] for pair in best(lines[place], top_k, smallest)]
    return np.moveaxis(found, -1, axis)


def of_samples(x, top_k, values, smallest):
    rank = max(x.ndim, 3)
    found = np.empty((len(x), 2 if values else 1, top_k))
    for n, sample in enumerate(x.reshape(len(x), -1)):
        pairs = best(sample, top_k, smallest)
        found[n, 0] = [place for _, place in pairs]
        if values:
            found[n, 1] = [value for value, _ in pairs]
    return found.reshape(*found.shape, *(1,) * (rank - 3))


@settings(max_examples=80, deadline=None)
@given(bottoms, st.integers(1, 4), st.none() | st.integers(-5, 4), st.booleans(), st.booleans())
def test_against_a_sort(run_layer, refusal, x, top_k, axis, values, smallest):
    param = f"top_k: {top_k} out_max_val: {str(values).lower()} min_first: {str(smallest).lower()}"
    param = f"argmax_param {{ {param} {'' if axis is None else f'axis: {axis}'} }}"
    if axis is not None and not -x.ndim <= axis < x.ndim:
        assert f"axis {axis} is outside" in refusal("ArgMax", x.shape, param=param)
        return
    if top_k > (x[0].size if axis is None else x.shape[axis]):
        assert f"top_k is {top_k}, more than the" in refusal("ArgMax", x.shape, param=param)
        return
    found = run_layer("ArgMax", x, param=param)
    expected = of_samples(x, top_k, values, smallest) if axis is None else along_axis(x, axis, top_k, values, smallest)
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


def test_one_place_is_the_default(run_layer):
    assert run_layer("ArgMax", [[3, 9, 9, 1], [5, 2, 1, 0]]).tolist() == [[[2]], [[0]]]


def test_infinities_are_ordered(run_layer):
    found = run_layer("ArgMax", [[0, -np.inf, np.inf]], param="argmax_param { top_k: 3 axis: 1 }")
    assert found.tolist() == [[2, 0, 1]]


@pytest.mark.parametrize(("shape", "reason"), [((2, 3), "top_k is 0"), ((), "no dimensions")])
def test_refuses(refusal, shape, reason):
    param = "argmax_param { top_k: 0 }" if shape else ""
    assert reason in refusal("ArgMax", shape, param=param)
