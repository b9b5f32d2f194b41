"""What the methods make of kept histograms, side by side; the network is not needed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calib8.errors import OptionError
from calib8.measure.histogram import BlobHistogram
from calib8.measure.histogram_file import Group, HistogramSet
from calib8.measure.thresholds import METHODS, ThresholdOptions, find_threshold, method_named

_TOP_CODE = 127
_CODES = 128


@dataclass(frozen=True)
class ComparedThreshold:
    """One method's threshold of one group of values, and what it does to the values that are quantised.

    Attributes:
        threshold: in real units, float32.
        clipped: share of the values, 0 to 1, beyond the threshold.
        snr: signal to noise ratio of the values after quantise and dequantise, in dB, by the histogram: of the blob
            alone, not of what layers make of it. Infinite where nothing is lost.
    """

    threshold: float
    clipped: float
    snr: float


@dataclass(frozen=True)
class ComparedBlob:
    """All methods on one group of values.

    Attributes:
        name: of the value that the group goes by.
        maximum: the largest |x| of the values that are quantised.
        dead: whether all values are 0, so that thresholds mean nothing.
        by_method: in the order of the methods; those that lack exact counts are left out.
    """

    name: str
    maximum: float
    dead: bool
    by_method: Mapping[str, ComparedThreshold]


def compare_methods(
    histograms: HistogramSet,
    methods: Sequence[str] = tuple(METHODS),
    options: ThresholdOptions = ThresholdOptions(),
    *,
    two_pass: bool = False,
) -> list[ComparedBlob]:
    """Find the thresholds of several methods.

    Args:
        methods: names; those that need exact counts which the set has not are left out, but for a single one.
        two_pass: take exact counts for every method.

    Raises:
        OptionError: no such method, a number of bins that it cannot search, or counts that the only one needs.
    """
    usable = [m for m in methods if _usable(histograms, m, two_pass)]
    if not usable:
        for method in methods:
            _values_of(histograms, method, two_pass)  # says what is missing
        raise OptionError("no method to compare")
    measured = {m: _values_of(histograms, m, two_pass) for m in usable}
    groups = histograms.identity.groups
    quantized = histograms.histograms([group.rectified for group in groups], exact=False)
    found = []
    for group in groups:
        own = quantized[group.rectified]
        by_method = {m: _compared(measured[m][_value(group, m)], own, m, options) for m in usable}
        found.append(ComparedBlob(group.name, own.maximum, own.dead, by_method))
    return found


def methods_left_out(histograms: HistogramSet, methods: Collection[str], *, two_pass: bool = False) -> list[str]:
    """Name the methods that need exact counts which a set does not have."""
    return [m for m in methods if not _usable(histograms, m, two_pass)]


def _value(group: Group, method: str) -> str:
    return group.written if method_named(method).like_the_original else group.rectified


def _usable(histograms: HistogramSet, method: str, two_pass: bool) -> bool:
    exact = two_pass or method_named(method).like_the_original
    return not exact or not histograms.lacking([_value(g, method) for g in histograms.identity.groups])


def _values_of(histograms: HistogramSet, method: str, two_pass: bool) -> dict[str, BlobHistogram]:
    exact = two_pass or method_named(method).like_the_original
    return histograms.histograms([_value(g, method) for g in histograms.identity.groups], exact=exact)


def _compared(
    measured: BlobHistogram, quantized: BlobHistogram, method: str, options: ThresholdOptions
) -> ComparedThreshold:
    threshold = find_threshold(measured, method, options)
    return ComparedThreshold(threshold, quantized.beyond_threshold(threshold), snr_of(quantized, threshold))


def snr_of(histogram: BlobHistogram, threshold: float) -> float:
    """Compute the signal to noise ratio of quantise and dequantise in dB, the values of a bin taken at its centre.

    sum_j h_j x_j^2 / sum_j h_j (x_j - q_j * t/128)^2, with x_j = j * width, q_j = min(127, floor(x_j * 128/t + 0.5)).
    """
    centres = np.arange(histogram.bins) * histogram.width
    codes = np.minimum(_TOP_CODE, np.floor(centres * _CODES / threshold + 0.5))
    noise = float((histogram.counts * (centres - codes * threshold / _CODES) ** 2).sum())
    signal = float((histogram.counts * centres**2).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
