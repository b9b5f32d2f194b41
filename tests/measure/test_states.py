"""Counter states: what parts counted adds up to what one counter counts of all, to the last value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.errors import DataError
from calib8.measure.histogram import AdaptiveHistogram, Histogram, histogram_of
from calib8.measure.states import exponent_of

ODD = [0.0, -0.0, 1e-40, -(2.0**-149), 1.0, -1.0, 0.5, 3.4e38, 2.0**-99, 2.0**-101, math.nan, math.inf, -math.inf]
VALUES = st.lists(st.one_of(st.sampled_from(ODD), st.floats(width=32)), max_size=20)


def fine(values, bins=128):
    counter = AdaptiveHistogram(bins)
    counter.add(np.array(values, np.float32))
    return counter.state()


def exact(values, maximum, bins=128):
    counter = Histogram(maximum, bins)
    counter.add(np.array(values, np.float32))
    return counter.state()


def content(state):
    return (
        state.exact, state.bins, state.maximum, state.counts.tolist(), state.zeros, state.nans, state.infs,
        state.samples, state.beyond,
    )  # fmt: skip


@given(VALUES, VALUES, VALUES)
def test_fine_counts_of_parts_add_up_in_any_order(a, b, c):
    whole = content(fine(a + b + c))
    parts = fine(a), fine(b), fine(c)
    assert content(parts[0].merge(parts[1]).merge(parts[2])) == whole
    assert content(parts[2].merge(parts[0].merge(parts[1]))) == whole
    assert content(parts[1].merge(parts[2]).merge(parts[0])) == whole


@given(VALUES, VALUES, st.sampled_from([0.0, 2.0**-10, 1.0, 2.0**100]))
def test_exact_counts_over_one_maximum_add_up(a, b, maximum):
    whole = exact(a + b, maximum)
    assert content(exact(a, maximum).merge(exact(b, maximum))) == content(whole)
    assert whole.samples == sum(math.isfinite(np.float32(x)) for x in a + b) == whole.counts.sum()


@given(VALUES, VALUES)
def test_a_counter_goes_on_from_a_state(a, b):
    for make, state in ((fine, fine(a)), (lambda v: exact(v, 1.0), exact(a, 1.0))):
        counter = (Histogram if state.exact else AdaptiveHistogram).of(state)
        counter.add(np.array(b, np.float32))
        assert content(counter.state()) == content(make(a + b))


def test_a_state_does_not_change_when_its_counter_goes_on():
    counter = AdaptiveHistogram(128)
    counter.add(np.ones(3, np.float32))
    before = counter.state()
    counter.add(np.full(5, 1000, np.float32))
    assert before.samples == 3 == before.counts.sum() and before.maximum == 1


def test_the_histogram_of_a_state():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    counter = AdaptiveHistogram(256)
    counter.add(values)
    assert np.array_equal(histogram_of(counter.state()).counts, counter.result().counts)
    assert not histogram_of(counter.state()).exact
    second = Histogram(counter.maximum, 256)
    second.add(values)
    assert np.array_equal(histogram_of(second.state()).counts, second.result().counts)


def test_what_cannot_be_merged():
    with pytest.raises(DataError, match="maxima 1 and 2 cannot be merged"):
        exact([1], 1.0).merge(exact([2], 2.0))
    with pytest.raises(DataError, match="128 and 256 bins"):
        fine([1]).merge(fine([1], 256))
    with pytest.raises(DataError, match="cannot be merged"):
        fine([1]).merge(exact([1], 1.0))


@pytest.mark.parametrize(("maximum", "exponent"), [(0, None), (1, 1), (0.99, 0), (2, 2), (1e-45, -100), (3.4e38, 128)])
def test_exponents(maximum, exponent):
    assert exponent_of(maximum) == exponent
