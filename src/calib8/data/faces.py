"""The face between samples and those who consume them: `SampleSource`, and `takes` to get a number of images."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError, OptionError
from calib8.graph import Shape

Batch = dict[str, NDArray[np.float32]]
"""One array per top blob, under the blob's name in the prototxt; axis 0 counts images."""


@dataclass(frozen=True)
class Linear:
    """What a source does to pixels: `sample[c] = (pixel[c] - mean[c]) * scale[c]`.

    Attributes:
        mean, scale: one number for each channel of a sample; of a mean for each pixel, the channel's average.
        order: of the channels: "bgr", "rgb" or "gray"; "given" where only the user knows.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    order: str


class SampleSource(Protocol):
    """Calibration or test samples for the tops of one data layer.

    Attributes:
        shapes: the shape of every top of a full batch, known before the first batch is read.
        size: number of images that there are; None if the source begins again by itself (Python layers).
        batch_size: images in a full batch.
        notes: what the source does differently from what the prototxt may let one expect, a sentence each.
    """

    shapes: Mapping[str, Shape]
    size: int | None
    batch_size: int
    notes: tuple[str, ...]

    def batches(self) -> Iterator[Batch]:
        """Yield all samples in their order, in full batches; only the last one may be smaller.

        Every call begins with the first sample again, and gives the same bytes. The arrays are the caller's.

        Raises:
            DataError: a sample that cannot be read or does not fit the shape, by name.
            UserLayerError: a Python layer failed.
        """
        ...


@runtime_checkable
class Seekable(Protocol):
    """A source that need not read the samples before the one to begin with."""

    def batches_from(self, start: int) -> Iterator[Batch]:
        """Yield the samples from number `start` on (0 is the first), in full batches; else as `batches`."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """A source that need not hold a whole batch."""

    def one_by_one(self) -> SampleSource:
        """Return a source of the same samples in batches of one."""
        ...


@runtime_checkable
class Wrapping(Protocol):
    """A source that gives what another one gives.

    Attributes:
        origin: that other one, which knows of files and of preprocessing.
    """

    origin: SampleSource


def origin_of(source: SampleSource) -> SampleSource:
    """Return the source that reads the samples, whoever looks at them on their way."""
    return origin_of(source.origin) if isinstance(source, Wrapping) else source


def takes(source: SampleSource, iteration: int, start: int = 0) -> Iterator[Batch]:
    """Yield batches until `iteration` images were given; the last batch is cut to what is still missing.

    Args:
        start: so many of the first images are passed over.

    Raises:
        OptionError: `iteration` is below 1, or `start` is not below it.
        DataError: there are fewer images; both numbers are in the message.
    """
    if iteration < 1:
        raise OptionError(f"`iteration` is {iteration}; it counts images and must be at least 1")
    if not 0 <= start < iteration:
        raise OptionError(f"images {start} to {iteration} are none")
    if source.size is not None and iteration > source.size:
        raise DataError(
            f"`iteration` asks for {iteration} images, but the data set has {source.size}; "
            "give a smaller `iteration` or more images"
        )
    return _cut(source, iteration, start)


def _cut(source: SampleSource, iteration: int, start: int) -> Iterator[Batch]:
    seeks = start > 0 and isinstance(source, Seekable)
    batches = source.batches_from(start) if seeks and isinstance(source, Seekable) else source.batches()
    given = start if seeks else 0
    try:
        for batch in batches:
            images = len(next(iter(batch.values())))
            first, last = max(start - given, 0), min(images, iteration - given)
            given += last
            if first < last:
                whole = first == 0 and last == images
                yield batch if whole else {top: _part(array, images, first, last) for top, array in batch.items()}
            if given >= iteration:
                return
    finally:
        if isinstance(batches, Generator):
            batches.close()
    raise DataError(f"`iteration` asks for {iteration} images, but the data ended after {given}")


def _part(array: NDArray[np.float32], images: int, first: int, last: int) -> NDArray[np.float32]:
    """Cut the part of a top that belongs to some images; a top that does not count images stays whole."""
    return array[first:last] if array.ndim and len(array) == images else array
