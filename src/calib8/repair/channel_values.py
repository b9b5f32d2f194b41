"""What is kept of a value's channels: some places of every sample, and the largest |x| of all, and of all but one."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.layer_kit.window_product import evenly
from calib8.measure.counting import largest_of_rows
from calib8.repair.unseen_maxima import TwoLargest, UnseenMaxima, unseen_maxima

Array = NDArray[np.float64]

_KEPT_BYTES = 64 << 20  # of values of all layers
_MOST_KEPT = 4096  # values of a channel
_OF_MOMENTS = 256  # places of a sample: of eighty samples 20,000
_TELLING = 256  # values of a sample that tell it from others


def kept_per_sample(channels: int, samples: int) -> int:
    """Say at how many places of a sample values are kept, where so many channels are looked at."""
    kept = min(_MOST_KEPT, max(1, _KEPT_BYTES // (4 * max(channels, 1))))
    return -(-kept // samples)


def scattered(values: NDArray[Any], total: int, count: int) -> NDArray[np.intp]:
    """Pick at most `count` of `total` places, one anywhere in each of as many equal parts.

    Maps have large values at places of their own, a corner or the border: the same places of every sample would miss
    them again and again. Where in its part a place lies is drawn at random, by what the sample is like: which of some
    values are above their mean. So the order of samples does not count, and last bits hardly ever do.

    Args:
        values: of the sample.
    """
    n = min(total, count)
    if n == total:
        return np.arange(total, dtype=np.intp)
    some = values.reshape(-1)[evenly(values.size, _TELLING)]
    seed = zlib.crc32(np.packbits(some > some.mean(dtype=np.float64)).tobytes())
    places = (np.arange(n) + np.random.default_rng(seed).random(n)) * (total / n)
    return np.asarray(np.minimum(places.astype(np.intp), total - 1))


class ChannelMaxima:
    """The largest |x| of every channel; neither NaN nor infinities count.

    Attributes:
        maxima: the largest of every sample, (C); of all samples, and without the one that has the largest.
        places: numbers of a channel in a sample, the last one.
    """

    def __init__(self) -> None:
        self.maxima, self.places = TwoLargest(), 0

    @property
    def seen(self) -> bool:
        """Whether there was a number in any sample: layers in Python may give no row."""
        return self.maxima.seen

    def add(self, values: NDArray[Any]) -> None:
        """Take in a value of one sample, (N, C, ...)."""
        if values.size:
            self._take(values.reshape(*values.shape[:2], -1))

    def _take(self, images: NDArray[Any]) -> NDArray[Any]:
        """Take in (N, C, n), and give it with 0 for what does not count."""
        rows = np.ascontiguousarray(images, dtype=np.float32).reshape(-1, images.shape[2])
        largest = largest_of_rows(rows).reshape(images.shape[:2])
        if not np.isfinite(largest).all():
            images = np.nan_to_num(images, posinf=0.0, neginf=0.0)
            largest = np.abs(images).max(axis=2)
        self.maxima.add(largest)
        self.places = images.shape[2]
        return images

    @property
    def largest(self) -> Array:
        """The largest |x| of every channel, (C)."""
        return self.maxima.largest

    def unseen(self, units: Array | float = 1.0) -> UnseenMaxima:
        """Say what new samples will bring, counted in units, (C) or the same for all."""
        seen = self.maxima
        return unseen_maxima(seen.largest / units, seen.second / units, seen.samples, self.places)


class ChannelMoments(ChannelMaxima):
    """The largest |x| of every channel, and its mean square, from some places of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: list[Array] = []
        self._count = 0

    def add(self, values: NDArray[Any]) -> None:
        """Take in a value of one sample, (N, C, ...)."""
        if values.size:
            images = self._take(values.reshape(*values.shape[:2], -1))
            places = scattered(images, images.shape[2], _OF_MOMENTS)
            # "clip" looks at no bounds, and takes a third of the time.
            some = np.take(images, places, axis=2, mode="clip") if len(places) < images.shape[2] else images
            self._sums.append(np.square(some, dtype=np.float64).sum(axis=(0, 2)))
            self._count += len(some) * some.shape[2]

    @property
    def squares(self) -> Array:
        """E[x^2] of every channel, (C)."""
        # Sorted, since the order of samples does not count.
        return np.asarray(np.sort(np.stack(self._sums), axis=0).sum(axis=0) / self._count)


class ChannelValues:
    """Values of every channel, from some places of each sample, and the least and the largest of all.

    What is no number, or infinite, counts as 0.

    Args:
        per_sample: how many places.

    Attributes:
        maxima: by sample, of -x and of x, (2, C).
        places: numbers of a channel in a sample, the last one.
    """

    def __init__(self, per_sample: int) -> None:
        self._per_sample = per_sample
        self._parts: list[NDArray[np.float32]] = []
        self.maxima, self.places = TwoLargest(), 0

    def add(self, values: NDArray[Any]) -> None:
        """Take in a value of one sample, (N, C, ...)."""
        if not values.size:
            return
        images = values.reshape(*values.shape[:2], -1)
        size, ends = images.shape[2], _ends(images)
        if not np.isfinite(ends).all():
            images = np.nan_to_num(images, posinf=0.0, neginf=0.0)
            ends = _ends(images)
        self.maxima.add(ends)
        self.places = size
        image, place = np.divmod(scattered(images, len(images) * size, self._per_sample), size)
        self._parts.append(images[image, :, place].T.astype(np.float32))

    @property
    def seen(self) -> bool:
        """Whether there was a number in any sample."""
        return self.maxima.seen

    @property
    def ends(self) -> tuple[Array, Array]:
        """The least and the largest x of every channel, (C) each."""
        least, largest = self.maxima.largest
        return -least, largest

    @property
    def ends_without(self) -> tuple[Array, Array]:
        """Likewise, each without the sample that has it; infinite with a single sample."""
        least, largest = self.maxima.second
        return -least, largest

    def values(self) -> NDArray[np.float32]:
        """Give what was kept, (C, n)."""
        return np.concatenate(self._parts, axis=1)


def _ends(images: NDArray[Any]) -> NDArray[np.float32]:
    """The least x, negated, and the largest, of every channel of every image, (N, C, n): (N, 2, C)."""
    return np.stack([-images.min(axis=2), images.max(axis=2)], axis=1).astype(np.float32)
