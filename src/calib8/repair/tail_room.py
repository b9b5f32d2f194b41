"""Tail room: a threshold of an answer beyond the largest value that was seen, where so few were seen that larger ones
will come.

Methods look at the values that there are, and leave no room beyond the largest of them. Ten classes of 100 images are
1000 values: one new image in a hundred has a larger one then, and what is clipped of an answer costs more than all
rounding. So the tail is taken to go on as it ends: of N values that are not 0, the largest k = sqrt(N) lie above u, by
b in the mean, and

    P(|x| > t) = k/N * exp(-(t - u) / b)     for t > u

Above the largest value m, the threshold with the least squared error over that tail is searched, up to 1.35 m:

    E(t) = t^2 / (12 * 128^2) + k/N * 2 b^2 exp(-(t - u) / b)

Where m itself is the best, nothing is moved: with many values it is, and so it is where values have a bound.

Answers alone, what goes out of the network or into its last Softmax or ArgMax, get that room. Coarser codes of a value
on the way cost all samples, and room is for a few of them: those have a rule of their own (`unseen_maxima`).

Source: J. Pickands, Statistical Inference Using Extreme Order Statistics, 1975: what lies above a high bound has a
generalised Pareto distribution; here that of shape 0, whose only parameter is b. The 1.35 is our own: answers have
lighter tails than that, and where k is 15, b is not known better than to a quarter of itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from calib8.arithmetic import INT8_LEVELS
from calib8.lowering import Model
from calib8.measure.histogram import BlobHistogram
from calib8.quantize import fold_groups
from calib8.repair.guard import judged_values

TAIL_ROOM = "tail-room"
_FEWEST = 5  # values that say how a tail ends
_TRIED = 1 + np.arange(46) / 128  # in units of the largest value; steps, as exp has other last bits elsewhere


def room_of_answers(
    model: Model, histograms: Mapping[str, BlobHistogram], enable_concat_quantize: bool = False
) -> dict[str, float]:
    """Find thresholds that answers need at least, by the value that they were measured on; those alone that need any.

    Args:
        histograms: of the values that thresholds are found for (`observed_values`).
    """
    answers, found = set(judged_values(model)), dict[str, float]()
    for group in fold_groups(model, enable_concat_quantize):
        value = group.measured(as_written=False)
        if value in histograms and not answers.isdisjoint(group.members):
            threshold = room_beyond(histograms[value])
            if threshold:
                found[value] = threshold
    return found


def room_beyond(histogram: BlobHistogram) -> float:
    """Find the threshold of the module's text, in real units; 0 where the largest value needs no room above it."""
    if histogram.dead:
        return 0.0
    counted = histogram.without_zeros()
    above = np.cumsum(counted.counts[::-1])[::-1]  # values in this bin or a later one
    wanted = min(max(math.isqrt(counted.samples), _FEWEST), counted.samples)
    first = int(np.flatnonzero(above >= wanted)[-1])
    tail, start = int(above[first]), max(first - 0.5, 0.0)
    bins = np.arange(first, counted.bins)
    excess = float((bins * counted.counts[first:]).sum()) / tail - start
    largest = counted.bins - 1
    tried = largest * _TRIED
    clipped = tail / counted.samples * 2 * excess**2 * np.exp(-(tried - start) / excess)
    best = int(np.argmin(tried**2 / (12 * INT8_LEVELS**2) + clipped))
    return histogram.width * float(tried[best]) if best else 0.0
