"""The contract's KL search: one candidate for every 128 bins."""

from __future__ import annotations

import numpy as np

from calib8.measure.histogram import BlobHistogram, check_bins
from calib8.measure.thresholds.divergence import LEVELS, first_minimum


def threshold(histogram: BlobHistogram) -> float:
    """Find `width * i` for the i = 128, 256, .. bins with the smallest KL (see `divergence`); the first of equals.

    Gives the thresholds of the vendor's compiled library, whatever the number of bins. It can exceed the
    largest |x|: the last candidate is `maximum * bins / (bins - 1)`. 2048 bins leave 16 candidates; that is
    what compatibility means.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310), slide "Entropy Calibration -
    pseudocode", with the BM1880 tool's candidates.
    """
    check_bins(histogram.bins)
    candidates = np.arange(LEVELS, histogram.bins + 1, LEVELS)
    return histogram.width * first_minimum(histogram.counts, candidates)
