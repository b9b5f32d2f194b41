"""What a BatchNorm's channels lose behind it, by the range that codes before it have.

The codes q of a channel in the range a become y = s * x + b, rounded once more (`AffineChannels`). In codes of the top,
with t its threshold and r = s * a / t what a code before is worth behind,

    z = rnd(q * r + b * 128/t),    q = sat8(rnd(x * 128/a)),    error(r) = E[(f(z) - f(y * 128/t))^2]

where f takes away what is below 0, if all that reads the top is a ReLU. With it go the rounding of negative values,
and all that was clipped there: a channel of -9 .. 1 behind its BatchNorm needs room for 1, and not for 9. Nothing is
assumed of how the two roundings go together: r of 1, or of one half, makes one of them, or nearly, where b is next to
a whole number of codes, and two where it is not.

No value that was seen in any sample is clipped before the BatchNorm, unless its top clips it, too (`room`). Rounding is
of either sign and averages out on the way to the outputs; clipping does not, and what is clipped is rare and counts: of
a detector's maps the objects.

Of a convolution with a bias, offsets b are those that `aligned_offsets` gives, and x is moved by the rest: where r of 1
or one half can always make one rounding of two, it is chosen more often.

It is computed over some of the values, for every ratio in `RATIOS`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.layer_kit.window_product import evenly
from calib8.repair.aligned_offsets import aligned

Array = NDArray[np.float64]

RATIOS = np.array(
    [8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 256, 384]
) / 32  # fmt: skip
"""What a code before may be worth behind: parts of 1/32, an eighth to a half apart, so that few have to be tried.
At 1/4 its rounding adds 6 % to that of the top. Less is worth nothing, and a channel that hardly moved has room."""

_LOOKED_AT = 256  # values of a channel
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
    places = evenly(values.shape[1], _LOOKED_AT)
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
            share[part] = (exact > 0).mean(axis=1)
        for at, ratio in enumerate(RATIOS.astype(np.float32)):
            before, b = scaled[part], plus[part]
            if has_bias:
                b = aligned(b.astype(np.float64), np.array(RATIOS[at])).astype(np.float32)
                before = before + (plus[part] - b)
            codes = np.floor(before * (signs[part] / ratio) + _HALF)
            np.clip(codes, -INT8_LEVELS, INT8_LEVELS - 1, out=codes)
            behind = np.floor(codes * (signs[part] * ratio) + (b + _HALF))
            np.clip(behind, 0 if rectified else -INT8_LEVELS, INT8_LEVELS - 1, out=behind)
            errors[part, at] = np.square(behind - exact).mean(axis=1)
    return errors, share


def room(ends: tuple[Array, Array], factors: Array, offsets: Array, threshold: float, *, rectified: bool) -> Array:
    """Compute the least ratio with which no value is clipped that is not clipped behind the BatchNorm, too: (C).

    At most the largest of `RATIOS`.

    Args:
        ends: the least and the largest value of every channel before it, (C) each.
        factors, offsets, threshold, rectified: as `noise_behind` has them.
    """
    to_codes = INT8_LEVELS / threshold
    one, other = (end * factors * to_codes for end in ends)
    plus = offsets * to_codes
    least = np.maximum(np.minimum(one, other), (0 if rectified else -INT8_LEVELS) - plus)
    largest = np.minimum(np.maximum(one, other), INT8_LEVELS - 1 - plus)
    furthest = np.maximum(np.abs(least), np.abs(largest))
    needed: Array = np.where(least < largest, furthest, 0) / (INT8_LEVELS - 1)
    return np.asarray(np.minimum(needed, RATIOS[-1]))
