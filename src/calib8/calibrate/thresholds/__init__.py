"""From a histogram to a threshold, by named methods; one file per method, with formula and source.

- `kl`: the contract's search, compatible with the original tool (default)
- `kl-fine`: the same divergence, every bin a candidate
- `mse`: smallest squared error
- `percentile`: a share of the values, `ThresholdOptions.percent`
- `max`: the largest |x|

`find_threshold` is the way in. It also decides, in this one place, what every method has in common:

- A dead blob (no finite value, or all zeros) gets `DEAD_THRESHOLD`: its codes are 0 whatever the threshold. A
  caller that knows the neighbours may choose better (`BlobHistogram.dead`), lest the ratio of two thresholds
  gets out of hand.
- NaN and infinities do not take part; the caller reads their numbers from the histogram and names the blob.
- The result is rounded to float32, which the calibration table holds, and kept finite and above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from calib8.calibrate.histogram import BlobHistogram
from calib8.calibrate.thresholds import kl, kl_fine, maximum, mse, percentile
from calib8.errors import OptionError

__all__ = [
    "DEAD_THRESHOLD",
    "DEFAULT_METHOD",
    "METHODS",
    "Method",
    "ThresholdOptions",
    "check_method",
    "find_threshold",
]

DEFAULT_METHOD = "kl"
DEAD_THRESHOLD = 1.0
"""Threshold of a blob without a value that differs from 0."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ThresholdOptions:
    """What can be set beside the method's name.

    Attributes:
        ignore_zeros: leave values that are exactly 0 out of the distribution; the original counts them.
        percent: for `percentile`: the share of values to keep unclipped, above 0 and up to 100.

    Raises:
        OptionError: a percentage out of range.
    """

    ignore_zeros: bool = False
    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise OptionError(f"`percent` is {self.percent}; it must be above 0 and at most 100, like 99.99")


@dataclass(frozen=True)
class Method:
    """One way to choose a threshold.

    Attributes:
        name: what the user writes.
        summary: one line for a help text.
        threshold: from a histogram that is not dead; in real units.
    """

    name: str
    summary: str
    threshold: Callable[[BlobHistogram, ThresholdOptions], float]


_METHODS = (
    Method("kl", "KL divergence, a candidate every 128 bins, as the original", lambda h, _: kl.threshold(h)),
    Method("kl-fine", "KL divergence, every bin a candidate", lambda h, _: kl_fine.threshold(h)),
    Method("mse", "smallest mean squared error", lambda h, _: mse.threshold(h)),
    Method("percentile", "so many percent of the values", lambda h, o: percentile.threshold(h, o.percent)),
    Method("max", "the largest absolute value", lambda h, _: maximum.threshold(h)),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _METHODS})
"""The methods by name, the default first."""


def check_method(name: str) -> None:
    """Refuse the name of a method that does not exist.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in METHODS:
        raise OptionError(f"no threshold method {name!r}; choose one of {', '.join(METHODS)}")


def find_threshold(
    histogram: BlobHistogram,
    method: str = DEFAULT_METHOD,
    options: ThresholdOptions = ThresholdOptions(),
) -> float:
    """The blob's threshold in real units: a positive finite float32 value.

    Raises:
        OptionError: no method of that name, or a number of bins that `kl` cannot search.
    """
    check_method(method)
    if histogram.dead:
        return DEAD_THRESHOLD
    counted = histogram.without_zeros() if options.ignore_zeros else histogram
    found = METHODS[method].threshold(counted, options)
    return float(np.float32(min(found, _LARGEST)))
