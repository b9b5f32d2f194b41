"""The threshold with the smallest mean squared error of quantise and dequantise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from calib8.measure.histogram import BlobHistogram

_TOP_CODE = 127
_CODES = 128
_CHUNK = 1 << 10
_ODD_CODES = 2 * np.arange(1, _TOP_CODE + 1) - 1
_ODD = _ODD_CODES.astype(np.float64)
_TIMES_ODD, _TIMES_ONE = np.kron(_ODD, [1.0, 0.0]), np.kron(np.ones(_TOP_CODE), [0.0, 1.0])  # M0, M1, M0, M1, ..
_EXACT = 2.0**53


def threshold(histogram: BlobHistogram) -> float:
    """Find `width * i` for the i = 1, 2, .. bins with the smallest squared error; the first of equals wins.

    With the values of bin j at `j * width`, a candidate `t = width * i` and the contract's rounding and
    saturation:

        E(t) = sum_j h_j * (j*width - q_j * t/128)^2,   q_j = min(127, floor(j*128/i + 0.5))

    Values are taken by their size, so the negative code -128 is not counted on. Bins reach code k from
    `b_k = ceil((2k - 1) * i / 256)`; with M0, M1, M2 the moments of all bins from b_k on, in bins:

        E / width^2 = M2(0) - 2*(i/128) * sum_k M1(b_k) + (i/128)^2 * sum_k (2k - 1) * M0(b_k),   k = 1 .. 127

    Source: the objective of R. Banner, Y. Nahshan, D. Soudry, "Post training 4-bit quantization of
    convolutional networks for rapid-deployment", NeurIPS 2019 (arXiv:1810.05723), E[(X - Q(X))^2], over the
    measured distribution instead of a fitted one.
    """
    moments, bins = _Moments(histogram.counts), histogram.bins
    errors = np.concatenate([moments.errors(first, bins) for first in range(1, bins + 1, _CHUNK)])
    return histogram.width * (1 + int(np.argmin(errors)))


class _Moments:
    """Sums of h and of h*j over bins from a given one to the last, and of h*j*j over all."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        h, j = counts.astype(np.float64), np.arange(counts.size, dtype=np.float64)
        # Side by side, so that both are fetched at once: that takes most of the time.
        self._m0_m1 = np.stack([_suffix(h), _suffix(h * j)], axis=1)
        self._m2 = float((h * j * j).sum())
        # The sums of `errors` are whole numbers. As long as float64 holds them, the order of adding changes nothing.
        self._whole = float(h.sum()) * counts.size * _ODD.sum() < _EXACT

    def errors(self, first: int, bins: int) -> NDArray[np.float64]:
        """Compute the squared error, in squared bins, of some candidates from that of `first` bins on."""
        ends, reach = _reach(first, bins)
        step, found = ends / _CODES, self._m0_m1.take(reach, axis=0)
        if self._whole:
            rows = found.reshape(len(reach), -1)
            sum0, sum1 = rows @ _TIMES_ODD, rows @ _TIMES_ONE
        else:
            sum0, sum1 = np.ascontiguousarray(found[..., 0]) @ _ODD, np.ascontiguousarray(found[..., 1]).sum(axis=1)
        errors: NDArray[np.float64] = self._m2 - 2 * step * sum1 + step**2 * sum0
        return errors


@lru_cache(maxsize=2)
def _reach(first: int, bins: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return candidates, and from which bin on each of them reaches each code. Kept: they are the same for all blobs.

    Codes that a candidate reaches beyond the last bin read the trailing 0 of the sums.
    """
    ends = np.arange(first, min(first + _CHUNK, bins + 1))
    reach = np.minimum(-(-ends[:, None] * _ODD_CODES // (2 * _CODES)), bins)
    ends.flags.writeable = reach.flags.writeable = False
    return ends, reach


def _suffix(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum from each index to the end, with a trailing 0."""
    return np.concatenate((np.cumsum(values[::-1])[::-1], [0.0]))
