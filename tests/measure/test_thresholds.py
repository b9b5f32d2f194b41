"""Thresholds from histograms: every method against its formula in loops, and the original's own results."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calib8.errors import OptionError
from calib8.measure.histogram import BlobHistogram
from calib8.measure.thresholds import DEAD_THRESHOLD, METHODS, ThresholdOptions, find_threshold
from calib8.measure.thresholds.divergence import divergence, divergences, first_minimum

GOLDEN = Path(__file__).parents[1] / "golden" / "kl.npz"
MOST_FLOAT32 = float(np.finfo(np.float32).max)


def histogram_of(counts, width=1.0, zeros=0):
    counts = np.array(counts, np.int64)
    return BlobHistogram(counts, width, width * (counts.size - 1), zeros, 0, 0, int(counts.sum()))


@st.composite
def histograms(draw, most_groups=4):
    """Few or many filled bins; the last one is filled, since the largest value lies there."""
    counts = [0] * (128 * draw(st.integers(1, most_groups)))
    for place in draw(st.lists(st.integers(0, len(counts) - 1), max_size=60)):
        counts[place] += draw(st.integers(1, 50))
    slope = draw(st.sampled_from([0, 3, 20]))
    for place in range(0, len(counts), draw(st.integers(1, 9))):
        counts[place] += int(1000 * math.exp(-slope * place / len(counts))) if slope else 0
    counts[-1] += draw(st.integers(1, 1000))
    return histogram_of(counts, width=2.0**-6)


# KL, in loops.


def kl_of(counts, end):
    """The contract's sentence, bin by bin."""
    total, inside = sum(counts), sum(counts[:end])
    if inside == 0:
        return math.inf
    p = counts[:end]
    p[-1] += total - inside
    q = [0.0] * end
    for group in range(128):
        bins = range(group * end // 128, (group + 1) * end // 128)
        filled = [j for j in bins if counts[j]]
        for j in filled:
            q[j] = sum(counts[k] for k in bins) / len(filled) / inside
    return sum(
        a / total * (math.log10(a / total + 1e-30) - math.log10(b + 1e-30)) for a, b in zip(p, q, strict=True) if a
    )


def check_is_first_minimum(found, candidates, counts):
    values = {i: kl_of(counts, i) for i in candidates}
    smallest = min(values.values())
    assert found in values
    assert values[found] == pytest.approx(smallest, abs=1e-12)
    assert all(values[i] > smallest - 1e-12 for i in candidates if i < found)


@pytest.mark.parametrize("case", range(120))
def test_kl_gives_the_originals_threshold(case):
    with np.load(GOLDEN) as golden:
        counts, width, expected = (golden[f"{name}_{case}"] for name in ("hist", "width", "threshold"))
    found = find_threshold(histogram_of(counts, float(width)))
    assert np.float32(found) == expected, f"case {case}"


@given(histograms())
def test_kl_takes_the_smallest_divergence(histogram):
    found = find_threshold(histogram, "kl") / histogram.width
    check_is_first_minimum(found, range(128, histogram.bins + 1, 128), histogram.counts.tolist())


@given(histograms(most_groups=2))
def test_kl_fine_takes_the_smallest_divergence_of_all_bins(histogram):
    found = find_threshold(histogram, "kl-fine") / histogram.width
    counts = histogram.counts.tolist()
    check_is_first_minimum(found, fine_candidates(counts), counts)


def fine_candidates(counts):
    """Numbers of bins that clip nothing, or half of the values at most and leave two filled bins."""
    total = sum(counts)
    return [
        i
        for i in range(128, len(counts) + 1)
        if sum(counts[:i]) == total or (2 * sum(counts[:i]) >= total and sum(1 for h in counts[:i] if h) > 1)
    ]


@pytest.mark.parametrize("levels", [2, 3, 5, 16, 40])
@given(data=st.data())
def test_kl_fine_keeps_most_values_that_have_few_levels(levels, data):
    counts = np.zeros(2048, np.int64)
    places = np.round(np.linspace(0, 2047, levels)).astype(int)
    counts[places] = data.draw(st.lists(st.integers(1, 10**6), min_size=levels, max_size=levels))
    for zeros in (0, int(counts[0])):  # of what is in the lowest bin
        histogram = histogram_of(counts, zeros=zeros)
        found = find_threshold(histogram, "kl-fine")
        kept = histogram.without_zeros().counts
        assert 2 * kept[: round(found)].sum() >= kept.sum()
        second = min(2 if zeros else 1, levels - 1)
        assert round(found) > places[second]  # not the lowest level alone


@given(histograms(), st.data())
def test_divergence_of_one_candidate(histogram, data):
    counts = histogram.counts
    end = data.draw(st.integers(128, histogram.bins))
    expected = kl_of(counts.tolist(), end)
    assert divergence(counts, end) == pytest.approx(expected, abs=1e-13)
    assert divergences(counts, np.array([end]))[0] == pytest.approx(expected, abs=1e-12)


def test_divergences_of_large_counts_and_many_bins():
    places = np.arange(204_800)
    counts = (1e9 * np.exp(-((places / 50_000) ** 2))).astype(np.int64)
    ends = np.array([128, 12_800, 99_999, 204_800])
    exact = [divergence(counts, int(end)) for end in ends]
    np.testing.assert_allclose(divergences(counts, ends), exact, rtol=1e-9, atol=2e-11)


def spikes_and_an_outlier(bins, spacing):
    """Up to 128 * spacing bins every spike has a group of its own: all these candidates have the same KL."""
    counts = np.zeros(bins, np.int64)
    counts[: 31 * spacing : spacing] = np.random.default_rng(3).integers(10**3, 10**5, 31)
    counts[-1] = 1
    return counts


@pytest.mark.parametrize("method", ["kl", "kl-fine"])
def test_the_first_of_equal_divergences_wins(method):
    counts = spikes_and_an_outlier(1024, 4)
    equal = {kl_of(counts.tolist(), i) for i in (128, 256, 384, 512)}
    assert len(equal) == 1 and min(equal) < kl_of(counts.tolist(), 1024)
    assert find_threshold(histogram_of(counts), method) == 128


def test_many_equal_divergences_take_no_longer():
    counts = spikes_and_an_outlier(16_384, 64)
    candidates = np.arange(31 * 64, 16_385)
    assert first_minimum(counts, candidates) == 31 * 64


def test_candidates_without_a_value_do_not_count():
    counts = [0] * 256
    counts[200], counts[255] = 7, 1
    assert kl_of(counts, 128) == math.inf and divergence(np.array(counts), 128) == math.inf
    assert find_threshold(histogram_of(counts)) == 256


@given(histograms())
def test_kl_fine_never_ends_at_a_larger_divergence(histogram):
    coarse, fine = (round(find_threshold(histogram, m) / histogram.width) for m in ("kl", "kl-fine"))
    counts = histogram.counts.tolist()
    assert coarse not in fine_candidates(counts) or kl_of(counts, fine) <= kl_of(counts, coarse) + 1e-13


def test_kl_can_exceed_the_largest_value():
    histogram = histogram_of([5] * 256)
    assert find_threshold(histogram) == 256 > histogram.maximum


@pytest.mark.parametrize("bins", [64, 200])
def test_kl_needs_a_multiple_of_128_bins(bins):
    with pytest.raises(OptionError, match=str(bins)):
        find_threshold(histogram_of([1] * bins))


# The other methods.


def squared_error(counts, end):
    """128^2 times the squared error, in bins, of codes 0 to 127 at a threshold of `end` bins."""
    error = 0
    for j, h in enumerate(counts):
        code = min(127, (256 * j + end) // (2 * end))  # rnd(128 * j / end)
        error += h * (128 * j - code * end) ** 2
    return error


@settings(max_examples=30)
@given(histograms(most_groups=1))
def test_mse(histogram):
    counts = histogram.counts.tolist()
    found = round(find_threshold(histogram, "mse") / histogram.width)
    rounding = 1e-11 * sum(h * (128 * j) ** 2 for j, h in enumerate(counts))
    assert squared_error(counts, found) <= min(squared_error(counts, i) for i in range(1, 129)) + rounding


def test_mse_over_many_bins():
    counts = np.random.default_rng(0).poisson(1000 * np.exp(-np.arange(20_480) / 2000))
    counts[-1] = 1
    found = round(find_threshold(histogram_of(counts), "mse"))
    nearby = [squared_error(counts.tolist(), i) for i in (found - 1, found, found + 1)]
    assert min(nearby) == nearby[1] < squared_error(counts.tolist(), 20_480)


PERCENT = st.one_of(st.sampled_from([100, 99.99, 99.9, 50.0, 0.1]), st.floats(0.001, 100))


@given(histograms(), PERCENT)
def test_percentile(histogram, percent):
    values = np.repeat(np.arange(histogram.bins), histogram.counts).tolist()
    last = values[math.ceil(Fraction(str(percent)) * len(values) / 100) - 1]
    expected = min((last + 0.5) * histogram.width, histogram.maximum)
    assert find_threshold(histogram, "percentile", ThresholdOptions(percent=percent)) == expected


def test_percentile_takes_the_percentage_by_its_digits():
    counts = [0] * 128
    for percent, total in ((95.1, 10**3), (99.99, 10**4), (99.9, 10**6), (55.5, 10**5)):
        kept = round(percent * total / 100)
        counts[3], counts[-1] = kept, total - kept
        assert find_threshold(histogram_of(counts), "percentile", ThresholdOptions(percent=percent)) == 3.5


@given(histograms(), st.tuples(PERCENT, PERCENT))
def test_a_higher_percentage_gives_no_lower_threshold(histogram, percents):
    low, high = (find_threshold(histogram, "percentile", ThresholdOptions(percent=p)) for p in sorted(percents))
    assert low <= high <= find_threshold(histogram, "max") == histogram.maximum


# What all have in common.


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    @given(histogram=histograms(), exponent=st.integers(-60, 60))
    def test_thresholds_scale_with_the_values(self, method, histogram, exponent):
        scaled = histogram_of(histogram.counts, math.ldexp(histogram.width, exponent))
        assert find_threshold(scaled, method) == math.ldexp(find_threshold(histogram, method), exponent)

    @pytest.mark.parametrize("factor", [2, 1000])
    @pytest.mark.parametrize("slope", [2.0, 9.0, 30.0])
    def test_more_values_of_the_same_distribution_change_nothing(self, method, slope, factor):
        counts = np.random.default_rng(1).poisson(500 * np.exp(-slope * np.arange(1024) / 1024))
        counts[-1] = 1
        assert find_threshold(histogram_of(counts * factor), method) == find_threshold(histogram_of(counts), method)

    @given(histogram=histograms(), width=st.floats(2.0**-80, MOST_FLOAT32 / 512, width=32))
    @example(histogram=histogram_of([0] * 127 + [1]), width=MOST_FLOAT32 / 127)
    def test_a_threshold_is_a_positive_float32_within_reach(self, method, histogram, width):
        histogram = histogram_of(histogram.counts, width)
        found = find_threshold(histogram, method)
        assert 0 < found <= np.float32(min(width * histogram.bins, MOST_FLOAT32))
        assert found == np.float32(found)

    @given(histogram=histograms(), zeros=st.integers(0, 10**6))
    def test_zeros_can_be_left_out(self, method, histogram, zeros):
        counts = histogram.counts.copy()
        counts[0] += zeros
        with_zeros = histogram_of(counts, histogram.width, zeros)
        without = ThresholdOptions(ignore_zeros=True)
        assert find_threshold(with_zeros, method, without) == find_threshold(histogram, method)
        if method != "percentile":
            assert find_threshold(with_zeros, method) == find_threshold(histogram, method)
        assert int(with_zeros.counts[0]) == counts[0]

    @pytest.mark.parametrize("maximum", [0.0, 2.0**-101])
    def test_a_dead_blob(self, method, maximum):
        blob = BlobHistogram(np.eye(1, 128, dtype=np.int64)[0] * 9, maximum / 127, maximum, 9, 0, 0, 9)
        assert find_threshold(blob, method) == DEAD_THRESHOLD
        empty = replace(blob, counts=np.zeros(128, np.int64), samples=0, zeros=0, nans=3)
        assert find_threshold(empty, method, ThresholdOptions(ignore_zeros=True)) == DEAD_THRESHOLD

    def test_a_single_value(self, method):
        histogram = histogram_of([0] * 2047 + [1], 2.0**-5)
        assert 0.5 * histogram.maximum < find_threshold(histogram, method) <= 2048 * histogram.width


def test_the_first_method_is_the_default():
    histogram = histogram_of(np.random.default_rng(0).poisson(300 * np.exp(-np.arange(512) / 40)) + 1)
    assert next(iter(METHODS)) == "kl" and find_threshold(histogram) == find_threshold(histogram, "kl")
    assert all(name == method.name for name, method in METHODS.items())


def test_a_method_that_there_is_not():
    with pytest.raises(OptionError, match=r"'entropy'.*kl, kl-fine, mse, percentile, max"):
        find_threshold(histogram_of([1] * 128), "entropy")


@pytest.mark.parametrize("percent", [0, -1, 100.001, math.nan, math.inf])
def test_a_percentage_out_of_range(percent):
    with pytest.raises(OptionError, match="above 0 and at most 100"):
        ThresholdOptions(percent=percent)
