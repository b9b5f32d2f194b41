"""KL search with every bin from the 128th on as a candidate."""

from __future__ import annotations

import numpy as np

from calib8.calibrate.histogram import BlobHistogram
from calib8.calibrate.thresholds.divergence import LEVELS, first_minimum


def threshold(histogram: BlobHistogram) -> float:
    """`width * i` for the i = 128, 129, .. bins with the smallest KL (see `divergence`); the first of equals.

    The groups of a candidate that is no multiple of 128 differ in width by one bin. Candidates of `kl` have
    the same KL here, so this never ends at a larger divergence.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310), slide "Entropy Calibration -
    pseudocode": `for i in range(128, 2048)`; here the whole range is a candidate too.
    """
    candidates = np.arange(LEVELS, histogram.bins + 1)
    return histogram.width * first_minimum(histogram.counts, candidates)
