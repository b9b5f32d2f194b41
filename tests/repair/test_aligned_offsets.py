"""Aligned offsets: two roundings are one. What the pass makes of a network is in test_channel_units.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calib8.repair.aligned_offsets import aligned

RATIOS = (1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 8, 2, 3)


def rnd(x):
    return math.floor(x + 0.5)


@pytest.mark.parametrize("ratio", RATIOS)
def test_two_roundings_are_one(ratio):
    """Values that are rounded as finely as before the BatchNorm, and once more behind it, against one rounding."""
    rng = np.random.default_rng(7)
    for offset in rng.uniform(-40, 40, 20):
        b = float(aligned(np.array(offset), np.array(ratio)))
        assert abs(b - offset) <= 0.5 * min(ratio, 1) + 1e-9
        for value in rng.uniform(-30, 30, 300):
            exact = value + offset
            twice = rnd(rnd((exact - b) / ratio) * ratio + b + (1e-9 if ratio < 1 else 0))
            if ratio <= 1:
                assert twice == rnd(exact) or abs(exact - math.floor(exact) - 0.5) < 1e-6
            else:  # coarser codes: nothing but their own rounding
                assert abs(twice - exact) <= ratio / 2 + 1e-9


def test_there_is_none_for_other_ratios():
    offsets, ratios = np.array([0.3, -1.7, 5.2]), np.array([0.75, 1.25, 0.0])
    np.testing.assert_array_equal(aligned(offsets, ratios), offsets)
