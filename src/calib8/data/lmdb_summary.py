"""What is in an LMDB of Datums: counts, shapes, labels, means; and the mean image that transform_param takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calib8.data.datum import Sample, read_datum
from calib8.data.lmdb_env import LmdbRecords
from calib8.data.mean import MAX_MEAN_BYTES
from calib8.data.transform import Transform
from calib8.errors import DataError, OptionError
from calib8.graph import Shape

Progress = Callable[[int], None]
_AS_STORED = Transform()


@dataclass
class LmdbSummary:
    """What the records have, counted one after another.

    Attributes:
        first_keys: as text.
        encoded: how many hold the bytes of an image file; the others hold pixels.
        shapes: how many have a shape (C, H, W).
        labels: how many have a label.
    """

    first_keys: list[str] = field(default_factory=list)
    records: int = 0
    encoded: int = 0
    shapes: Counter[Shape] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    _sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)  # channels -> sum of each

    def add(self, sample: Sample) -> None:
        """Count a record."""
        self.records += 1
        self.encoded += sample.encoded
        channels = sample.pixels.shape[0]
        self.shapes[sample.pixels.shape] += 1
        self.labels[int(sample.label)] += 1
        self._sums[channels] = self._sums.get(channels, 0) + sample.pixels.sum(axis=(1, 2), dtype=np.float64)

    @property
    def channel_means(self) -> tuple[float, ...] | None:
        """The mean of each channel over all pixels, as they are stored; None if numbers of channels differ."""
        if len(self._sums) != 1:
            return None
        (sums,) = self._sums.values()
        return tuple(float(x) for x in sums / sum(n * h * w for (_, h, w), n in self.shapes.items()))


def summarize(records: LmdbRecords, keys: int, progress: Progress) -> LmdbSummary:
    """Read all records.

    Args:
        keys: how many keys are kept.
        progress: called with the number of records that are done.

    Raises:
        DataError: a record that is no Datum, by its key.
    """
    summary = LmdbSummary()
    for key, record in records:
        summary.add(_sample(records, key, record))
        if summary.records <= keys:
            summary.first_keys.append(_text(key))
        progress(summary.records)
    return summary


def record_at(records: LmdbRecords, index: int) -> Sample:
    """Read the sample with this number, in the order of the keys.

    Raises:
        OptionError: there are fewer.
        DataError: it is no Datum.
    """
    if not 0 <= index < records.count:
        raise OptionError(f"{records.path}: there is no record {index}; they are numbered 0 to {records.count - 1}")
    key, record = next(records.records(index))
    return _sample(records, key, record)


def mean_image(records: LmdbRecords, progress: Progress) -> NDArray[np.float32]:
    """Compute the mean of all records, (C, H, W), summed in float64.

    Source: BVLC/caffe, tools/compute_image_mean.cpp, which sums in float32.

    Raises:
        DataError: records of different shapes, or none that are Datums.
    """
    total: NDArray[np.float64] | None = None
    for number, (key, record) in enumerate(records, 1):
        pixels = _sample(records, key, record).pixels
        if total is None:
            if 4 * pixels.size > MAX_MEAN_BYTES:
                raise DataError(f"{records.path}: a mean of the shape {pixels.shape} is larger than any that is read")
            total = np.zeros(pixels.shape)
        if pixels.shape != total.shape:
            raise DataError(
                f"{records.path}: the record with key {_text(key)!r} has the shape {pixels.shape}, the first one "
                f"{total.shape}; a mean image needs records of one shape"
            )
        total += pixels
        progress(number)
    if total is None:
        raise DataError(f"{records.path}: there are no records")
    return (total / records.count).astype(np.float32)


def _sample(records: LmdbRecords, key: bytes, record: bytes) -> Sample:
    try:
        return read_datum(record, _AS_STORED, annotated=False)
    except DataError as why:
        raise DataError(f"{records.path}: the record with key {_text(key)!r} {why}") from None


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
