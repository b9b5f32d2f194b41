"""Reduction against sums in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NAMES = ["SUM", "ASUM", "SUMSQ", "MEAN"]


def reduce(name: str, elements: list[float]) -> float:
    if name == "ASUM":
        return sum(abs(v) for v in elements)
    if name == "SUMSQ":
        return sum(v * v for v in elements)
    return sum(elements) / (len(elements) if name == "MEAN" else 1)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=st.floats(-9, 9, width=32)),
    st.sampled_from(NAMES),
    st.integers(-5, 4),
    st.sampled_from([1.0, -0.5, 3.0]),
)
def test_against_sums(run_layer, refusal, x, name, axis, coeff):
    param = f"reduction_param {{ operation: {name} axis: {axis} coeff: {coeff} }}"
    if not -x.ndim <= axis < x.ndim:
        assert f"reduction_param.axis {axis} is outside" in refusal("Reduction", x.shape, param=param)
        return
    kept = x.shape[: axis % x.ndim]
    found = run_layer("Reduction", x, param=param)
    assert found.shape == kept
    expected = [coeff * reduce(name, [float(v) for v in row]) for row in x.reshape(int(np.prod(kept)), -1)]
    assert np.allclose(found.ravel(), expected, rtol=1e-5, atol=1e-4)


def test_everything_becomes_one_number_by_default(run_layer):
    found = run_layer("Reduction", [[1, 2], [3, -4]])
    assert found.shape == ()
    assert found == 2


@pytest.mark.parametrize("name", NAMES)
def test_operation_by_number(run_layer, name):
    param = f"reduction_param {{ operation: {NAMES.index(name) + 1} }}"
    assert run_layer("Reduction", [1, -2, 4], param=param) == pytest.approx(reduce(name, [1, -2, 4]))
