"""The threshold that leaves a given share of the values unclipped."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from calib8.measure.histogram import BlobHistogram


def threshold(histogram: BlobHistogram, percent: float) -> float:
    """Find the upper edge `(j + 0.5) * width` of the first bin j up to which `percent` % of the values lie.

    Never more than the largest |x|, which is what 100 gives.

    Source: H. Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
    Evaluation", arXiv:2004.09602, calibration method "percentile".
    """
    reached = np.cumsum(histogram.counts)
    # By its digits: 99.99 % of 10,000 values are 9999 and not, as in float64, a little more.
    wanted = math.ceil(Fraction(str(percent)) * histogram.samples / 100)
    last = int(np.searchsorted(reached, wanted))
    return min((last + 0.5) * histogram.width, histogram.maximum)
