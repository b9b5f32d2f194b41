"""Samples for an input: images of a list, prepared by a Preprocess."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from calib8.data.faces import Batch, Linear, SampleSource
from calib8.data.image_list import ListedImage, find_images, label_notes
from calib8.data.looking import problem_of
from calib8.data.preprocess import IMAGE_CHANNELS, Placement, Preparer, Preprocess
from calib8.errors import DataError
from calib8.graph import Shape

_CHANNELS_FIRST, _CHANNELS_LAST = (2, 0, 1), (0, 1, 2)  # of the axes height, width, channel


class ImagesSource(SampleSource):
    """A SampleSource of images for one input blob.

    Attributes:
        names: of the image files, without their folders.
        preprocess: how they become samples.
    """

    def __init__(
        self,
        listing: str | os.PathLike[str],
        top: str,
        shape: Shape,
        preprocess: Preprocess,
        constants: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """Find the images.

        Args:
            listing: a text file with a path per line, a folder, or a single image.
            top: the input blob.
            shape: its shape (N, C, H, W); (N, H, W, C), where the last axis alone can be channels of an image.
            preprocess: how the images become samples.
            constants: other input blobs, the same for every batch. Where axis 0 is as long as that of the images,
                it counts them, too.

        Raises:
            DataError: an input that takes no images, missing images (the first 20), a mean that does not fit.
        """
        if len(shape) != 4 or min(shape) < 1:
            raise DataError(f"input {top!r} has the shape {shape}; images need (N, C, H, W)")
        fitting, notes = _for_axes(shape, preprocess, f"input {top!r}")
        self._preparer = _preparer(top, shape, fitting)
        self._listing, self.preprocess = listing, preprocess
        self._images = find_images(listing, "images")
        self.names = tuple(listed.path.name for listed in self._images)
        self._top = top
        self._left_out: frozenset[int] = frozenset()  # numbers in the listing
        self._constants = dict(constants or {})
        self.shapes = {top: shape, **{blob: array.shape for blob, array in self._constants.items()}}
        self.size = len(self._images)
        self.batch_size = shape[0]
        self.notes = notes + label_notes(self._images, str(listing))

    def prepared_by(self, preprocess: Preprocess) -> ImagesSource:
        """The same images, prepared in another way.

        Raises:
            DataError: it does not fit the input.
        """
        twin = ImagesSource(self._listing, self._top, self.shapes[self._top], preprocess, self._constants)
        return twin.without(self._left_out)

    @property
    def linear(self) -> Linear:
        """What happens to pixels, channel by channel."""
        return self._preparer.linear

    def placements(self, count: int) -> list[Placement]:
        """Say where the first images lie in their samples; images are decoded for that, since a camera may turn them.

        Raises:
            DataError: an image that cannot be used.
        """
        found = []
        for listed in self._images[:count]:
            try:
                found.append(self._preparer.placement(listed.read(self._preparer.flags)))
            except DataError as why:
                text = str(why)
                raise DataError(text if str(listed.path) in text else f"{listed.place}: {listed.path} {why}") from None
        return found

    def batches(self) -> Iterator[Batch]:
        """Yield batches, see SampleSource."""
        return self.batches_from(0)

    def batches_from(self, start: int) -> Iterator[Batch]:
        """Yield batches, see Seekable."""
        for first in range(start, len(self._images), self.batch_size):
            chosen = self._images[first : first + self.batch_size]
            array = np.empty((len(chosen), *self._preparer.shape), np.float32)
            for listed, sample in zip(chosen, array, strict=True):
                prepare(listed, self._preparer, sample)
            yield {self._top: array, **self._rest(len(chosen))}

    def one_by_one(self) -> ImagesSource:
        """Give one image at a time, see Divisible."""
        twin = copy.copy(self)
        twin.batch_size, twin._constants = 1, self._rest(1)
        twin.shapes = {self._top: (1, *self.shapes[self._top][1:]), **{b: a.shape for b, a in twin._constants.items()}}
        return twin

    def problems(self, *, decode: bool) -> Iterator[str]:
        """Look at every image, see Examinable."""
        sample = np.empty(self._preparer.shape, np.float32)
        for listed in self._images:
            yield problem_of(partial(prepare, listed, self._preparer, sample) if decode else listed.check)

    def without(self, bad: Collection[int]) -> ImagesSource:
        """Leave images out, see Examinable."""
        twin = copy.copy(self)
        kept = [index for index in range(len(self._images)) if index not in bad]
        numbers = [n for n in range(len(self._images) + len(self._left_out)) if n not in self._left_out]
        twin._images = [self._images[index] for index in kept]
        twin._left_out = self._left_out | {numbers[index] for index in bad}
        twin.names = tuple(listed.path.name for listed in twin._images)
        twin.size = len(twin._images)
        return twin

    def _rest(self, images: int) -> Batch:
        of_images = {blob for blob, array in self._constants.items() if len(array) == self.batch_size}
        return {b: (array[:images] if b in of_images else array).copy() for b, array in self._constants.items()}


def prepare(listed: ListedImage, preparer: Preparer, sample: np.ndarray) -> None:
    """Read one image and fill `sample` from it. Raises DataError with the image's path and place."""
    image = listed.read(preparer.flags)
    try:
        preparer.apply(image, sample)
    except DataError as why:
        raise DataError(f"{listed.place}: {listed.path} {why}") from None


def _for_axes(shape: Shape, preprocess: Preprocess, what: str) -> tuple[Preprocess, tuple[str, ...]]:
    """The Preprocess with its axes in the order of the input: networks that came from TensorFlow have channels last."""
    if shape[1] in IMAGE_CHANNELS or shape[3] not in IMAGE_CHANNELS or preprocess.transpose != _CHANNELS_FIRST:
        return preprocess, ()
    return replace(preprocess, transpose=_CHANNELS_LAST), (f"{what} has its channels last; samples are given so",)


def _preparer(top: str, shape: Shape, preprocess: Preprocess) -> Preparer:
    height, width, channels = (shape[1 + preprocess.transpose.index(axis)] for axis in range(3))
    try:
        preparer = Preparer(preprocess, preprocess.size or (height, width), channels)
    except DataError as why:
        raise DataError(f"input {top!r}: {why}") from None
    if preparer.shape != shape[1:]:
        raise DataError(
            f"input {top!r} has the shape {shape}, the size {preprocess.size} gives samples of {preparer.shape}"
        )
    return preparer
