"""Naive INT8 layers, from thresholds and float weights to codes: loops written from the integer contract.

Codes are integers from -128 to 127 in arrays of int64. Constants are computed in fractions, windows are walked through
place by place; nothing is shared with the package. `None` in the place of constants: the contract has none for these
thresholds.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
from contract_oracle import MOST, doublings, largest_shift, rnd, sat


def shifted(accumulator: int, rshift: int) -> int:
    """sat8(rnd(acc / 2^rs))."""
    return sat(rnd(Fraction(int(accumulator), 2**rshift)))


def over(function, *arrays: np.ndarray) -> np.ndarray:
    """A function of integers, place by place."""
    places = itertools.product(*(range(d) for d in arrays[0].shape))
    values = [function(*(int(a[place]) for a in arrays)) for place in places]
    return np.array(values, np.int64).reshape(arrays[0].shape)


# Values.


def quantize(x: np.ndarray, threshold: float) -> np.ndarray:
    codes = [sat(rnd(Fraction(float(v)) * 128 / Fraction(threshold))) for v in np.ravel(x)]
    return np.array(codes, np.int64).reshape(x.shape)


def dequantize(codes: np.ndarray, threshold: float) -> np.ndarray:
    return np.array([float(np.float32(int(q) * threshold / 128)) for q in np.ravel(codes)]).reshape(codes.shape)


# Weighted sums.


def weights_of(w: np.ndarray, b: np.ndarray | None, tx: float, ty: float):
    """Wq, Bq (zeros without a bias) and rs."""
    ratio = Fraction(tx) / Fraction(ty)
    largest = max((abs(Fraction(float(v))) for v in np.ravel(w)), default=Fraction(0)) * ratio
    if largest >= 128:
        return None
    rs = doublings(largest)
    wq = [sat(rnd(Fraction(float(v)) * ratio * 2**rs)) for v in np.ravel(w)]
    bq = [sat(rnd(Fraction(float(v)) * 128 / Fraction(ty) * 2**rs), 16) for v in np.ravel(b if b is not None else ())]
    return np.array(wq).reshape(w.shape), np.array(bq, np.int64), rs


def convolution(x, constants, *, stride, pad, pad_end, dilation, group) -> np.ndarray:
    """x (N, C, spatial...); one number per spatial axis for each of the others."""
    w, b, rs = constants
    kernel, axes = w.shape[2:], range(x.ndim - 2)
    size = [(x.shape[2 + i] + pad[i] + pad_end[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in axes]
    depth, per_group = w.shape[1], w.shape[0] // group
    y = np.zeros((x.shape[0], w.shape[0], *size), np.int64)
    for n, o, *place in itertools.product(*map(range, y.shape)):
        acc = int(b[o]) if b.size else 0
        for c, *tap in itertools.product(range(depth), *map(range, kernel)):
            at = [place[i] * stride[i] + tap[i] * dilation[i] - pad[i] for i in axes]
            if all(0 <= at[i] < x.shape[2 + i] for i in axes):
                acc += int(x[(n, o // per_group * depth + c, *at)]) * int(w[(o, c, *tap)])
        y[(n, o, *place)] = shifted(acc, rs)
    return y


def deconvolution(x, constants, *, stride, pad, pad_end, dilation, group) -> np.ndarray:
    """Every element of x adds x * w to a window of y; then the bias, and one shift."""
    w, b, rs = constants
    kernel, axes = w.shape[2:], range(x.ndim - 2)
    full = [stride[i] * (x.shape[2 + i] - 1) + dilation[i] * (kernel[i] - 1) + 1 for i in axes]
    depth, per_group = w.shape[0] // group, w.shape[1]
    acc = np.zeros((x.shape[0], per_group * group, *full), np.int64)
    for n, c, *place in itertools.product(*map(range, x.shape)):
        for o, *tap in itertools.product(*map(range, w.shape[1:])):
            at = [place[i] * stride[i] + tap[i] * dilation[i] for i in axes]
            acc[(n, c // depth * per_group + o, *at)] += int(x[(n, c, *place)]) * int(w[(c, o, *tap)])
    kept = tuple(slice(pad[i], full[i] - pad_end[i]) for i in axes)
    acc = acc[(slice(None), slice(None), *kept)]
    if b.size:
        acc = acc + b.reshape(-1, *(1 for _ in axes))
    return over(lambda a: shifted(a, rs), acc)


def inner_product(x, constants, *, axis, transpose) -> np.ndarray:
    w, b, rs = constants
    rows = x.reshape(math.prod(x.shape[:axis]), -1)
    matrix = w.T if transpose else w
    y = np.zeros((len(rows), len(matrix)), np.int64)
    for r, o in itertools.product(*map(range, y.shape)):
        acc = sum(int(p) * int(q) for p, q in zip(rows[r], matrix[o], strict=True))
        y[r, o] = shifted(acc + (int(b[o]) if b.size else 0), rs)
    return y.reshape(*x.shape[:axis], len(matrix))


def affine(x, constants, axis) -> np.ndarray:
    """Scale: the weights lie on the axes of x from `axis` on."""
    s, b, rs = constants
    y = np.zeros_like(x)
    for place in itertools.product(*map(range, x.shape)):
        at = place[axis : axis + s.ndim]
        y[place] = shifted(int(x[place]) * int(s[at]) + (int(b.reshape(s.shape)[at]) if b.size else 0), rs)
    return y


def batch_norm_of(mean, variance, eps, gamma, beta, tx, ty):
    """Scale and shift of a BatchNorm, with its Scale's gamma and beta, as weights and biases."""
    limit = sum(map(float, variance)) / len(variance) / 256
    scales, shifts = [], []
    for m, v, c, d in zip(mean, variance, gamma, beta, strict=True):
        scale = float(c) / math.sqrt(float(v) + eps)
        dead = float(v) < limit
        scales.append(0.0 if dead else scale)
        shifts.append(float(d) if dead else float(d) - float(m) * scale)
    return weights_of(np.array(scales), np.array(shifts), tx, ty)


# Poolings.


def pooling_constants(tx: float, ty: float):
    ratio = Fraction(tx) / Fraction(ty)
    rs = largest_shift(ratio, 0, 255)
    return None if rs is None else (rnd(ratio * 2**rs), rs)


def pooled_length(size: int, kernel: int, stride: int, pad: int, *, ceil: bool) -> int:
    """Caffe's number of windows along one axis."""
    room = Fraction(size + 2 * pad - kernel, stride)
    length = (math.ceil(room) if ceil else math.floor(room)) + 1
    return length - 1 if pad and (length - 1) * stride >= size + pad else length


def pooling(x, constants, method, *, kernel, stride, pad, ceil=True, without_pad=False) -> np.ndarray:
    """MAX: the multiplier on the largest code. AVE: on the sum, with the window's size folded in.

    A window has kernel elements wherever it lies, or, `without_pad`, those in the image.
    """
    mult, rs = constants
    sizes = [pooled_length(x.shape[2 + i], kernel[i], stride[i], pad[i], ceil=ceil) for i in (0, 1)]
    y = np.zeros((*x.shape[:2], *sizes), np.int64)
    for n, c, h, w in itertools.product(*map(range, y.shape)):
        rows, columns = (
            [s for s in range(at * stride[i] - pad[i], at * stride[i] - pad[i] + kernel[i]) if 0 <= s < x.shape[2 + i]]
            for i, at in ((0, h), (1, w))
        )
        window = [int(x[n, c, r, s]) for r in rows for s in columns]
        if method == "MAX":
            y[n, c, h, w] = shifted(max(window) * mult, rs)
        else:
            k = len(window) if without_pad else kernel[0] * kernel[1]
            y[n, c, h, w] = average(sum(window), k, mult, rs)
    return y


def average(total: int, k: int, mult: int, rs: int) -> int:
    m = max(m for m in range(64) if 2**m < 256 * k)
    c, r = 2**m // k * mult, m + rs
    while c > 255 or r > MOST:
        c, r = c // 2, r - 1
    return shifted(total * c, r)


# Eltwise and Concat.


def eltwise_constants(txs, ty):
    ratios = [Fraction(tx) / Fraction(ty) for tx in txs]
    if max(ratios) >= 128:
        return None
    rs = doublings(max(ratios))
    return [math.floor(r * 2**rs) for r in ratios], rs


def eltwise_sum(xs, constants, coeffs, bits=16) -> np.ndarray:
    mults, rs = constants

    def added(*codes: int) -> int:
        acc = 0
        for code, mult, coeff in zip(codes, mults, coeffs, strict=True):
            acc = sat(acc + code * mult * coeff, bits)
        return shifted(acc, rs)

    return over(added, *xs)


def eltwise_max(xs, constants) -> np.ndarray:
    mults, rs = constants
    return over(lambda *codes: shifted(max(q * m for q, m in zip(codes, mults, strict=True)), rs), *xs)


def product_constants(txs, ty):
    factor = math.prod(tx / 128 for tx in txs) * 128 / ty  # of three bottoms and more, float64 rounds
    if factor >= 128:
        return None
    rs = doublings(Fraction(factor))
    return math.floor(Fraction(factor) * 2**rs), rs


def eltwise_product(xs, constants) -> np.ndarray:
    mult, rs = constants
    return over(lambda *codes: shifted(math.prod(codes) * mult, rs), *xs)


def requantized(x: np.ndarray, tx: float, ty: float) -> np.ndarray | None:
    """A bottom of a Concat brought to the top's threshold."""
    constants = pooling_constants(tx, ty)
    if constants is None:
        return None
    return over(lambda q: shifted(q * constants[0], constants[1]), x)


# Activations.


def relu(x: np.ndarray) -> np.ndarray:
    return over(lambda q: max(q, 0), x)


def leaky_constants(slope: float, tx: float, ty: float):
    """(scale, rs) of the positive and of the negative side."""
    ratio = tx / ty  # the contract's own float64 steps
    sides = []
    for value in (ratio, slope * ratio):
        rs = 0 if value == 0 else largest_shift(Fraction(value), -128, 127)
        if rs is None:
            return None
        sides.append((rnd(Fraction(value) * 2**rs), rs))
    return sides


def two_sided(x: np.ndarray, positive: tuple[int, int], negative) -> np.ndarray:
    """`negative(place)`: scale and shift of the negative side at a place."""
    y = np.zeros_like(x)
    for place in itertools.product(*map(range, x.shape)):
        q = int(x[place])
        scale, rs = negative(place)
        y[place] = shifted(max(q, 0) * positive[0], positive[1]) + shifted(min(q, 0) * scale, rs)
    return y


def elu(x: np.ndarray, alpha: float, tx: float, ty: float) -> np.ndarray:
    def activated(code: int) -> int:
        v = code * tx / 128
        if v >= 0:
            return sat(rnd(Fraction(code) * Fraction(tx) / Fraction(ty)))
        y = float(np.float32(alpha * math.expm1(v)))
        return sat(math.trunc(Fraction(y) * 128 / Fraction(ty)))

    return over(activated, x)
