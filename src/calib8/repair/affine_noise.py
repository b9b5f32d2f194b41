"""What a BatchNorm's channels lose behind it, by the range that codes before it have.

The codes q of a channel in the range a become y = s * x + b, rounded once more (`AffineChannels`). In codes of the top,
with t its threshold and r = s * a / t what a code before is worth behind,

    z = rnd(q * r + b * 128/t),    q = sat8(rnd(x * 128/a)),    error(r) = E[(f(z) - f(y * 128/t))^2]

where f takes away what is below 0, if all that reads the top is a ReLU. With it go the rounding of negative values,
and all that was clipped there: a channel of -9 .. 1 behind its BatchNorm needs room for 1, and not for 9. Nothing is
assumed of how the two roundings go together: r of 1, or of one half, makes one of them, or nearly, where b is next to
a whole number of codes, and two where it is not.

What is clipped before the BatchNorm counts 16 times. Rounding is of either sign and averages out on the way to the
outputs, and clipping is not: counted once, clipped codes before BatchNorms alone left a ResNet-20 30.7 dB, those behind
them 33, and the rounding of all values 28.

Of a convolution with a bias, offsets b are those that `aligned_offsets` gives, and x is moved by the rest: where r of 1
or one half can always make one rounding of two, it is chosen more often.

It is computed over values that were seen, for every ratio in `RATIOS`: all of those far out, which are clipped or not,
and some of the others, which are only rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.repair.aligned_offsets import aligned

Array = NDArray[np.float64]

RATIOS = np.array(
    [8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 256, 384]
) / 32  # fmt: skip
"""What a code before may be worth behind: parts of 1/32, an eighth to a half apart, so that few have to be tried.
At 1/4 its rounding adds 6 % to that of the top. Less is worth nothing, and a channel that hardly moved has room."""

_CLIPPED = np.float32(16)
_FAR_OUT, _BETWEEN = 48, 160  # sorted values at each end that are all looked at, and how many of the others
_ELEMENTS = 1 << 15  # at a time: as many as stay in a cache
_HALF = np.float32(0.5)


def noise_behind(
    values: NDArray[np.float32],
    factors: Array,
    offsets: Array,
    threshold: float,
    *,
    rectified: bool,
    has_bias: bool = False,
) -> tuple[Array, Array]:
    """Compute the error of the module's text.

    Args:
        values: of every channel before the BatchNorm, (C, n), in any order, without NaN.
        factors, offsets: s and b, (C); no factor is 0.
        threshold: t, in real units.
        rectified: whether all that reads the top is a ReLU.
        has_bias: whether the layer before has a bias, so that offsets can be aligned.

    Returns:
        The error in squared codes of the top, (C, ratios), and the share of values that count, (C): of a rectified
        channel those above 0.
    """
    places, weights = _looked_at(values.shape[1])
    to_codes = INT8_LEVELS / threshold
    scaled = np.sort(values * (factors * to_codes).astype(np.float32)[:, None], axis=1)[:, places]
    plus, signs = (offsets * to_codes).astype(np.float32)[:, None], np.sign(factors).astype(np.float32)[:, None]
    errors, share = np.empty((len(values), len(RATIOS))), np.ones(len(values))
    step = max(1, _ELEMENTS // len(places))
    for first in range(0, len(values), step):
        part = slice(first, first + step)
        exact = scaled[part] + plus[part]
        if rectified:
            np.maximum(exact, 0, out=exact)
            share[part] = (exact > 0) @ weights
        for at, ratio in enumerate(RATIOS.astype(np.float32)):
            before, b = scaled[part], plus[part]
            if has_bias:
                b = aligned(b.astype(np.float64), np.array(RATIOS[at])).astype(np.float32)
                before = before + (plus[part] - b)
            codes = np.floor(before * (signs[part] / ratio) + _HALF)
            clipped = (codes < -INT8_LEVELS) | (codes >= INT8_LEVELS)
            np.clip(codes, -INT8_LEVELS, INT8_LEVELS - 1, out=codes)
            behind = np.floor(codes * (signs[part] * ratio) + (b + _HALF))
            np.clip(behind, 0 if rectified else -INT8_LEVELS, INT8_LEVELS - 1, out=behind)
            off = np.square(behind - exact)
            np.multiply(off, _CLIPPED, out=off, where=clipped)
            errors[part, at] = off @ weights
    return errors, share


def _looked_at(count: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Say which of so many sorted values are looked at, and what share of all each stands for."""
    between = count - 2 * _FAR_OUT
    if between <= _BETWEEN:
        return np.arange(count), np.full(count, 1 / count)
    middle = _FAR_OUT + (2 * np.arange(_BETWEEN) + 1) * between // (2 * _BETWEEN)
    places = np.concatenate([np.arange(_FAR_OUT), middle, np.arange(count - _FAR_OUT, count)])
    weights = np.full(places.shape, 1 / count)
    weights[_FAR_OUT:-_FAR_OUT] *= between / _BETWEEN
    return places, weights
