"""The largest |x| itself."""

from __future__ import annotations

from calib8.measure.histogram import BlobHistogram


def threshold(histogram: BlobHistogram) -> float:
    """Return `max|x|`: only the largest values are clipped, by a step at most (code 128 saturates at 127).

    Source: H. Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
    Evaluation", arXiv:2004.09602, calibration method "max".
    """
    return histogram.maximum
