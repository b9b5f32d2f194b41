"""The integer contract, against its sentences in fractions and loops."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from contract_oracle import MOST, doublings, rnd, sat, shifts, thresholds, usual
from hypothesis import assume, example, given
from hypothesis import strategies as st

from calib8 import arithmetic
from calib8.errors import QuantizationError

singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
halves = st.integers(-(2**20), 2**20).map(lambda n: n / 2)
near_halves = st.builds(math.nextafter, halves, st.sampled_from([-math.inf, math.inf]))


# Values.


@given(st.one_of(halves, near_halves, st.floats(-(2.0**1000), 2.0**1000)))
@example(math.nextafter(0.5, 0))
@example(-0.5)
@example(2.0**52 + 1)
@example(-(2.0**52) - 1)
def test_round_half_up(value):
    assert arithmetic.round_half_up(value) == rnd(Fraction(value))


def test_rounding_leaves_what_is_not_finite():
    np.testing.assert_array_equal(
        arithmetic.round_half_up([math.inf, -math.inf, math.nan]), [math.inf, -math.inf, math.nan]
    )


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
def test_saturation_of_every_type(bits, dtype):
    saturate = {8: arithmetic.saturate_int8, 16: arithmetic.saturate_int16}[bits]
    kind = np.dtype(dtype)
    info = np.finfo(kind) if kind.kind == "f" else np.iinfo("u1" if kind.kind == "b" else kind)
    limits = [0, 1, 127, 128, -128, -129, 255, 32767, 32768, -32768, -32769, int(info.max), int(info.min)]
    values = np.array([v for v in limits if info.min <= v <= info.max and int(kind.type(v)) == v], kind)
    found = saturate(values.reshape(1, -1))
    assert found.dtype == f"i{bits // 8}" and found.shape == (1, values.size)
    assert found.ravel().tolist() == [sat(int(v), bits) for v in values]


def test_saturation_of_what_is_not_finite():
    assert arithmetic.saturate_int8([math.nan, math.inf, -math.inf]).tolist() == [0, 127, -128]
    assert arithmetic.saturate_int16(math.nan) == 0


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3), max_size=6))
def test_the_16_bit_accumulator_saturates_after_every_term(terms):
    expected = [0, 0, 0]
    for term in terms:
        expected = [sat(total + x, 16) for total, x in zip(expected, term, strict=True)]
    found = arithmetic.saturating_sum_int16([np.array(term) for term in terms])
    assert np.broadcast_to(found, 3).tolist() == expected


def test_the_order_of_saturating_terms_matters():
    assert arithmetic.saturating_sum_int16([30000, 30000, -30000]) == 2767
    assert arithmetic.saturating_sum_int16([30000, -30000, 30000]) == 30000


@given(st.lists(singles, max_size=4), thresholds)
def test_quantize(values, threshold):
    found = arithmetic.quantize(np.array(values, np.float32), np.float32(threshold))
    assert found.dtype == np.int8
    assert found.tolist() == [sat(rnd(Fraction(x) * 128 / Fraction(threshold))) for x in values]


@given(st.integers(-200, 200), st.integers(1, 2**15), st.integers(-60, 60))
def test_quantize_rounds_ties_up(code, mantissa, exponent):
    threshold = math.ldexp(mantissa, exponent)
    tie = math.ldexp((2 * code + 1) * mantissa, exponent - 8)
    assert np.float32(tie) == tie
    above = np.nextafter(np.float32(tie), np.float32(math.inf))
    below = np.nextafter(np.float32(tie), np.float32(-math.inf))
    assert arithmetic.quantize([below, tie, above], threshold).tolist() == [sat(code), sat(code + 1), sat(code + 1)]


def test_quantize_what_is_not_finite_and_what_overflows():
    values = np.array([math.nan, math.inf, -math.inf, 1e308, -1e308])
    for threshold in (2.0**-149, 1.0, float(np.finfo(np.float32).max)):
        assert arithmetic.quantize(values, threshold).tolist() == [0, 127, -128, 127, -128]
    signalling = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert arithmetic.quantize(signalling, 1.0).tolist() == [0, 0]


@given(st.lists(st.integers(-128, 127), max_size=4), thresholds)
def test_dequantize(codes, threshold):
    found = arithmetic.dequantize(np.array(codes, np.int8), threshold)
    assert found.dtype == np.float32
    assert found.tolist() == [np.float32(float(Fraction(q) * Fraction(threshold) / 128)) for q in codes]


@given(st.floats(2.0**-120, 2.0**120, width=32))
def test_codes_survive_the_way_to_real_values_and_back(threshold):
    codes = np.arange(-128, 128, dtype=np.int8)
    np.testing.assert_array_equal(arithmetic.quantize(arithmetic.dequantize(codes, threshold), threshold), codes)


@given(st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4"]), st.data(), shifts)
def test_requantize(dtype, data, rshift):
    info = np.iinfo(dtype)
    near_ties = st.builds(lambda k, d: (2 * k + 1) * 2**rshift // 2 + d, st.integers(-130, 130), st.integers(-1, 1))
    numbers = st.one_of(
        st.integers(int(info.min), int(info.max)), near_ties.filter(lambda n: info.min <= n <= info.max)
    )
    values = data.draw(st.lists(numbers, min_size=1, max_size=5))
    found = arithmetic.requantize(np.array(values, dtype), rshift)
    assert found.dtype == np.int8
    assert found.tolist() == [sat(rnd(Fraction(v, 2**rshift))) for v in values]


@pytest.mark.parametrize("accumulator", [np.float32([1]), np.array([2**63], np.uint64), np.array([True])])
def test_requantize_refuses_what_is_no_accumulator(accumulator):
    with pytest.raises(QuantizationError, match=f"holds integers.*{accumulator.dtype}"):
        arithmetic.requantize(accumulator, 1)


@pytest.mark.parametrize("rshift", [-1, MOST + 1])
def test_requantize_refuses_shifts_that_there_are_not(rshift):
    with pytest.raises(QuantizationError, match=str(rshift)):
        arithmetic.requantize(np.int32(1), rshift)


# Weights.


@given(singles, thresholds, thresholds)
@example(64.0, 1.0, 1.0)
@example(float(np.nextafter(np.float32(64), np.float32(0))), 1.0, 1.0)
@example(float(np.nextafter(np.float32(128), np.float32(0))), 1.0, 1.0)
@example(128.0, 1.0, 1.0)
@example(0.0, 1.0, 1.0)
@example(2.0**-149, 2.0**-149, float(np.finfo(np.float32).max))
def test_weight_rshift(weight, tx, ty):
    start = abs(Fraction(weight)) * Fraction(tx) / Fraction(ty)
    if start >= 128:
        with pytest.raises(QuantizationError, match="128 or more"):
            arithmetic.weight_rshift(weight, tx, ty)
    else:
        assert arithmetic.weight_rshift(weight, tx, ty) == doublings(start)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(weight):
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        arithmetic.weight_rshift(weight, 1, 1)
    with pytest.raises(QuantizationError, match="1 weight value"):
        arithmetic.quantize_weight([0.5, weight], 1, 1, 0)
    with pytest.raises(QuantizationError, match="1 bias value"):
        arithmetic.quantize_bias([0.5, weight], 1, 0)


@given(st.lists(singles, max_size=4), thresholds, thresholds, shifts)
def test_quantize_weight(weights, tx, ty, rshift):
    found = arithmetic.quantize_weight(np.array(weights, np.float32), tx, ty, rshift)
    ratio = Fraction(tx) / Fraction(ty)
    assert found.dtype == np.int8
    assert found.tolist() == [sat(rnd(Fraction(w) * ratio * 2**rshift)) for w in weights]


@given(st.integers(-300, 299), st.integers(1, 99), st.integers(1, 99), shifts)
@example(3, 1, 49, 0)  # 171.5 * (1/49) in float64 is below 3.5
def test_weights_on_ties_round_up(code, tx, ty, rshift):
    """W * tx/ty * 2^rs is a tie although tx/ty is no binary number."""
    weight = Fraction((2 * code + 1) * ty, 2 * tx * 2**rshift)
    assume(float(np.float32(float(weight))) == weight)
    assert arithmetic.quantize_weight(np.float32(float(weight)), tx, ty, rshift) == sat(code + 1)


def test_weights_keep_their_shape_beyond_one_block():
    weights = np.random.default_rng(0).standard_normal((70, 50, 5, 7)).astype(np.float32).transpose(3, 1, 0, 2)
    found = arithmetic.quantize_weight(weights, 3.0, 7.0, 6)
    assert weights.size > 1 << 16 and found.shape == weights.shape
    np.testing.assert_array_equal(found, np.clip(np.floor(weights.astype(float) * 3 * 64 / 7 + 0.5), -128, 127))


@given(st.floats(2.0**-40, 2.0**6, width=32), st.lists(st.floats(-1, 1, width=32), max_size=5), usual, usual)
def test_a_layers_largest_weight_uses_the_codes_and_dead_layers_stay_dead(largest, others, tx, ty):
    weights = np.float32([largest, *(largest * x for x in others)])
    assume(float(weights[0]) * tx / ty < 128)
    rshift = arithmetic.weight_rshift(float(np.abs(weights).max()), tx, ty)
    codes = arithmetic.quantize_weight(weights, tx, ty, rshift)
    assert np.abs(codes.astype(int)).max() >= 64 or rshift == MOST
    dead = arithmetic.weight_rshift(0.0, tx, ty)
    assert dead == 0 and not arithmetic.quantize_weight(0 * weights, tx, ty, dead).any()


@given(st.lists(singles, max_size=5), thresholds, shifts)
def test_quantize_bias(bias, ty, rshift):
    found = arithmetic.quantize_bias(np.array(bias, np.float32), ty, rshift)
    exact = [rnd(Fraction(b) * 128 / Fraction(ty) * 2**rshift) for b in bias]
    assert found.values.dtype == np.int16
    assert found.values.tolist() == [sat(b, 16) for b in exact]
    assert found.saturated == tuple(c for c, b in enumerate(exact) if not -32768 <= b <= 32767)


def test_the_bias_does_not_limit_the_shift():
    found = arithmetic.quantize_bias([0.0, 1e6, -0.5, -1e6], 1.0, 9)
    assert found.values.tolist() == [0, 32767, -32768, -32768] and found.saturated == (1, 3)


# BatchNorm.

moderate = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(moderate, st.floats(0, 100, width=32), moderate, moderate), min_size=1, max_size=4))
def test_batch_norm_is_one_affine_step(channels):
    eps = 1e-5
    found = arithmetic.batch_norm_affine(*np.float32(channels).T[:2], eps, *np.float32(channels).T[2:])
    for s, b, (mean, variance, gamma, beta) in zip(*found, channels, strict=True):
        scale = gamma / math.sqrt(variance + eps)
        assert s == pytest.approx(scale, rel=1e-14)
        assert b == pytest.approx(beta - mean * scale, rel=1e-14, abs=1e-14 * abs(mean * scale))
        for x in (-2.0, 0.5):
            normal = gamma * (x - mean) / math.sqrt(variance + eps) + beta
            assert s * x + b == pytest.approx(normal, rel=1e-12, abs=1e-12 * (1 + abs(mean * scale) + abs(beta)))


def test_a_batch_norm_alone_has_gamma_1_and_beta_0():
    scale, shift = arithmetic.batch_norm_affine([1.0, 2.0], [4.0, 0.25], 0.0)
    assert scale.tolist() == [0.5, 2.0] and shift.tolist() == [-0.5, -4.0]


def test_channels_without_a_finite_step_are_named():
    variance = np.ones(20)
    variance[[3, 7]] = 0, -1
    with pytest.raises(QuantizationError, match=r"channels 3, 7$"):
        arithmetic.batch_norm_affine(np.zeros(20), variance, 0.0)
    with pytest.raises(QuantizationError, match="channels 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"):
        arithmetic.batch_norm_affine(np.full(20, math.nan), variance, 1.0)
    with pytest.raises(QuantizationError, match=r"channel 0$"):
        arithmetic.batch_norm_affine([0.0, 1.0], [1.0, 1.0], 0.0, beta=[math.inf, 0.0])


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=8))
def test_dead_channels(variance):
    limit = Fraction(sum(variance), len(variance)) / 256
    assert arithmetic.dead_channels(np.array(variance, np.float32)).tolist() == [v < limit for v in variance]


def test_a_variance_at_the_limit_is_not_dead():
    assert arithmetic.dead_channels([1.0, 511.0]).tolist() == [False, False]
    assert arithmetic.dead_channels([1.0, 512.0]).tolist() == [True, False]
    assert not arithmetic.dead_channels([0.0, 0.0]).any()


# What is no threshold.

WRONG = [0.0, -1.0, math.nan, math.inf, -math.inf, 2.0**-150, 2.0**128]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "call",
    [
        lambda t: arithmetic.quantize(1.0, t),
        lambda t: arithmetic.dequantize(1, t),
        lambda t: arithmetic.weight_rshift(1.0, t, 1.0),
        lambda t: arithmetic.weight_rshift(1.0, 1.0, t),
        lambda t: arithmetic.quantize_weight(1.0, t, 1.0, 0),
        lambda t: arithmetic.quantize_weight(1.0, 1.0, t, 0),
        lambda t: arithmetic.quantize_bias(1.0, t, 0),
        lambda t: arithmetic.pooling_multiplier(t, 1.0),
        lambda t: arithmetic.pooling_multiplier(1.0, t),
        lambda t: arithmetic.eltwise_multipliers([1.0, t], 1.0),
        lambda t: arithmetic.eltwise_multipliers([1.0], t),
        lambda t: arithmetic.eltwise_product_multiplier([1.0, t], 1.0),
        lambda t: arithmetic.eltwise_product_multiplier([1.0], t),
        lambda t: arithmetic.prelu_constants([0.5], t, 1.0),
        lambda t: arithmetic.prelu_constants([0.5], 1.0, t),
    ],
)
def test_every_function_refuses_what_is_no_threshold(call, wrong):
    with pytest.raises(QuantizationError, match="positive finite float32"):
        call(wrong)
