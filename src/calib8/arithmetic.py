"""The integer contract: every rounding, saturation, shift and multiplier of an INT8 network; its only home.

Notation: `tx`, `ty` = threshold of a bottom and of the top (real units, > 0); `rs` = right shift;
`sat8`, `sat16` = clamp to [-128, 127] and [-32768, 32767]; `rnd(v) = floor(v + 0.5)`.

- values:       `round_half_up`, `saturate_int8`, `saturate_int16`, `saturating_sum_int16`, `quantize`,
                `dequantize`
- accumulators: `requantize`
- weights:      `weight_rshift`, `quantize_weight`, `quantize_bias`, `batch_norm_affine`, `dead_channels`
- constants:    `pooling_multiplier`, `average_pooling_constants`, `eltwise_multipliers`,
                `eltwise_product_multiplier`, `leaky_relu_constants`, `prelu_constants`
- functions:    `elu_codes`

Everything is evaluated in float64, multiplications before the division, so that values and thresholds that are
float32 numbers give the formulas' integers exactly: a quotient that is no tie is further from one than float64
rounds. (PROD of three bottoms and more, BatchNorm's factors and ELU are the exceptions.) Thresholds are float32 in the
calibration table: hand in the float32 values, so that a table that is read back gives the same integers. (On the real
LeNet of the original tool float32 and float64 arithmetic give the same 430,500 weights and 580 biases.)

Functions over arrays take anything that numpy takes, scalars included, and return arrays (0-d for a scalar).
All raise `QuantizationError` for thresholds or values outside the contract; the caller adds the layer's name.

What the contract leaves open, decided here:

- A right shift is at most `MAX_RSHIFT` = 31. Where doubling would go on (values 2^25 times too small), it
  stops there: a 32-bit accumulator shifted by 31 is -1, 0 or 1 in any case, so nothing is lost.
- NaN quantises to 0, infinities saturate.
- A pooling multiplier that would round to 256 takes one shift less.
- PROD truncates its multiplier as SUM does.
- The PReLU's positive side takes its shift by the rule of weights, as its slopes do.
- ELU, which the chip's CPU computes, rounds half up for positive values and towards zero for negative ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib8.errors import QuantizationError

MAX_RSHIFT = 31
INT8_LEVELS = 128
"""Steps between 0 and a threshold: a code is worth threshold / 128."""

_BLOCK = 1 << 16
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
_LARGEST = float(np.finfo(np.float32).max)


def round_half_up(values: ArrayLike) -> NDArray[np.float64]:
    """Round `rnd(v) = floor(v + 0.5)`: to the nearest integer, ties towards +infinity (-2.5 becomes -2).

    Evaluated as `ceil(floor(2v) / 2)`, which is exact up to 2^1023 in size: in `v + 0.5` the largest number below 0.5
    and odd numbers from 2^52 on would round up.
    """
    halves = np.floor(np.asarray(values, dtype=np.float64) * 2)
    return np.asarray(np.ceil(halves * 0.5))


def saturate_int8(values: ArrayLike) -> NDArray[np.int8]:
    """Clamp integral values `sat8(v)` to [-128, 127]; NaN becomes 0."""
    return _clamp(values, -128, 127).astype(np.int8)


def saturate_int16(values: ArrayLike) -> NDArray[np.int16]:
    """Clamp integral values `sat16(v)` to [-32768, 32767]; NaN becomes 0."""
    return _clamp(values, -32768, 32767).astype(np.int16)


def saturating_sum_int16(terms: Sequence[ArrayLike]) -> NDArray[np.int16]:
    """Add up in the chip's 16-bit accumulator: `acc = sat16(acc + term)`, term by term in the given order.

    The order matters once a partial sum saturates.
    """
    total = np.zeros((), dtype=np.int16)
    for term in terms:
        total = saturate_int16(total.astype(np.int64) + np.asarray(term))
    return total


def quantize(values: ArrayLike, threshold: float) -> NDArray[np.int8]:
    """Turn real values into codes: `q = sat8(rnd(x * 128 / threshold))`."""
    check_thresholds(threshold)
    source = np.asarray(values)
    codes = np.empty(source.shape, dtype=np.int8)
    flat, written = source.reshape(-1), codes.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):  # only float64 values overflow, and then they saturate
        for start in range(0, flat.size, _BLOCK):
            places = flat[start : start + _BLOCK].astype(np.float64)
            places *= INT8_LEVELS
            places /= float(threshold)
            written[start : start + _BLOCK] = saturate_int8(round_half_up(places))
    return codes


def dequantize(codes: ArrayLike, threshold: float) -> NDArray[np.float32]:
    """Turn codes into real values: `x = q * threshold / 128`."""
    check_thresholds(threshold)
    return np.asarray(np.asarray(codes, dtype=np.float64) * float(threshold) / INT8_LEVELS, dtype=np.float32)


def requantize(accumulator: ArrayLike, rshift: int) -> NDArray[np.int8]:
    """Shift a signed integer accumulator to a code, exactly and without overflow: `sat8(rnd(acc / 2^rs))`.

    In integers: `(acc >> rs) + bit (rs - 1) of acc`, since an arithmetic shift is a floor.

    Raises:
        QuantizationError: the accumulator is not integral or is uint64, or the shift is outside [0, 31].
    """
    acc = np.asarray(accumulator)
    if acc.dtype.kind not in "iu" or acc.dtype == np.uint64:
        raise QuantizationError(f"an accumulator holds integers of at most 64 bits with a sign, found {acc.dtype}")
    if not 0 <= rshift <= MAX_RSHIFT:
        raise QuantizationError(f"right shift {rshift} is outside [0, {MAX_RSHIFT}]")
    wide = acc.astype(np.int64)
    if rshift == 0:
        return saturate_int8(wide)
    return saturate_int8((wide >> rshift) + ((wide >> (rshift - 1)) & 1))


def weight_rshift(max_abs_weight: float, tx: float, ty: float) -> int:
    """Find the right shift of a Convolution, Deconvolution, InnerProduct, or of BatchNorm's and Scale's factors.

    `m = max|W| * tx/ty` is doubled until `m >= 64`: the number of doublings. 0 for a dead layer (`m == 0`).

    Raises:
        QuantizationError: `m >= 128` at the start (a negative shift), or a weight is NaN or infinite.
    """
    check_thresholds(tx, ty)
    if not math.isfinite(max_abs_weight):
        raise QuantizationError(f"the largest |weight| is {max_abs_weight}: a weight is NaN or infinite")
    magnitude = abs(float(max_abs_weight)) * float(tx) / float(ty)
    return _doublings_to_64(magnitude, f"max|W| {max_abs_weight:.6g} * bottom {tx:.6g} / top {ty:.6g}")


def quantize_weight(weights: ArrayLike, tx: float, ty: float, rshift: int) -> NDArray[np.int8]:
    """Quantise weights: `Wq = sat8(rnd(W * (tx/ty) * 2^rs))`, same shape; block by block, without a float64 copy.

    Raises:
        QuantizationError: a weight is NaN or infinite.
    """
    check_thresholds(tx, ty)
    source = np.asarray(weights)
    result = np.empty(source.shape, dtype=np.int8)
    flat_in, flat_out = source.reshape(-1), result.reshape(-1)
    for start in range(0, flat_in.size, _BLOCK):
        block = _finite(flat_in[start : start + _BLOCK], "weight")
        scaled = block * float(tx) * 2.0**rshift / float(ty)
        flat_out[start : start + _BLOCK] = saturate_int8(round_half_up(scaled))
    return result


@dataclass(frozen=True)
class QuantizedBias:
    """A layer's int16 biases and the channels whose bias did not fit and was clamped."""

    values: NDArray[np.int16]
    saturated: tuple[int, ...]


def quantize_bias(bias: ArrayLike, ty: float, rshift: int) -> QuantizedBias:
    """Quantise biases: `Bq = sat16(rnd(B * (128/ty) * 2^rs))`. They never limit the shift: what does not fit saturates.

    Raises:
        QuantizationError: a bias is NaN or infinite.
    """
    check_thresholds(ty)
    rounded = round_half_up(_finite(np.asarray(bias), "bias") * INT8_LEVELS * 2.0**rshift / float(ty))
    values = saturate_int16(rounded)
    return QuantizedBias(values, tuple(int(i) for i in np.flatnonzero(np.ravel(rounded != values))))


def batch_norm_affine(
    mean: ArrayLike, variance: ArrayLike, eps: float, gamma: ArrayLike = 1.0, beta: ArrayLike = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Write BatchNorm and its Scale as `y = s*x + b`: `s = gamma/sqrt(var + eps)`, `b = beta - mean*s`, shape (C,).

    They are then quantised as weight and bias of a 1x1 depthwise convolution. Mean and variance are the
    BatchNorm's blobs divided by its scale factor.

    Raises:
        QuantizationError: `var + eps` is not positive, or a parameter is NaN or infinite; names the channels.
    """
    spread = np.asarray(variance, dtype=np.float64) + eps
    with np.errstate(all="ignore"):
        scale = np.asarray(gamma, dtype=np.float64) / np.sqrt(spread)
        shift = np.asarray(beta, dtype=np.float64) - np.asarray(mean, dtype=np.float64) * scale
    bad = np.flatnonzero(np.ravel(~(np.isfinite(scale) & np.isfinite(shift))))
    if bad.size:
        raise QuantizationError(f"BatchNorm gives no finite scale and shift in {_some('channel', bad)}")
    return scale, shift


def dead_channels(variance: ArrayLike) -> NDArray[np.bool_]:
    """Find the channels that the original treats as dead (scale 0): `var < mean(var) / 256`, shape (C,)."""
    values = np.asarray(variance, dtype=np.float64)
    return np.asarray(values < values.mean() / 256)


def pooling_multiplier(tx: float, ty: float) -> tuple[int, int]:
    """Find (mult, rs) of a Pooling, or of one bottom of a Concat: the largest `rs` with `rnd(tx/ty * 2^rs) < 256`.

    `mult = rnd(tx/ty * 2^rs)`, unsigned 8 bits. The public rule doubles `d = 2^rs` while `2*d < 256*ty/tx`;
    just below a power of two it ends at `mult = 256`, where this takes 128 and one shift less.

    Raises:
        QuantizationError: the ratio does not fit 8 bits without a shift.
    """
    check_thresholds(tx, ty)
    ratio = float(tx) / float(ty)
    rshift = min(8 - math.frexp(ratio)[1], MAX_RSHIFT)
    if int(round_half_up(math.ldexp(ratio, rshift))) > 255:
        rshift -= 1
    if rshift < 0:
        raise QuantizationError(
            f"bottom threshold {tx:.6g} / top threshold {ty:.6g} = {ratio:.6g} does not fit 8 bits; "
            "raise the top's threshold, or keep this layer in FP32"
        )
    return int(round_half_up(math.ldexp(ratio, rshift))), rshift


def average_pooling_constants(kernel_elements: int, mult: int, rshift: int) -> tuple[int, int]:
    """Find (c, r) of an average pooling over k window elements: the result is `sat8(rnd(sum * c / 2^r))`.

    `m` = the largest with `2^m < 256*k`, `c = floor(2^m / k) * mult`, `r = m + rs`; then `c` is halved
    (floor) and `r` decremented while `c > 255`, or `r` is no shift that there is. `mult`, `rs` are those of
    `pooling_multiplier`.
    """
    if kernel_elements < 1:
        raise QuantizationError(f"a pooling window of {kernel_elements} elements")
    exponent = (256 * kernel_elements - 1).bit_length() - 1
    factor, shift = (1 << exponent) // kernel_elements * mult, exponent + rshift
    while factor > 255 or shift > MAX_RSHIFT:
        factor, shift = factor // 2, shift - 1
    return factor, shift


def eltwise_multipliers(txs: Sequence[float], ty: float) -> tuple[tuple[int, ...], int]:
    """Find (mult per bottom, rs) of an Eltwise SUM or MAX: `mult_i = trunc(tx_i/ty * 2^rs)`, one `rs` for all.

    `rs` doubles the largest `tx_i/ty` into [64, 128). The layer's coefficients are not in the multipliers.

    Raises:
        QuantizationError: the largest ratio is 128 or more.
    """
    check_thresholds(*txs, ty)
    ratios = [float(tx) / float(ty) for tx in txs]
    rshift = _doublings_to_64(max(ratios), f"largest bottom {max(txs):.6g} / top {ty:.6g}")
    return tuple(math.trunc(math.ldexp(ratio, rshift)) for ratio in ratios), rshift


def eltwise_product_multiplier(txs: Sequence[float], ty: float) -> tuple[int, int]:
    """Find (mult, rs) of an Eltwise PROD: `prod(tx_i/128) * 128/ty` doubled into [64, 128), truncated.

    The product of the codes times `mult` needs 64 bits from four bottoms on.

    Raises:
        QuantizationError: the factor is 128 or more.
    """
    check_thresholds(*txs, ty)
    factor = math.prod(float(tx) / INT8_LEVELS for tx in txs) * INT8_LEVELS / float(ty)
    rshift = _doublings_to_64(factor, f"product of the bottoms / 128 each * 128 / top {ty:.6g}")
    return math.trunc(math.ldexp(factor, rshift)), rshift


def leaky_relu_constants(ratio: float) -> tuple[int, int]:
    """Find (scale, rs) of one side of a leaky ReLU: the largest `scale = rnd(ratio * 2^rs)` that fits int8.

    `ratio` is `tx/ty` for the positive side and `slope * tx/ty` for the negative one. 1.0 gives (64, 6), 0.1
    gives (102, 10), 0 gives (0, 0).

    Raises:
        QuantizationError: the ratio itself does not fit int8.
    """
    if not math.isfinite(ratio):
        raise QuantizationError(f"a slope of {ratio}")
    if ratio == 0:
        return 0, 0
    rshift = min(8 - math.frexp(ratio)[1], MAX_RSHIFT)
    while not -128 <= (scale := int(round_half_up(math.ldexp(ratio, rshift)))) <= 127:
        rshift -= 1
    if rshift < 0:
        raise QuantizationError(
            f"slope * bottom threshold / top threshold = {ratio:.6g} does not fit int8; "
            "raise the top's threshold, or keep this layer in FP32"
        )
    return scale, rshift


@dataclass(frozen=True)
class PReluConstants:
    """Integers of a PReLU: `gt_scale / 2^gt_rshift` for x > 0, `slopes[c] / 2^le_rshift` for x <= 0."""

    gt_scale: int
    gt_rshift: int
    slopes: NDArray[np.int8]
    le_rshift: int


def prelu_constants(slopes: ArrayLike, tx: float, ty: float) -> PReluConstants:
    """Find a PReLU's integers: `gt_scale = sat8(rnd(tx/ty * 2^gt_rs))`, `slope_q = sat8(rnd(slope * tx/ty * 2^le_rs))`.

    `gt_rs` doubles `tx/ty` into [64, 128), `le_rs` the same for `max|slope| * tx/ty`, as for weights.

    Raises:
        QuantizationError: either starts at 128 or more, or a slope is NaN or infinite.
    """
    gt_rshift = weight_rshift(1.0, tx, ty)
    values = np.asarray(slopes)
    le_rshift = weight_rshift(float(np.abs(values).max(initial=0)), tx, ty)
    gt_scale = int(quantize_weight(1.0, tx, ty, gt_rshift))
    return PReluConstants(gt_scale, gt_rshift, quantize_weight(values, tx, ty, le_rshift), le_rshift)


def elu_codes(alpha: float, tx: float, ty: float) -> NDArray[np.int8]:
    """Tabulate an ELU: the top's code for each of the bottom's codes -128 to 127, shape (256,).

    With `v = code * tx/128`: `sat8(rnd(v * 128/ty))` for `v >= 0`, and `sat8(trunc(y * 128/ty))` with
    `y = alpha * (exp(v) - 1)` for `v < 0`. y is a float32 number, as on the CPU that computes it; so the last bit of an
    exponential in float64, which processors do not agree on, does not count.
    """
    check_thresholds(tx, ty)
    codes = np.arange(-128, 128)
    with np.errstate(over="ignore", under="ignore"):
        negative = (alpha * np.expm1(np.minimum(codes, 0) * float(tx) / INT8_LEVELS)).astype(np.float32)
    return saturate_int8(
        np.where(
            codes < 0,
            np.trunc(negative.astype(np.float64) * INT8_LEVELS / float(ty)),
            round_half_up(codes * float(tx) / float(ty)),
        )
    )


def check_thresholds(*thresholds: float) -> None:
    """Refuse a threshold that is not a positive finite float32 number.

    Within float32's range no quotient of two thresholds overflows or vanishes in float64.

    Raises:
        QuantizationError: names the value.
    """
    for threshold in thresholds:
        if not _SMALLEST <= threshold <= _LARGEST:
            raise QuantizationError(f"threshold {threshold} is not a positive finite float32 number")


def _doublings_to_64(value: float, meaning: str) -> int:
    """Count the doublings that bring `value` into [64, 128), at most MAX_RSHIFT; 0 for 0; 128 and more are refused."""
    if not value < 128:
        raise QuantizationError(
            f"{meaning} = {value:.6g} is 128 or more and would need a negative right shift; "
            "raise the top's threshold, or keep this layer in FP32"
        )
    # frexp: value = f * 2^e with f in [0.5, 1), so e is 7 in [64, 128). Exact, and it never loops.
    return min(max(7 - math.frexp(value)[1], 0), MAX_RSHIFT) if value > 0 else 0


def _clamp(values: ArrayLike, low: int, high: int) -> NDArray[np.float64] | NDArray[np.int64]:
    array = np.asarray(values)
    if np.can_cast(array.dtype, np.int64):
        return np.asarray(np.clip(array.astype(np.int64), low, high))
    clamped = np.asarray(np.clip(array.astype(np.float64, copy=False), low, high))
    np.copyto(clamped, 0, where=np.isnan(clamped))
    return clamped


def _finite(values: NDArray[np.generic], what: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(np.ravel(array)))
        raise QuantizationError(f"{bad.size} {what} value(s) are NaN or infinite")
    return array


def _some(noun: str, indices: NDArray[np.intp], limit: int = 8) -> str:
    shown = ", ".join(str(i) for i in indices[:limit])
    more = f" and {indices.size - limit} more" if indices.size > limit else ""
    return f"{noun}{'s' if indices.size > 1 else ''} {shown}{more}"
