"""The threshold that leaves a given share of the values unclipped."""

from __future__ import annotations

import numpy as np

from calib8.calibrate.histogram import BlobHistogram


def threshold(histogram: BlobHistogram, percent: float) -> float:
    """The upper edge `(j + 0.5) * width` of the first bin j up to which `percent` % of the values lie.

    Never more than the largest |x|, which is what 100 gives.

    Source: H. Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
    Evaluation", arXiv:2004.09602, calibration method "percentile".
    """
    reached = np.cumsum(histogram.counts)
    last = int(np.searchsorted(reached, percent / 100 * histogram.samples))
    return min((last + 0.5) * histogram.width, histogram.maximum)
