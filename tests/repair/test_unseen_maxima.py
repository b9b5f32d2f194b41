"""Room for what was not seen: against the formula in loops, and what it is worth on samples to come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.repair.channel_values import ChannelMoments, ChannelValues
from calib8.repair.unseen_maxima import TwoLargest, unseen_maxima

CHANNELS = 48


def two_largest(maxima):
    found = TwoLargest()
    found.add(np.asarray(maxima, np.float32))
    return found


def by_the_formula(maxima, threshold, numbers):
    """What the module's text says, channel by channel; maxima by sample, (n, C)."""
    ranked = np.sort(np.asarray(maxima, np.float32).astype(np.float64), axis=0)
    largest, second = ranked[-1], ranked[-2]
    shares = [(a - b) / a for a, b in zip(largest, second, strict=True) if a > 0]
    share = math.fsum(shares) / len(shares) if shares else 0.0
    best, least = threshold, math.inf
    for step in range(65):
        t, cost = threshold * (1 + step / 64), 0.0
        for a, b in zip(largest, second, strict=True):
            if a > b and share > 0:
                cost += 2 * (share * a) ** 2 * math.exp(-max(t - a, 0) / (share * a)) / len(ranked)
        cost += numbers * t**2 / (12 * 128**2)
        if cost < least:
            best, least = t, cost
    return best


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=2, max_size=8),
    st.integers(1, 60),
    st.integers(1, 1000),
)
def test_it_is_what_the_formula_says(maxima, threshold, places):
    seen = two_largest(maxima)
    unseen = unseen_maxima(seen.largest, seen.second, seen.samples, places)
    assert unseen.threshold(threshold) == pytest.approx(by_the_formula(maxima, threshold, 3 * places), rel=1e-9)


@given(st.lists(st.lists(st.integers(-9, 9), min_size=4, max_size=4), min_size=1, max_size=9), st.randoms())
def test_the_two_largest_in_any_order(rows, random):
    seen = two_largest(rows)
    random.shuffle(rows)
    again = TwoLargest()
    for row in rows:
        again.add(np.asarray([row], np.float32))
    ranked = np.sort(np.asarray(rows, np.float64), axis=0)
    for one in (seen, again):
        assert one.samples == len(rows) and one.seen
        np.testing.assert_array_equal(one.largest, ranked[-1])
        np.testing.assert_array_equal(one.second, ranked[-2] if len(rows) > 1 else -np.inf)


def test_what_is_not_known_needs_no_room():
    single = two_largest([[3, 4, 5]])
    assert unseen_maxima(single.largest, single.second, 1, 2).threshold(5.0) == 5.0
    dead = two_largest(np.zeros((9, 4)))
    assert unseen_maxima(dead.largest, dead.second, 9, 2).threshold(1.0) == 1.0
    with pytest.raises(AssertionError):
        _ = TwoLargest().largest


def test_a_channel_with_a_bound_needs_none():
    """As behind ReLU6: the same largest value in two samples or more."""
    seen = two_largest([[6, 5], [6, 5], [2, 5]])
    unseen = unseen_maxima(seen.largest, seen.second, 3, 1)
    assert not unseen.excess.any() and unseen.threshold(4.0) == 4.0


@pytest.mark.parametrize("places", [1, 16, 64])
@pytest.mark.parametrize("count", [5, 10, 40])
def test_samples_to_come_lose_less(places, count):
    """Normal values of channels that all reach the threshold, as units of their own make them; 20 calibrations."""
    rng = np.random.default_rng(places * count)
    with_room = without = 0.0
    for _ in range(20):
        values = rng.normal(size=(count + 400, CHANNELS, places))
        counter = ChannelMoments()
        for sample in values[:count]:
            counter.add(sample[None].astype(np.float32))
        units, coming = counter.largest[:, None], values[count:]
        unseen = counter.unseen(counter.largest)
        threshold = unseen.threshold(1.0)
        assert unseen.numbers == CHANNELS * places
        for t in (1.0, threshold):
            codes = np.clip(np.rint(coming / units * 128 / t), -128, 127)
            error = np.square(codes * t / 128 - coming / units).mean()
            without, with_room = (without + error, with_room) if t == 1.0 else (without, with_room + error)
    assert with_room < 0.8 * without


def test_enough_samples_need_no_room():
    maxima = np.random.default_rng(0).exponential(1, (64, CHANNELS))
    for count, moves in ((63, True), (64, False)):
        seen = two_largest(maxima[:count])
        unseen = unseen_maxima(seen.largest, seen.second, seen.samples, 1)
        assert (unseen.threshold(float(seen.largest.max())) > seen.largest.max()) == moves


@pytest.mark.parametrize("count", [10, 40])
def test_large_maps_need_little(count):
    rng = np.random.default_rng(count)
    counter = ChannelMoments()
    for _ in range(count):
        counter.add(rng.uniform(-1, 1, (1, CHANNELS, 64, 64)).astype(np.float32))
    assert counter.unseen(counter.largest).threshold(1.0) <= 1 + 1 / 64


def test_each_end_is_counted_by_itself():
    kept = ChannelValues(4)
    kept.add(np.float32([[[1, -5]], [[3, -2]]]).reshape(2, 1, 2))
    kept.add(np.float32([[[2, -4]]]).reshape(1, 1, 2))
    assert [e.tolist() for e in kept.ends] == [[-5], [3]]
    assert [e.tolist() for e in kept.ends_without] == [[-4], [2]]
    assert kept.maxima.samples == 3 and kept.places == 2
