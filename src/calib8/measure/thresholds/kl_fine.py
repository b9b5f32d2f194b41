"""KL search with every bin from the 128th on as a candidate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.measure.histogram import BlobHistogram
from calib8.measure.thresholds.divergence import LEVELS, first_minimum


def threshold(histogram: BlobHistogram) -> float:
    """Find `width * i` for the i = 128, 129, .. bins with the smallest KL (see `divergence`); the first of equals.

    The groups of a candidate that is no multiple of 128 differ in width by one bin. Candidates of `kl` have the same
    KL here.

    A candidate is left out when it clips more than half of the values, or when it clips and has but one filled bin.
    Its P and its Q are little more than their last bin, so KL is about 0 whatever is clipped. Values of a few levels,
    counted without the zeros, would get the lowest level as their threshold. The candidate that clips nothing stays.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310), slide "Entropy Calibration -
    pseudocode": `for i in range(128, 2048)`; here the whole range is a candidate too. The guard is ours.
    """
    candidates = np.arange(LEVELS, histogram.bins + 1)
    return histogram.width * first_minimum(histogram.counts, candidates[_has_a_shape(histogram.counts)])


def _has_a_shape(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For every candidate whether it is compared."""
    inside = np.cumsum(counts)
    filled = np.cumsum(counts > 0)
    whole = inside == inside[-1]
    return np.asarray((whole | ((filled > 1) & (2 * inside >= inside[-1])))[LEVELS - 1 :])
