"""Data and AnnotatedData layers: samples from an LMDB of Datum records, in the order of their keys.

Source: BVLC/caffe, src/caffe/layers/data_layer.cpp; src/caffe/util/db_lmdb.cpp; for AnnotatedData weiliu89/caffe,
branch ssd, src/caffe/layers/annotated_data_layer.cpp (only the image top: boxes are for training).

Deviations: `rand_skip` and `shuffle` are not followed, so that every run sees the same samples.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from calib8.data.batching import NamedSample, batches_of, check_fit, first_shapes
from calib8.data.datum import check_datum, read_datum
from calib8.data.faces import Batch, Linear, SampleSource
from calib8.data.files import find_path
from calib8.data.lmdb_env import LmdbRecords
from calib8.data.looking import first_usable, problem_of
from calib8.data.transform import Transform, read_transform
from calib8.errors import DataError
from calib8.proto import caffe_pb2
from calib8.reading import exists, is_folder


class LmdbSource(SampleSource):
    """A SampleSource over the LMDB of a Data or AnnotatedData layer; tops: pixels and, for Data, labels."""

    def __init__(self, param: caffe_pb2.LayerParameter, model_folder: Path) -> None:
        """Read the parameters and the first record.

        Raises:
            DataError: no LMDB, an empty one, a first record that cannot be read, fields without a meaning.
        """
        data = param.data_param
        self._annotated: bool = param.type == "AnnotatedData"
        self._records = LmdbRecords(_find_lmdb(data, model_folder, param.name), f"layer {param.name!r}")
        self._transform = _read_transform(param, model_folder)
        self._left_out: frozenset[int] = frozenset()
        self.size = self._records.count
        self.batch_size = data.batch_size
        self.notes = (*self._transform.notes, *_notes(data, param.name))
        shapes = first_shapes(param, data.batch_size, self._first(), self._transform)
        self.shapes = dict(list(shapes.items())[:1]) if self._annotated else shapes

    @property
    def linear(self) -> Linear:
        """What happens to pixels, channel by channel."""
        return self._transform.linear(next(iter(self.shapes.values()))[1])

    def batches(self) -> Iterator[Batch]:
        """Yield batches, see SampleSource."""
        return self.batches_from(0)

    def batches_from(self, start: int) -> Iterator[Batch]:
        """Yield batches, see Seekable."""
        return batches_of(self._samples(start), self.size - start, self.shapes, self._transform)

    def problems(self, *, decode: bool) -> Iterator[str]:
        """Look at every record, see Examinable."""
        for key, record in self._kept():
            yield problem_of(partial(self._check_fit if decode else self._check, key, record))

    def without(self, bad: Collection[int]) -> LmdbSource:
        """Leave records out, see Examinable."""
        numbers = [n for n in range(self._records.count) if n not in self._left_out] if self._left_out else None
        twin = copy.copy(self)
        twin._left_out = self._left_out | {index if numbers is None else numbers[index] for index in bad}
        twin.size = self._records.count - len(twin._left_out)
        return twin

    def _kept(self, start: int = 0) -> Iterator[tuple[bytes, bytes]]:
        if not self._left_out:
            return self._records.records(start)
        kept = (record for number, record in enumerate(self._records) if number not in self._left_out)
        return islice(kept, start, None)

    def _samples(self, start: int = 0) -> Iterator[NamedSample]:
        return (self._sample(key, record) for key, record in self._kept(start))

    def _first(self) -> Iterator[NamedSample]:
        return iter([first_usable(partial(self._sample, key, record) for key, record in self._records)])

    def _sample(self, key: bytes, record: bytes) -> NamedSample:
        try:
            sample = read_datum(record, self._transform, self._annotated)
        except DataError as why:
            raise DataError(f"{self._name(key)} {why}") from None
        return partial(self._name, key), sample

    def _check_fit(self, key: bytes, record: bytes) -> None:
        """Decode a record. Raises DataError, also if it does not give the first one's top."""
        check_fit(self._sample(key, record), next(iter(self.shapes.values()))[1:], self._transform)

    def _check(self, key: bytes, record: bytes) -> None:
        """Look at a record without decoding it; raises DataError as `_sample`."""
        try:
            check_datum(record, self._transform, self._annotated)
        except DataError as why:
            raise DataError(f"{self._name(key)} {why}") from None

    def _name(self, key: bytes) -> str:
        return f"{self._records.path}: the record with key {key.decode('utf-8', 'backslashreplace')!r}"


def _find_lmdb(data: caffe_pb2.DataParameter, model_folder: Path, layer: str) -> Path:
    if not data.source:
        raise DataError(f"layer {layer!r}: data_param.source is missing; it names the folder of the LMDB")
    path = find_path(data.source, [model_folder])
    has_lmdb = exists(path / "data.mdb")
    says_leveldb = data.HasField("backend") and data.backend == data.LEVELDB
    is_leveldb = is_folder(path) and not has_lmdb and exists(path / "CURRENT")
    if is_leveldb or says_leveldb:
        raise DataError(
            f"layer {layer!r}: data_param.backend LEVELDB is not read ({path}); make an LMDB with "
            "`convert_imageset --backend=lmdb` and write `backend: LMDB`, or list the images for an ImageData layer"
        )
    return path


def _read_transform(param: caffe_pb2.LayerParameter, model_folder: Path) -> Transform:
    message = type(param.transform_param)()
    message.CopyFrom(param.transform_param)
    if param.data_param.force_encoded_color:
        message.force_color = True
    return read_transform(message, model_folder, param.name)


def _notes(data: caffe_pb2.DataParameter, layer: str) -> tuple[str, ...]:
    ignored = [name for name in ("rand_skip", "shuffle") if getattr(data, name)]
    return tuple(f"layer {layer!r}: {x} is not followed; samples come in the order of their keys" for x in ignored)
