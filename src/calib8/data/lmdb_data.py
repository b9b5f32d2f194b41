"""Data and AnnotatedData layers: samples from an LMDB of Datum records, in the order of their keys.

Source: BVLC/caffe, src/caffe/layers/data_layer.cpp; src/caffe/util/db_lmdb.cpp; for AnnotatedData weiliu89/caffe,
branch ssd, src/caffe/layers/annotated_data_layer.cpp (only the image top: boxes are for training).

Deviations: `rand_skip` and `shuffle` are not followed, so that every run sees the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from calib8.data.batching import NamedSample, batches_of, first_shapes
from calib8.data.datum import read_datum
from calib8.data.faces import Batch, Linear, SampleSource
from calib8.data.files import find_path
from calib8.data.lmdb_env import LmdbRecords
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
        self.size = self._records.count
        self.batch_size = data.batch_size
        self.notes = (*self._transform.notes, *_notes(data, param.name))
        shapes = first_shapes(param, data.batch_size, self._samples(), self._transform)
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
        return batches_of(self._samples(start), self._records.count - start, self.shapes, self._transform)

    def _samples(self, start: int = 0) -> Iterator[NamedSample]:
        for key, record in islice(self._records, start, None):

            def name(key: bytes = key) -> str:
                return f"{self._records.path}: the record with key {key.decode('utf-8', 'backslashreplace')!r}"

            try:
                sample = read_datum(record, self._transform, self._annotated)
            except DataError as why:
                raise DataError(f"{name()} {why}") from None
            yield name, sample


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
