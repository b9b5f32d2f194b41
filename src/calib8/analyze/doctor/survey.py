"""`Survey`: what the doctor keeps of every image, in one pass: so little that the number of images hardly matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calib8.engine import EngineOptions, Executor
from calib8.lowering import Model, lower_float
from calib8.measure.histogram import AdaptiveHistogram, BlobHistogram

Array = NDArray[Any]
THUMB = 16
"""Images are compared as squares of this many pixels a side, gray."""


@dataclass(frozen=True, eq=False)
class Survey:
    """All images of a data set, in a few numbers each.

    Attributes:
        halves: histograms of every value over the images with even and with odd numbers.
        whole: the same over all images.
        peaks: (images, values): the largest finite |x| of each value in each image.
        values: in the order of the columns of `peaks`.
        called: by value, what people call it: its blob, with the layer where later ones overwrite it in place.
        channel_peaks: by value (C,), the largest |x| of each channel over all images.
        thumbs: (images, THUMB * THUMB), gray, in the units of the samples.
        spread: (images,): the difference of the largest and the smallest number in a sample.
        not_finite: numbers of images that hold a NaN or an infinity.
    """

    halves: tuple[Mapping[str, BlobHistogram], Mapping[str, BlobHistogram]]
    whole: Mapping[str, BlobHistogram]
    peaks: NDArray[np.float64]
    values: tuple[str, ...]
    called: Mapping[str, str]
    channel_peaks: Mapping[str, NDArray[np.float64]]
    thumbs: NDArray[np.float32]
    spread: NDArray[np.float64]
    not_finite: tuple[int, ...]

    @property
    def images(self) -> int:
        """How many were looked at."""
        return len(self.spread)


def survey_images(
    model: Model,
    samples: Iterable[Mapping[str, Array]],
    values: Sequence[str],
    blob: str,
    bins: int,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Survey:
    """Run every sample once.

    Args:
        model: of one sample.
        samples: the inputs by value.
        values: whose distributions are wanted.
        blob: the value among the inputs that holds the image.
    """
    taken = _Taken(values, bins)
    wanted = [value for value in values if value not in model.inputs]
    executor = Executor(lower_float(model, wanted), values, EngineOptions(threads=threads))
    for index, sample in enumerate(samples):
        taken.begin(sample[blob])
        executor.run(sample, taken.see)  # type: ignore[arg-type]  # values in FP32 are read by their names
        progress(index + 1)
    return taken.result(called_in(model, values))


def called_in(model: Model, values: Sequence[str]) -> dict[str, str]:
    """What people call values: their blobs, with the layer where later layers overwrite them in place."""
    net = model.net
    blobs = {value: net.blob_of[value] for value in values}
    return {v: blob if blob == v else _overwritten(model, v, blob) for v, blob in blobs.items()}


def _overwritten(model: Model, value: str, blob: str) -> str:
    """One of several values of a blob that layers overwrite in place."""
    net = model.net
    names = [layer.name for layer in net.layers for top in layer.tops if net.blob_of[top] == blob]
    own = net.producer[value].name if value in net.producer else ""
    after = names[names.index(own) + 1 :][:1] if own in names else names[:1]
    return f"{blob} (before {after[0]})" if after else f"{blob} (behind {own})"


class _Taken:
    """What has been seen so far."""

    def __init__(self, values: Sequence[str], bins: int) -> None:
        self._values = tuple(values)
        self._counters = [{value: AdaptiveHistogram(bins) for value in values} for _ in range(3)]  # halves, whole
        self._peaks: list[dict[str, float]] = []
        self._channels: dict[str, NDArray[np.float64]] = {}
        self._thumbs: list[NDArray[np.float32]] = []
        self._spread: list[float] = []
        self._not_finite: list[int] = []

    def begin(self, image: Array) -> None:
        """Look at the sample itself."""
        if not np.isfinite(image).all():
            self._not_finite.append(len(self._spread))
            image = np.nan_to_num(image, posinf=0, neginf=0)
        self._thumbs.append(_thumb(image))
        self._spread.append(float(image.max()) - float(image.min()))
        self._peaks.append({})

    def see(self, value: str, array: Array) -> None:
        """Count one value of the image that was begun."""
        self._counters[len(self._peaks) % 2][value].add(array)
        self._counters[2][value].add(array)
        peaks = _channel_peaks(array)
        self._peaks[-1][value] = float(peaks.max(initial=0.0))
        known = self._channels.get(value)
        same = known is not None and known.shape == peaks.shape
        self._channels[value] = np.maximum(known, peaks) if known is not None and same else peaks

    def result(self, called: Mapping[str, str]) -> Survey:
        """Bring all of it together."""
        odd, even, whole = ({value: c.result() for value, c in counters.items()} for counters in self._counters)
        peaks = np.array([[image.get(value, 0.0) for value in self._values] for image in self._peaks])
        return Survey(
            (even, odd), whole, peaks, self._values, called,
            self._channels, np.stack(self._thumbs), np.array(self._spread), tuple(self._not_finite),
        )  # fmt: skip


def _thumb(image: Array) -> NDArray[np.float32]:
    """A sample (N, C, H, W), or of any shape, as a small gray square."""
    plane = image.reshape(-1, *image.shape[-2:]).mean(axis=0) if image.ndim > 2 else image.reshape(1, -1)
    return np.asarray(cv2.resize(plane.astype(np.float32), (THUMB, THUMB), interpolation=cv2.INTER_AREA)).reshape(-1)


def _channel_peaks(array: Array) -> NDArray[np.float64]:
    """The largest finite |x| of each channel (axis 1); of the whole where there are no channels."""
    rows = array.reshape(1, -1) if array.ndim < 2 else np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
    low, high = rows.min(axis=1, initial=0.0), rows.max(axis=1, initial=0.0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        rows = np.where(np.isfinite(rows), rows, 0)
        low, high = rows.min(axis=1, initial=0.0), rows.max(axis=1, initial=0.0)
    return np.asarray(np.maximum(-low, high), np.float64)
