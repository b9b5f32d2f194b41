"""Counting |x|: the formula in a loop, compiled and in numpy; what does not matter: order, batches."""

from __future__ import annotations

import math
import threading
import tracemalloc
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.errors import OptionError
from calib8.measure import counting
from calib8.measure.histogram import (
    DEAD_BELOW,
    MAX_BINS,
    AbsMax,
    AdaptiveHistogram,
    BlobHistogram,
    Histogram,
    check_bins,
)

MOST_FLOAT32 = float(np.finfo(np.float32).max)
LEAST_FLOAT32 = 2.0**-149


@pytest.fixture(scope="module", autouse=True, params=["compiled", "numpy"])
def counted_by(request):
    if request.param == "compiled" and not counting.COMPILED:
        pytest.skip("installed without the compiled module")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "COMPILED", request.param == "compiled")
        yield request.param


@st.composite
def blobs(draw, finite=False, least=0.0):
    """A few hundred float32 values: of a distribution, of a few levels, or any at all; often with zeros."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 400))
    kind = draw(st.sampled_from(["normal", "exponential", "levels", "any"]))
    if kind == "any":
        anything = st.floats(width=32, allow_nan=not finite, allow_infinity=not finite)
        values = np.array(draw(st.lists(anything, min_size=1, max_size=30)), np.float32)
    elif kind == "levels":
        values = np.float32(draw(st.integers(1, 255))) * random.integers(-9, 9, size).astype(np.float32)
    else:
        values = getattr(random, f"standard_{kind}")(size).astype(np.float32)
        values = np.ldexp(values, draw(st.integers(-90, 90)))
    if draw(st.booleans()):
        values[random.random(values.size) < draw(st.sampled_from([0.1, 0.5, 0.9]))] = 0
    values[random.random(values.size) < draw(st.sampled_from([0, 0.2]))] = np.float32(-0.0)
    if least:
        values = np.append(values, np.float32(least))
    return values


bin_numbers = st.sampled_from([128, 256, 2048])


def finite_sizes(values):
    return [abs(float(x)) for x in values if math.isfinite(x)]


def naive(values, bins):
    """The contract's sentence in float64; zeros, NaN and infinities beside it."""
    sizes = finite_sizes(values)
    maximum = max(sizes, default=0.0)
    width = maximum / (bins - 1)
    counts = [0] * bins
    for size in sizes:
        counts[math.floor(size / width + 0.5) if maximum else 0] += 1
    nans = sum(math.isnan(x) for x in values)
    return counts, width, maximum, sizes.count(0.0), nans, len(values) - len(sizes) - nans, len(sizes), 0, True


def plain(histogram):
    return [x.tolist() if isinstance(x, np.ndarray) else x for x in astuple(histogram)]


def maximum_of(values):
    largest = AbsMax()
    largest.add(values)
    return largest.maximum


def two_passes(values, bins):
    histogram = Histogram(maximum_of(values), bins)
    histogram.add(values)
    return histogram


def one_pass(values, bins):
    histogram = AdaptiveHistogram(bins)
    histogram.add(values)
    return histogram


# Two passes: the formula exactly.


@given(blobs(), bin_numbers)
def test_two_passes_are_the_formula(values, bins):
    assert plain(two_passes(values, bins).result()) == list(naive(values, bins))


@pytest.mark.parametrize("maximum", [MOST_FLOAT32, 1.0, 2.0**-126, 2.0**-130, 100 * LEAST_FLOAT32, LEAST_FLOAT32])
def test_two_passes_over_the_whole_range_of_float32(maximum):
    values = np.float32(maximum) * np.linspace(-1, 1, 4097).astype(np.float32)
    assert plain(two_passes(values, 2048).result()) == list(naive(values, 2048))


def test_two_passes_over_many_blocks_and_bins():
    values = np.random.default_rng(5).standard_normal(300_001).astype(np.float32)
    values[::2] = 0
    found = two_passes(values, 204_800).result()
    width = found.maximum / 204_799
    places = np.floor(np.abs(values.astype(np.float64)) / width + 0.5).astype(int)
    np.testing.assert_array_equal(found.counts, np.bincount(places, minlength=204_800))
    assert found.zeros == 150_001 and found.width == width


def test_many_values_in_one_bin():
    values = np.full(400_000, -3, np.float32)
    for histogram in (two_passes(values, 128), one_pass(values, 128)):
        for _ in range(3):
            histogram.add(values)
        assert histogram.result().counts.tolist() == [0] * 127 + [1_600_000]


@pytest.mark.parametrize("maximum", [0.0, 1.0])
def test_data_that_change_between_the_passes(maximum):
    histogram = Histogram(maximum, 128)
    histogram.add(np.float32([0, 0.5 * maximum, -2, math.nan, 3]))
    found = histogram.result()
    assert (found.maximum, found.zeros, found.samples, found.nans, found.beyond) == (
        maximum,
        2 - (maximum > 0),
        4,
        1,
        2,
    )
    assert found.counts[-1] == 2 and found.counts.sum() == 4


# One pass: its bound.


def check_bound(histogram, values, bins):
    found, exact = histogram.result(), naive(values, bins)
    assert plain(found)[1:-1] == list(exact[1:-1]) and not found.exact
    assert found.counts.min() >= 0 and found.counts.sum() == found.samples
    # An edge at the border of two fine bins may be found in either, for it is computed in float64.
    sizes, fine = np.sort(np.abs(values[values != 0]).astype(np.float64)), histogram.fine_width
    edges = (np.arange(bins - 1) + 0.5) * found.width / fine
    first, behind = np.floor(edges - 1e-9) * fine, np.floor(edges + 1e-9) * fine + fine
    held = np.searchsorted(sizes, behind) - np.searchsorted(sizes, first)
    assert np.all(np.abs(np.cumsum(found.counts) - np.cumsum(exact[0]))[:-1] <= held)
    moves = np.repeat(np.arange(bins), found.counts) - np.repeat(np.arange(bins), exact[0])
    assert np.abs(moves).max() <= (1 if bins <= MAX_BINS // 2 else 2)


@given(blobs(finite=True, least=DEAD_BELOW), st.sampled_from([128, 256, 2048]))
def test_one_pass_is_within_its_bound(values, bins):
    check_bound(one_pass(values, bins), values, bins)


@pytest.mark.parametrize("bins", [65_536, MAX_BINS // 2, MAX_BINS])
def test_one_pass_is_within_its_bound_for_many_bins(bins):
    values = np.random.default_rng(7).standard_exponential(30_000).astype(np.float32)
    check_bound(one_pass(values, bins), values, bins)


@given(blobs(finite=True, least=DEAD_BELOW))
def test_fine_bins_are_a_quarter_of_a_bin_at_most(values):
    histogram = one_pass(values, 2048)
    assert 0 < histogram.fine_width <= histogram.result().width / 4 * (1 + 2.0**-20)


@pytest.mark.parametrize("scale", [1.0, 0.37, 2.0**-40])
def test_one_pass_does_not_divide_levels(scale):
    values = np.random.default_rng(1).integers(0, 256, 5000).astype(np.float32) * np.float32(scale)
    found, exact = one_pass(values, 2048).result().counts, np.array(naive(values, 2048)[0])
    assert found[found > 0].tolist() == exact[exact > 0].tolist()


def test_values_below_what_counts_as_dead():
    values = np.float32([LEAST_FLOAT32, -DEAD_BELOW / 2, 0, 3 * LEAST_FLOAT32])
    found = one_pass(values, 128).result()
    assert (
        found.dead and found.maximum == DEAD_BELOW / 2 and found.samples == found.counts.sum() == 4 and found.zeros == 1
    )


# What does not matter.


@st.composite
def parts(draw):
    """A blob, and the same values in another order, cut into parts, some of them empty."""
    values = draw(blobs())
    order = np.random.default_rng(draw(st.integers(0, 2**32))).permutation(values.size)
    cuts = draw(st.lists(st.integers(0, values.size), max_size=6))
    return values, np.split(values[order], sorted(cuts))


@given(parts(), bin_numbers)
def test_order_and_batches_do_not_matter(values_and_parts, bins):
    values, pieces = values_and_parts
    exact, adaptive = Histogram(maximum_of(values), bins), AdaptiveHistogram(bins)
    for piece in pieces:
        exact.add(piece)
        adaptive.add(piece)
    assert plain(exact.result()) == plain(two_passes(values, bins).result())
    assert plain(adaptive.result()) == plain(one_pass(values, bins).result())


@given(blobs())
def test_a_look_at_the_result_changes_nothing(values):
    for histogram in (two_passes(values, 128), one_pass(values, 128)):
        first = plain(histogram.result())
        assert plain(histogram.result()) == first
        histogram.add(values)
        assert histogram.result().samples == 2 * first[6]


@pytest.mark.parametrize("count", [lambda x: one_pass(x, 128), lambda x: two_passes(x, 128)])
def test_shape_layout_and_type_do_not_matter(count):
    values = np.random.default_rng(2).standard_normal((4, 6, 10, 8)).astype(np.float32)
    expected = plain(count(values.ravel()).result())
    for same in (
        values,
        np.asfortranarray(values),
        values[::-1, :, ::-1],
        values.astype(np.float64),
        values.astype(">f4"),
    ):
        assert plain(count(same).result()) == expected
    assert plain(count(values[:, ::2, 1:, 3]).result()) == plain(count(values[:, ::2, 1:, 3].copy().ravel()).result())
    assert count(np.float32(-2)).result().maximum == 2
    frozen = values.copy()
    frozen.flags.writeable = False
    assert plain(count(frozen).result()) == expected


@pytest.mark.parametrize("values", [[], [math.nan] * 3, [math.inf, -math.inf, math.nan]])
def test_without_a_finite_value(values):
    values = np.float32(values)
    for found in (two_passes(values, 128).result(), one_pass(values, 128).result()):
        assert plain(found)[:-1] == list(naive(values, 128))[:-1] and found.dead


def test_threads_do_not_disturb_each_other():
    values = [np.random.default_rng(i).standard_normal(200_000).astype(np.float32) for i in range(4)]
    histograms = [AdaptiveHistogram() for _ in values]
    work = [threading.Thread(target=h.add, args=(x,)) for h, x in zip(histograms, values, strict=True)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert [plain(h.result()) for h in histograms] == [plain(one_pass(x, 2048).result()) for x in values]


def test_memory_does_not_grow():
    values = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
    histograms = [AdaptiveHistogram(), Histogram(10.0), AbsMax()]
    tracemalloc.start()
    try:
        for histogram in histograms:
            histogram.add(values)
        kept = tracemalloc.get_traced_memory()[0]
        for factor in range(1, 9):
            np.multiply(values, np.float32(1 + factor / 8), out=values)
            histograms[0].add(values)
        assert tracemalloc.get_traced_memory()[0] < kept + (1 << 16)
        assert tracemalloc.get_traced_memory()[1] < values.nbytes / 2
    finally:
        tracemalloc.stop()


# The value itself.


def test_zeros_can_be_taken_out():
    found = two_passes(np.float32([0, -0.0, 1e-9, 1, -1]), 128).result()
    without = found.without_zeros()
    assert (found.counts[0], found.samples, found.zeros) == (3, 5, 2)
    assert (without.counts[0], without.samples, without.zeros) == (1, 3, 0)
    assert without.counts[1:].tolist() == found.counts[1:].tolist() and without.bins == found.bins == 128
    with pytest.raises(ValueError, match="read-only"):
        found.counts[0] = 1


@given(blobs(finite=True, least=DEAD_BELOW), st.floats(0, 2))
def test_what_a_threshold_clips(values, part):
    found = two_passes(values, 128).result()
    threshold = part * found.maximum
    places = threshold / found.width * np.array([1, 1 + 2.0**-21])  # a centre as near as rounding need not be above
    least, most = (sum(h for j, h in enumerate(found.counts.tolist()) if j > p) / found.samples for p in places[::-1])
    assert least <= found.beyond_threshold(threshold) <= most


@given(blobs(finite=True, least=DEAD_BELOW))
def test_the_largest_value_as_a_threshold_clips_nothing(values):
    found = two_passes(values, 128).result()
    assert found.beyond_threshold(float(np.float32(found.maximum))) == 0


@pytest.mark.parametrize("bins", [-128, 0, 64, 127, 2047, 2049, MAX_BINS + 128])
def test_numbers_of_bins_that_are_refused(bins):
    for make in (check_bins, AdaptiveHistogram, lambda n: Histogram(1.0, n)):
        with pytest.raises(OptionError, match=f"is {bins}; it must be a multiple of 128"):
            make(bins)


@pytest.mark.parametrize("bins", [128, 2048, 204_800, MAX_BINS])
def test_numbers_of_bins_that_are_possible(bins):
    assert check_bins(bins) == AdaptiveHistogram(bins).result().bins == Histogram(1.0, bins).result().bins == bins


def test_an_empty_blob_is_dead():
    assert BlobHistogram(np.zeros(128, np.int64), 0.0, 0.0, 0, 0, 0, 0).dead
