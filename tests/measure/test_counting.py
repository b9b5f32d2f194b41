"""The counting loop: compiled and numpy give the same counts, the small counters are emptied in time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.measure import counting

needs_compiled = pytest.mark.skipif(not counting.COMPILED, reason="the compiled module was not built: no compiler")


def both(monkeypatch):
    """A table that compiled code fills, and one that numpy fills."""
    compiled = counting.Table(64)
    monkeypatch.setattr(counting, "COMPILED", False)
    plain = counting.Table(64)
    monkeypatch.undo()
    return compiled, plain


@needs_compiled
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9000), st.floats(0, 1), st.integers(-100, 100))
def test_compiled_and_numpy_count_the_same(seed, size, share, exponent):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(size) * 2.0**exponent).astype(np.float32)
    x[rng.random(size) < share] = 0
    limit = float(np.abs(x).max(initial=2.0**-120))
    scale = 2.0 ** (5 - np.frexp(limit)[1])
    with pytest.MonkeyPatch.context() as monkeypatch:
        compiled, plain = both(monkeypatch)
        for table in (compiled, plain):
            monkeypatch.setattr(counting, "COMPILED", table is compiled)
            first = table.count_scaled(x, scale, limit)
            assert first == (x.size, counting.largest(x), int((x == 0).sum()))
            assert table.count_centred(x[::2].copy(), limit / 63, limit)[2] == int((x[::2] == 0).sum())
    assert np.array_equal(compiled.counts, plain.counts)
    assert compiled.counts.sum() == x.size + x[::2].size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -3.0])
def test_values_beyond_the_limit_are_not_counted(bad):
    table = counting.Table(16)
    x = np.array([0.5, bad, 1.0], np.float32)
    assert table.count_scaled(x, 4.0, 2.0) == (0, 0.0, 0)
    assert table.counts.sum() == 0


@needs_compiled
@pytest.mark.parametrize("bad", [np.nan, np.inf, -3.0])
def test_blocks_before_a_value_beyond_the_limit_are_counted_and_reported(bad):
    table = counting.Table(16)
    x = np.zeros(5000, np.float32)
    x[[7, 4500]] = 1.5, bad
    taken, peak, zeros = table.count_scaled(x, 4.0, 2.0)
    assert 8 <= taken <= 4500 and peak == 1.5 and zeros == taken - 1
    assert table.counts[0] == taken - 1 and table.counts[6] == 1


@needs_compiled
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("bins", "exponent"), [(128, 0), (2048, 3), (8192, -90), (2048, -130), (2048, 120), (204800, 1)]
)
def test_bins_are_those_of_the_formula_near_every_edge(bins, exponent, wide):
    """Values beside the edges, where a product instead of the formula's division would choose the wrong bin."""
    _counting = counting._counting
    if _counting.use_wide(wide) != wide:
        pytest.skip("this processor has no vectors of 512 bits")
    try:
        limit = float(np.float32(1.7 * 2.0**exponent))
        width = limit / (bins - 1)
        edges = ((np.arange(bins - 1) + 0.5) * width).astype(np.float32)
        near = [edges]
        for side in (0, np.inf):
            for _ in range(4):
                near.append(np.nextafter(near[-1], np.float32(side)))
            near.append(edges)
        x = np.minimum(np.concatenate(near), np.float32(limit))
        x[::3] *= -1
        x = np.insert(x, [5, 6, 100, 4000 % x.size], 0)
        table = counting.Table(bins)
        assert table.count_centred(x, width, limit)[0] == x.size
        expected = np.bincount((np.abs(x.astype(np.float64)) / width + 0.5).astype(np.int64), minlength=bins)
        assert np.array_equal(table.counts, expected)
    finally:
        _counting.use_wide(True)


@needs_compiled
def test_small_counters_are_emptied_before_they_overflow():
    table = counting.Table(16)
    table.count_scaled(np.full(1000, 0.5, np.float32), 4.0, 2.0)
    table._pending = 2_000_000_000 - 10  # as after so many values
    table.count_scaled(np.full(1000, 0.5, np.float32), 4.0, 2.0)
    assert table._counts[2] == 1000 and table._pending == 1000
    assert table.counts.tolist() == [0, 0, 2000] + [0] * 13


@needs_compiled
def test_a_limit_outside_the_table_is_refused():
    table = counting.Table(16)
    for step, limit in ((8.0, 2.0), (4.0, np.nan), (4.0, -1.0), (np.inf, 1.0)):
        with pytest.raises(ValueError, match="outside the table"):
            table.count_scaled(np.ones(3, np.float32), step, limit)
    with pytest.raises(TypeError, match="4 bytes"):
        table.count_scaled(np.ones(3), 1.0, 1.0)


@needs_compiled
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 100))
def test_the_largest_of_rows_is_the_same_in_numpy(seed, rows, size):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, size)) * 2.0 ** rng.integers(-140, 120)).astype(np.float32)
    x[rng.random(x.shape) < 0.01] = rng.choice([np.nan, np.inf, -np.inf])
    found = counting.largest_of_rows(x)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(counting, "COMPILED", False)
        np.testing.assert_array_equal(counting.largest_of_rows(x), found)
    np.testing.assert_array_equal(found, np.abs(x).max(axis=1))


@needs_compiled
def test_rows_of_different_length_are_refused():
    with pytest.raises(ValueError, match="as many values are expected in every row"):
        counting._counting.largest_of_rows(np.zeros(7, np.float32), np.zeros(2, np.float32))
