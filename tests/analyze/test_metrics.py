"""Metrics against loops over elements, with the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib8.analyze.metrics import (
    CodeUsage,
    Comparison,
    OutputComparison,
    Reference,
    code_usage,
    compare,
    compare_outputs,
    largest_channel,
    total,
)

FLOATS = st.floats(-100, 100, width=32)


@given(hnp.arrays(np.float32, (2, 3, 4), elements=FLOATS), hnp.arrays(np.float32, (2, 3, 4), elements=FLOATS))
def test_against_loops(x, y):
    found = compare(x, y)
    pairs = [(float(a), float(b)) for a, b in zip(x.ravel(), y.ravel(), strict=True)]
    errors = sum((a - b) ** 2 for a, b in pairs)
    assert found.mse == pytest.approx(errors / len(pairs), rel=1e-6, abs=1e-30)
    energy = sum(a * a for a, _ in pairs)
    if errors and energy:
        assert found.snr_db == pytest.approx(10 * math.log10(energy / errors), rel=1e-6, abs=1e-6)
    norms = math.sqrt(energy * sum(b * b for _, b in pairs))
    if errors and norms > 1e-30:
        assert found.cosine == pytest.approx(sum(a * b for a, b in pairs) / norms, rel=1e-6, abs=1e-6)
    same = sum(
        max(range(3), key=lambda c: x[n, c, i]) == max(range(3), key=lambda c: y[n, c, i])
        for n in range(2)
        for i in range(4)
    )
    assert found.top1 == same / 8


def test_samples_add_up():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 6, 5), np.float32)
    whole = compare(x, y)
    parts = total((compare(x[i : i + 1], y[i : i + 1]) for i in range(6)), Comparison())
    for figure in ("mse", "cosine", "snr_db", "top1", "elements", "positions"):
        assert getattr(parts, figure) == pytest.approx(getattr(whole, figure), rel=1e-12)


def test_long_arrays_are_summed_whole():
    x = np.ones(300_001, np.float32)
    y = x.copy()
    y[[0, 70_000, 300_000]] = 3
    assert compare(x, y).error == pytest.approx(12) and compare(x, y).elements == 300_001


@pytest.mark.parametrize("scale", [1e-6, 0.3, 0.6, 1.0, 1.9, 2.1, 1e6])
@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_cosine_against_doubles(scale, noise, sign):
    """Near, opposite, unlike, and far larger: as near as the sums of squared float32 differences can be."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 6, 5000)).astype(np.float32)
    y = ((sign * x + noise * rng.standard_normal(x.shape)) * scale).astype(np.float32)
    one, other = x.astype(np.float64), y.astype(np.float64)
    product, norms = (one * other).sum(), math.sqrt((one**2).sum() * (other**2).sum())
    error = ((one - other) ** 2).sum()
    found = compare(x, y)
    assert found.cosine == pytest.approx(product / norms, abs=2.0**-24 * min(error / norms, 4.5) + 1e-12)
    assert abs(found.cosine) <= 1


def test_products_of_the_largest_numbers():
    x = np.full((1, 2), 2e38, np.float32)
    with np.errstate(all="ignore"):
        assert compare(x, -x).cosine == pytest.approx(-1)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(2, 3, 30, 30), (1, 255, 700), (1, 256, 700), (3, 2, 200), (4, 1000), (1, 40, 5, 5)])
def test_the_largest_channel_is_that_of_argmax(dtype, shape):
    """Few different values, so that nearly every position has ties, and the first one counts."""
    array = np.random.default_rng(1).integers(0, 3, shape).astype(dtype)
    np.testing.assert_array_equal(largest_channel(array), array.argmax(axis=1))
    assert largest_channel(array[:, :1]) is None and largest_channel(array.reshape(-1)) is None


def test_nan_is_the_largest():
    array = np.random.default_rng(1).standard_normal((1, 5, 1000)).astype(np.float32)
    array[0, 3, ::7] = math.nan
    array[0, 1, 14] = math.nan
    np.testing.assert_array_equal(largest_channel(array), array.argmax(axis=1))
    array[0, 2, 5] = math.inf
    np.testing.assert_array_equal(largest_channel(array), array.argmax(axis=1))


def test_no_error_and_no_signal():
    zeros, ones = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    assert compare(zeros, zeros).cosine == compare(ones, ones).cosine == 1
    assert compare(ones, ones).snr_db == math.inf
    assert compare(zeros, ones).snr_db == -math.inf
    assert compare(zeros, ones).cosine == compare(ones, zeros).cosine == 0
    assert math.isnan(compare(np.ones(3, np.float32), np.ones(3, np.float32)).top1)
    assert Comparison().mse == 0


def test_values_of_different_shapes_are_not_compared():
    with pytest.raises(ValueError, match="shapes"):
        compare(np.zeros((1, 2)), np.zeros((2, 1)))


def test_the_worst_output_counts_but_errors_add_up():
    reference = {"a": np.array([[1.0, 2.0]], np.float32), "b": np.array([[5.0, 1.0]], np.float32)}
    result = {"a": np.array([[1.0, 2.0]], np.float32), "b": np.array([[1.0, 5.0]], np.float32)}
    found = compare_outputs(reference, result, ["a", "b"])
    b = compare(reference["b"], result["b"])
    assert (found.cosine, found.snr_db, found.mse, found.top1) == (b.cosine, b.snr_db, b.mse, 0)
    twice = found + found
    assert twice.mse == found.mse and twice.by_value["b"].elements == 4
    assert math.isnan(OutputComparison().top1) and OutputComparison().cosine == 1


def test_codes():
    codes = np.array([[0, 255, 255, 128, 130]], np.uint8)
    usage = code_usage(codes)
    assert usage.saturation == 3 / 5 and usage.in_use == 4 / 256
    assert (usage + code_usage(np.array([7], np.uint8))).in_use == 5 / 256
    assert CodeUsage().saturation == 0


def test_a_reference_for_many_comparisons_is_the_array_itself():
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((2, 3, 4, 5)).astype(np.float32) for _ in range(2))
    reference = Reference(x)
    assert compare(reference, y) == compare(x, y)
    assert compare(reference, x) == compare(x, x)
    assert compare(Reference(x[0, 0, 0]), y[0, 0, 0]) == compare(x[0, 0, 0], y[0, 0, 0])
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(reference, y[:1])
