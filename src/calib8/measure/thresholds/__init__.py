"""From a histogram to a threshold, by named methods; one file per method, with formula and source.

- `kl`: the original tool's search (default)
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

from calib8.boundary import closed_class
from calib8.choices import DEFAULT_METHOD, DEFAULT_PERCENT, ORIGINAL_METHOD
from calib8.errors import OptionError
from calib8.measure.histogram import BlobHistogram
from calib8.measure.thresholds import kl, kl_fine, maximum, mse, percentile

__all__ = [
    "DEAD_THRESHOLD",
    "DEFAULT_METHOD",
    "METHODS",
    "ORIGINAL_METHOD",
    "Method",
    "ThresholdOptions",
    "find_threshold",
    "method_named",
]

DEAD_THRESHOLD = 1.0
"""Threshold of a blob without a value that differs from 0."""

_LARGEST = float(np.finfo(np.float32).max)


@closed_class
@dataclass(frozen=True)
class ThresholdOptions:
    """What can be set beside the method's name.

    Attributes:
        ignore_zeros: for `percentile`: leave values that are exactly 0 out of the distribution. `kl` and `kl-fine`
            always do; `mse` and `max` give the same either way.
        percent: for `percentile`: the share of values to keep unclipped, above 0 and up to 100.

    Raises:
        OptionError: a percentage out of range.
    """

    ignore_zeros: bool = False
    percent: float = DEFAULT_PERCENT

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise OptionError(f"`percent` is {self.percent}; it must be above 0 and at most 100, like 99.99")


@dataclass(frozen=True)
class Method:
    """One way to choose a threshold.

    Attributes:
        name: what the user writes; `calib8.choices` has a line about it.
        threshold: from a histogram that is not dead; in real units.
        without_zeros: values that are exactly 0 are left out of the distribution. They are exact in INT8 whatever the
            threshold; counted, they are half of what is behind a ReLU, and lead a divergence to tiny thresholds.
        like_the_original: the distribution is the original tool's: of a value as its layer writes it, before a ReLU,
            and counted by the formula to the last value. Else it is that of what is quantised, behind the ReLU, and one
            pass over the data will do.
    """

    name: str
    threshold: Callable[[BlobHistogram, ThresholdOptions], float]
    without_zeros: bool = False
    like_the_original: bool = False


_METHODS = (
    Method("kl", lambda h, _: kl.threshold(h), without_zeros=True, like_the_original=True),
    Method("kl-fine", lambda h, _: kl_fine.threshold(h), without_zeros=True),
    Method("mse", lambda h, _: mse.threshold(h)),
    Method("percentile", lambda h, o: percentile.threshold(h, o.percent)),
    Method("max", lambda h, _: maximum.threshold(h)),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _METHODS})
"""The methods by name, the default first."""


def method_named(name: str) -> Method:
    """Return the method of that name.

    Raises:
        OptionError: there is none.
    """
    if name not in METHODS:
        raise OptionError(f"no threshold method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def find_threshold(
    histogram: BlobHistogram,
    method: str = DEFAULT_METHOD,
    options: ThresholdOptions = ThresholdOptions(),
) -> float:
    """Find the blob's threshold in real units: a positive finite float32 value.

    Raises:
        OptionError: no method of that name, or a number of bins that `kl` cannot search.
    """
    own = method_named(method)
    if histogram.dead:
        return DEAD_THRESHOLD
    counted = histogram.without_zeros() if own.without_zeros or options.ignore_zeros else histogram
    return float(np.float32(min(own.threshold(counted, options), _LARGEST)))
