"""The integer contract's multipliers and shifts, against its sentences in fractions and loops."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from contract_oracle import MOST, doublings, largest_shift, rnd, sat, shifts, thresholds, usual
from hypothesis import assume, example, given
from hypothesis import strategies as st

from calib8 import arithmetic
from calib8.errors import QuantizationError

doubles = st.floats(allow_nan=False, allow_infinity=False)


@given(thresholds, thresholds)
@example(255.49998, 1.0)
@example(255.5, 1.0)
@example(255.75, 256.0)
@example(1.0, 1.0)
@example(2.0**-149, float(np.finfo(np.float32).max))
def test_pooling_multiplier(tx, ty):
    ratio = Fraction(tx) / Fraction(ty)
    rshift = largest_shift(ratio, 0, 255)
    if rshift is None:
        with pytest.raises(QuantizationError, match="does not fit 8 bits"):
            arithmetic.pooling_multiplier(tx, ty)
    else:
        assert arithmetic.pooling_multiplier(tx, ty) == (rnd(ratio * 2**rshift), rshift)


@pytest.mark.parametrize(("ratio", "row"), [(0.625, (160, 8)), (0.9, (230, 8)), (5.006, (160, 5)), (1.0, (128, 7))])
def test_pooling_rows_of_the_original(ratio, row):
    assert arithmetic.pooling_multiplier(ratio, 1.0) == row


@given(usual, usual)
def test_the_public_rule_of_poolings_differs_where_it_ends_at_256_only(tx, ty):
    ratio = Fraction(tx) / Fraction(ty)
    assume(Fraction(1, 2**20) < ratio < 128)
    factor, rshift = 1, 0
    while 2 * factor < 256 / ratio:
        factor, rshift = 2 * factor, rshift + 1
    public = rnd(ratio * factor), rshift
    assert arithmetic.pooling_multiplier(tx, ty) == ((128, rshift - 1) if public[0] == 256 else public)


@given(st.integers(1, 10**6), st.integers(0, 255), shifts)
def test_average_pooling_constants(elements, mult, rshift):
    m = max(m for m in range(40) if 2**m < 256 * elements)
    c, r = 2**m // elements * mult, m + rshift
    while c > 255 or r > MOST:
        c, r = c // 2, r - 1
    assert arithmetic.average_pooling_constants(elements, mult, rshift) == (c, r)
    assert 0 <= c <= 255 and 0 <= r <= MOST


@given(st.integers(1, 2**10), st.floats(0.0625, 20, width=32))
def test_an_average_is_close_to_the_mean(elements, tx):
    mult, rshift = arithmetic.pooling_multiplier(tx, 1.0)
    c, r = arithmetic.average_pooling_constants(elements, mult, rshift)
    assert c / 2**r == pytest.approx(tx / elements, rel=0.03)


def test_a_window_without_elements():
    with pytest.raises(QuantizationError, match="0 elements"):
        arithmetic.average_pooling_constants(0, 128, 7)


@given(st.lists(thresholds, min_size=1, max_size=4), thresholds)
@example([128.0], 1.0)
@example([127.99999, 1.0], 1.0)
def test_eltwise_multipliers(txs, ty):
    ratios = [Fraction(tx) / Fraction(ty) for tx in txs]
    if max(ratios) >= 128:
        with pytest.raises(QuantizationError, match="largest bottom"):
            arithmetic.eltwise_multipliers(txs, ty)
    else:
        rshift = doublings(max(ratios))
        assert arithmetic.eltwise_multipliers(txs, ty) == (tuple(int(r * 2**rshift) for r in ratios), rshift)


def test_eltwise_truncates_as_the_original_does():
    assert arithmetic.eltwise_multipliers([116.88, 58.49], 1.0) == ((116, 58), 0)
    assert arithmetic.eltwise_multipliers([0.9, 0.45], 1.0) == ((115, 57), 7)


@given(st.lists(usual, min_size=1, max_size=4), usual)
@example([128.0, 128.0], 1.0)
@example([3.0, 5.0], 7.0)
def test_eltwise_product_multiplier(txs, ty):
    factor = math.prod((Fraction(tx) / 128 for tx in txs), start=Fraction(128)) / Fraction(ty)
    # float64 holds the product of two bottoms exactly; further ones may move it over an integer next to it.
    margin = Fraction(0 if len(txs) < 3 else 1, 2**48)
    allowed = []
    for near in (factor * (1 - margin), factor * (1 + margin)):
        allowed.append(None if near >= 128 else (int(near * 2 ** doublings(near)), doublings(near)))
    assert product_multiplier(txs, ty) in allowed


def product_multiplier(txs, ty):
    try:
        return arithmetic.eltwise_product_multiplier(txs, ty)
    except QuantizationError:
        return None


@given(st.one_of(st.floats(-200, 200), st.floats(-(2.0**-20), 2.0**-20), doubles))
@example(1.0)
@example(-1.0)
@example(127.5)
@example(-128.5)
@example(5e-324)
def test_leaky_relu_constants(ratio):
    exact = Fraction(ratio)
    rshift = largest_shift(exact, -128, 127)
    if ratio == 0:
        assert arithmetic.leaky_relu_constants(ratio) == (0, 0)
    elif rshift is None:
        with pytest.raises(QuantizationError, match="does not fit int8"):
            arithmetic.leaky_relu_constants(ratio)
    else:
        assert arithmetic.leaky_relu_constants(ratio) == (rnd(exact * 2**rshift), rshift)


@pytest.mark.parametrize(("ratio", "row"), [(1.0, (64, 6)), (0.1, (102, 10)), (-0.1, (-102, 10)), (-1.0, (-128, 7))])
def test_leaky_relu_rows(ratio, row):
    assert arithmetic.leaky_relu_constants(ratio) == row


@pytest.mark.parametrize("ratio", [math.nan, math.inf, -math.inf])
def test_a_slope_that_is_not_finite(ratio):
    with pytest.raises(QuantizationError, match="slope"):
        arithmetic.leaky_relu_constants(ratio)


@given(st.lists(st.floats(-4, 4, width=32), max_size=4), usual, usual)
@example([0.0, 0.0], 1.0, 1.0)
@example([0.25], 127.75, 1.0)
def test_prelu_constants(slopes, tx, ty):
    ratio = Fraction(tx) / Fraction(ty)
    steepest = max((abs(Fraction(s)) for s in slopes), default=0)
    if ratio * max(1, steepest) >= 128:
        with pytest.raises(QuantizationError, match="128 or more"):
            arithmetic.prelu_constants(np.float32(slopes), tx, ty)
        return
    found = arithmetic.prelu_constants(np.float32(slopes), tx, ty)
    gt_rshift, le_rshift = doublings(ratio), doublings(ratio * steepest)
    assert (found.gt_scale, found.gt_rshift) == (sat(rnd(ratio * 2**gt_rshift)), gt_rshift)
    assert found.le_rshift == le_rshift and found.slopes.dtype == np.int8
    assert found.slopes.tolist() == [sat(rnd(Fraction(s) * ratio * 2**le_rshift)) for s in slopes]


# Functions of one code.


@given(st.floats(-4, 4), usual, usual)
def test_elu_codes(alpha, tx, ty):
    """Rounded half up from 0 on, cut off towards 0 below; exp may be taken in float32."""
    found = arithmetic.elu_codes(alpha, tx, ty)
    assert found.dtype == np.int8
    for code, result in zip(range(-128, 128), found.tolist(), strict=True):
        if code >= 0:
            assert result == sat(rnd(code * Fraction(tx) / Fraction(ty)))
        else:
            real = alpha * math.expm1(code * tx / 128) * 128 / ty
            assert result in {sat(math.trunc(real * (1 + d))) for d in (-(2.0**-23), 0, 2.0**-23)}
