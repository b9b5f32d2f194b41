"""What channels lose behind a BatchNorm: against loops over every value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calib8.repair.affine_noise import RATIOS, noise_behind, room
from calib8.repair.channel_values import ChannelValues


def sat(code):
    return max(-128, min(127, code))


def error_of(x, s, b, threshold, ratio, rectified):
    """Of one value, as the module's text has it."""
    unit = abs(s) * 128 / threshold / ratio
    code = math.floor(x * unit + 0.5)
    z = sat(math.floor(sat(code) * math.copysign(ratio, s) + b * 128 / threshold + 0.5))
    y = (x * s + b) * 128 / threshold
    if rectified:
        z, y = max(z, 0), max(y, 0)
    return (z - y) ** 2


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("count", [7, 200])
def test_the_error_is_that_of_loops(rectified, count):
    rng = np.random.default_rng(count)
    values = rng.normal(0.3, 2, (5, count)).astype(np.float32)
    factors, offsets = np.array([0.5, -0.7, 3.0, 0.01, -0.2]), np.array([0.31, -0.4, 0.0, 2.0, -3.0])
    errors, share = noise_behind(values, factors, offsets, 4.0, rectified=rectified)
    for c in range(5):
        for at, ratio in enumerate(RATIOS):
            exact = [error_of(float(x), factors[c], offsets[c], 4.0, ratio, rectified) for x in values[c]]
            # float32 takes another code than float64 where a value is on a tie
            assert errors[c, at] == pytest.approx(np.mean(exact), rel=0.02, abs=1e-3)
        above = np.mean(values[c].astype(float) * factors[c] + offsets[c] > 0)
        assert share[c] == pytest.approx(above if rectified else 1)


def test_of_many_values_some_are_looked_at():
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (1, 5000)).astype(np.float32)
    errors, share = noise_behind(values, np.ones(1), np.array([0.013]), 4.0, rectified=True)
    for at in np.flatnonzero(RATIOS >= 1)[::4]:  # nothing is clipped before: few of many say little of that
        exact = np.mean([error_of(float(x), 1.0, 0.013, 4.0, RATIOS[at], True) for x in values[0]])
        assert errors[0, at] == pytest.approx(exact, rel=0.2)
    assert share[0] == pytest.approx(np.mean(values > -0.013), abs=0.01)


def test_there_is_room_for_every_value_that_its_top_does_not_clip():
    """By loops over values between the ends: the largest code before, of those that matter behind."""
    rng = np.random.default_rng(9)
    for rectified in (False, True):
        for _ in range(40):
            least, largest = np.sort(rng.normal(0, 5, 2))
            factor, offset, threshold = rng.normal(), rng.normal(0, 2), rng.uniform(1, 8)
            x = np.linspace(least, largest, 20001)
            y = (x * factor + offset) * 128 / threshold
            counts = (y > (0 if rectified else -128)) & (y < 127)
            codes = np.abs(x[counts] * factor) * 128 / threshold
            found = room(
                (np.array([least]), np.array([largest])), np.array([factor]), np.array([offset]), threshold,
                rectified=rectified,
            )  # fmt: skip
            assert found[0] == pytest.approx(min(codes.max(initial=0) / 127, RATIOS[-1]), rel=1e-2, abs=2e-3)


def test_what_a_relu_takes_away_needs_no_room():
    """A channel of -9 .. 1: a code is worth a part of one behind, with a ReLU there, and else more than two."""
    ends = np.array([-9.0]), np.array([1.0])
    assert room(ends, np.ones(1), np.zeros(1), 10.0, rectified=True)[0] == pytest.approx(12.8 / 127)
    assert room(ends, np.ones(1), np.zeros(1), 3.0, rectified=False)[0] == pytest.approx(128 / 127)
    assert room(ends, -np.ones(1), np.zeros(1), 3.0, rectified=True)[0] == pytest.approx(1)


def test_the_order_of_values_does_not_count():
    values = np.random.default_rng(1).normal(0, 1, (3, 900)).astype(np.float32)
    one = noise_behind(values, np.array([1, -2, 0.5]), np.zeros(3), 3.0, rectified=True)
    other = noise_behind(values[:, ::-1], np.array([1, -2, 0.5]), np.zeros(3), 3.0, rectified=True)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_no_number_counts_as_0():
    kept = ChannelValues(100)
    kept.add(np.float32([[[1, np.nan, 2], [-3, np.inf, -1], [-np.inf, 4, -5]]]))
    least, largest = kept.ends
    np.testing.assert_array_equal(least, [0, -3, -5])
    np.testing.assert_array_equal(largest, [2, 0, 4])
    np.testing.assert_array_equal(np.sort(kept.values(), axis=1), [[0, 1, 2], [-3, -1, 0], [-5, 0, 4]])
