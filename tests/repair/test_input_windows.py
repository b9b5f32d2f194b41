"""Moments of windows of codes against loops."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.arithmetic import quantize
from calib8.repair.input_windows import InputWindows, exact_products

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 4, 5, 5] } } }
layer { name: "y" type: "Convolution" bottom: "x" top: "y"
  convolution_param { num_output: 4 kernel_size: 2 group: 2 } }
"""


@pytest.fixture
def op(random_model):
    return random_model(NETWORK).op_of["y"]


def observed(op, samples, per_sample=10**6):
    windows = InputWindows(op, 2.0, per_sample)
    for sample in samples:
        windows.add(sample)
    return windows


@pytest.fixture
def samples():
    rng = np.random.default_rng(7)
    return [rng.normal(0.3, 1, (1, 4, 5, 5)).astype(np.float32) for _ in range(70)]


def test_moments_are_those_of_all_windows(op, samples):
    rows = []  # (windows, groups, K)
    for sample in samples:
        codes = quantize(sample, 2.0).astype(int)[0]
        rows += [
            [codes[2 * g : 2 * g + 2, i : i + 2, j : j + 2].ravel() for g in range(2)]
            for i in range(4) for j in range(4)
        ]  # fmt: skip
    x = np.array(rows, dtype=np.float64).transpose(1, 0, 2)
    windows = observed(op, samples)
    found = windows.moments()
    assert found.count == windows.count == 70 * 16 > 1024  # more than are added in one go
    np.testing.assert_array_equal(found.means, x.sum(axis=1) / 1120)
    np.testing.assert_array_equal(found.second, np.array([r.T @ r for r in x]) / 1120)
    np.testing.assert_allclose(found.covariance, [np.cov(r.T, bias=True) for r in x], rtol=1e-12)
    np.testing.assert_allclose(windows.mean_squares(), (x**2).mean(axis=1), rtol=1e-15)


def test_a_range_of_inputs_is_a_part_of_all(op, samples):
    windows = observed(op, samples)
    np.testing.assert_array_equal(windows.moments(2, 7).products, windows.moments().products[:, 2:7, 2:7])


def test_the_order_of_samples_does_not_count(op, samples):
    one, other = (observed(op, s, per_sample=5).moments() for s in (samples, samples[::-1]))
    assert one.count == 70 * 5
    np.testing.assert_array_equal(one.products, other.products)
    np.testing.assert_array_equal(one.sums, other.sums)


def test_sums_of_the_largest_codes_are_exact(op):
    """1024 products of -128 with itself are 2^24; one more would not fit float32."""
    extreme = np.full((1, 4, 5, 5), -9.0, np.float32)
    found = observed(op, [extreme] * 65 + [extreme * 0] * 5 + [np.full((1, 4, 5, 5), 0.02, np.float32)]).moments()
    np.testing.assert_array_equal(found.products, np.full((2, 8, 8), 65 * 16 * 128.0**2 + 16))


@pytest.mark.parametrize("largest", [1, 127, 1000, 6000])
def test_products_are_those_of_whole_numbers(largest):
    """Over more windows than go together, in float32 and, where that does not add exactly, in float64."""
    rng = np.random.default_rng(4)
    left = rng.integers(-largest, largest + 1, (2, 1500, 5)).astype(np.int16)
    right = rng.integers(-128, 128, (2, 1500, 3)).astype(np.int8)
    left[0, :, 0], right[0, :, 0] = -largest, -128
    for one, other in ((left, right), (left, left)):
        wanted = one.transpose(0, 2, 1).astype(np.int64) @ other.astype(np.int64)
        np.testing.assert_array_equal(exact_products(one, other), wanted)
