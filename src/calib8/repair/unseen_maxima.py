"""Unseen maxima: what channels lose of samples that drive them further than all that were seen.

A unit of its own gives every channel a range that ends where its largest value does. The next sample goes beyond it in
one channel of n, where n samples were seen, and channels are many: with ten images of 32x32 pixels, clipping alone took
3 dB of 24 from a network of 20 layers. What is clipped of whom cannot be seen in the samples that gave the ranges, but
how much their largest values differ can: r1 is a channel's largest value, and r2 the largest without the sample that
has it. Tails are taken to be exponential, as in `tail_room`, of an excess b[c] that is a share g of r1[c], the same for
all channels of a value, since one difference says little:

    g = mean over channels of (r1 - r2) / r1,   b[c] = g r1[c],   b[c] = 0 where r1[c] = r2[c]
    clipped(t) = 1/n * sum_c 2 b[c]^2 exp(-max(t - r1[c], 0) / b[c])

is the sum of squares that a threshold of t clips of a new sample, all channels counted in their units, and rounding
costs m t^2 / (12 * 128^2) of its m numbers. Above the threshold that was found, up to twice as much, the one with the
least sum is taken. Large maps have many numbers, and largest values that differ little: there it is the one that was
found. From 64 samples on no room is made: the sum of squares would still fall, but no class and no box was won by it.
A channel with a bound, as ReLU6 sets it, has the same largest value again and again, and needs no room.

Source: the mean of the difference of the two largest of n exponential values is the mean excess b: A. Renyi, On the
theory of order statistics, 1953.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS

Array = NDArray[np.float64]

_TRIED = 1 + np.arange(65) / 64  # in units of the threshold that was found
_FEWEST = 2  # samples that differ
_ENOUGH = 64
"""Samples from which on no room is made: with 80, coarser codes cost as many classes and boxes as room keeps."""


class TwoLargest:
    """The largest and the second largest number of samples, at every place of arrays of one shape.

    Attributes:
        samples: how many there were.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._largest: NDArray[np.float32] | None = None
        self._second: NDArray[np.float32] | None = None

    def add(self, numbers: NDArray[np.float32]) -> None:
        """Take in those of some samples, (N, ...)."""
        for own in numbers:
            self.samples += 1
            if self._largest is None or self._second is None:
                self._largest, self._second = own, np.full_like(own, -np.inf)
                continue
            self._second = np.maximum(self._second, np.minimum(self._largest, own))
            self._largest = np.maximum(self._largest, own)

    @property
    def seen(self) -> bool:
        """Whether there was a sample."""
        return self._largest is not None

    @property
    def largest(self) -> Array:
        """The largest numbers."""
        if self._largest is None:
            raise AssertionError("nothing was observed")
        return self._largest.astype(np.float64)

    @property
    def second(self) -> Array:
        """The largest numbers without the sample that has the largest one; minus infinity with a single sample."""
        if self._second is None:
            raise AssertionError("nothing was observed")
        return self._second.astype(np.float64)


@dataclass(frozen=True, eq=False)
class UnseenMaxima:
    """What new samples will bring.

    Attributes:
        largest: r1, (C), in any unit of each channel.
        excess: b, (C).
        samples: n.
        numbers: m, of a sample.
    """

    largest: Array
    excess: Array
    samples: int
    numbers: int

    def clipped(self, limits: Array) -> Array:
        """Compute the sum of squares that is clipped of a channel of a new sample, in the mean over samples.

        Args:
            limits: from where on, (..., C) or a shape that becomes it.

        Returns:
            (..., C).
        """
        found = np.zeros(np.broadcast_shapes(np.shape(limits), self.largest.shape))
        beyond = np.maximum(np.broadcast_to(limits, found.shape) - self.largest, 0)
        moving = self.excess > 0
        b = self.excess[moving]
        found[..., moving] = 2 * b**2 * np.exp(-beyond[..., moving] / b) / max(self.samples, 1)
        return found

    def threshold(self, found: float) -> float:
        """Find the threshold with the least sum of what is clipped and what is rounded, from `found` to twice as much.

        Args:
            found: in the channels' units.
        """
        tried = found * _TRIED
        clipped = self.clipped(tried[:, None]).sum(axis=1)
        return float(tried[np.argmin(clipped + self.numbers * tried**2 / (12 * INT8_LEVELS**2))])


def raised(found: Mapping[str, float], unseen: Mapping[str, UnseenMaxima]) -> dict[str, float]:
    """Give those thresholds, by value, that are larger with room than without."""
    with_room = {value: own.threshold(found[value]) for value, own in unseen.items() if own.excess.any()}
    return {value: threshold for value, threshold in with_room.items() if threshold > found[value]}


def unseen_maxima(largest: Array, second: Array, samples: int, places: int) -> UnseenMaxima:
    """Say what new samples will bring.

    Args:
        largest, second: r1 and r2, (C), at least 0 where it matters; those of a channel that was always 0 are 0.
        samples: n; no room is made where they are enough, nor of a single one, which tells nothing.
        places: numbers of a channel in a sample.
    """
    live = largest > 0
    if not _FEWEST <= samples < _ENOUGH or not live.any():
        return UnseenMaxima(largest, np.zeros(largest.shape), samples, places * largest.size)
    apart = np.clip(largest - second, 0, largest)
    share = float(np.mean(apart[live] / largest[live]))
    return UnseenMaxima(largest, np.where(apart > 0, share * largest, 0.0), samples, places * largest.size)
