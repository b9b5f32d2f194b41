"""Layers without bottoms."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4), (1, 2, 3, 4, 5)])
def test_parameter_is_its_blob(run_layer, shape):
    blob = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    param = f"parameter_param {{ shape {{ {' '.join(f'dim: {d}' for d in shape)} }} }}"
    found = run_layer("Parameter", param=param, blobs=(blob,))
    assert found.shape == shape
    assert np.array_equal(found, blob)


def test_dummy_data_for_each_top(run_layer):
    param = """dummy_data_param {
        shape { dim: 2 dim: 3 } shape { dim: 4 } data_filler { value: 1.5 } data_filler { type: "constant" } }"""
    first, second = run_layer("DummyData", param=param, tops=2)
    assert np.array_equal(first, np.full((2, 3), 1.5))
    assert np.array_equal(second, np.zeros(4))


def test_dummy_data_for_all_tops(run_layer):
    param = "dummy_data_param { num: 2 channels: 3 channels: 1 height: 4 width: 5 data_filler { value: -2 } }"
    first, second = run_layer("DummyData", param=param, tops=2)
    assert np.array_equal(first, np.full((2, 3, 4, 5), -2))
    assert np.array_equal(second, np.full((2, 1, 4, 5), -2))


@pytest.mark.parametrize(
    ("param", "reason"),
    [
        ("", "has 0 dummy_data_param.shape for 3 tops"),
        ("shape { dim: 1 } shape { dim: 2 }", "has 2 dummy_data_param.shape for 3 tops"),
        ("num: 1 channels: 2 height: 3", "has 0 dummy_data_param.width for 3 tops"),
        ("num: 1 shape { dim: 1 }", "keep one form"),
        ('shape { dim: 1 } data_filler { type: "gaussian" }', "'gaussian' numbers, which differ in every pass"),
        ("shape { dim: 1 } data_filler { } data_filler { }", "has 2 dummy_data_param.data_filler for 3 tops"),
    ],
)
def test_dummy_data_refuses(refusal, param, reason):
    assert reason in refusal("DummyData", param=f"dummy_data_param {{ {param} }}", tops=3)


@pytest.mark.parametrize(("flag", "first"), [("", 0), ("flag: true", 1)])
def test_continuation_indicator(run_layer, flag, first):
    param = f"continuation_indicator_param {{ time_step: 3 batch_size: 2 {flag} }}"
    assert run_layer("ContinuationIndicator", param=param).tolist() == [[first] * 2, [1, 1], [1, 1]]


def test_continuation_indicator_refuses(refusal):
    assert "time_step and batch_size are 0 and 1" in refusal("ContinuationIndicator")
