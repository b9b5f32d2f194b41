"""HDF5Data layers: rows of the datasets that are named like the tops, in the files of a list.

Source: BVLC/caffe, src/caffe/layers/hdf5_data_layer.cpp. Deviation: `shuffle` is not followed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calib8.data.batching import MAX_COUNT
from calib8.data.faces import Batch, SampleSource
from calib8.data.files import find_path, read_lines
from calib8.errors import DataError
from calib8.graph import Shape
from calib8.proto import caffe_pb2
from calib8.proto.hdf5 import HDF5_DAMAGES, MOST_COMPRESSED
from calib8.reading import is_file

_MOST_CHUNK = 2**28  # bytes that are unpacked at once


class Hdf5Source(SampleSource):
    """A SampleSource over the files of an HDF5Data layer; one top per dataset."""

    def __init__(self, param: caffe_pb2.LayerParameter, model_folder: Path) -> None:
        """Read the list, and the shapes in every file.

        Raises:
            DataError: h5py is missing, a file that cannot be read, datasets that are missing or do not fit together.
        """
        data = param.hdf5_data_param
        self._what = f"layer {param.name!r}"
        _check(param, self._what)
        self._files = _listed_files(data.source, model_folder, self._what)
        self._rows, shapes = _all_shapes(self._files, tuple(param.top), self._what)
        self.shapes = {top: (data.batch_size, *shape) for top, shape in shapes.items()}
        if any(math.prod(shape) > MAX_COUNT for shape in self.shapes.values()):
            raise DataError(
                f"{self._what}: a batch of {data.batch_size} rows is larger than a blob can be ({MAX_COUNT})"
            )
        self.size = sum(self._rows)
        self.batch_size = data.batch_size
        self.notes = (f"{self._what}: shuffle is not followed; rows come in their order",) if data.shuffle else ()

    def batches(self) -> Iterator[Batch]:
        """Yield batches, see SampleSource. A batch may hold rows of several files."""
        batch: Batch = {}
        missing, filled = sum(self._rows), 0
        for path, rows in zip(self._files, self._rows, strict=True):
            with _open(path, self._what) as file:
                done = 0
                while done < rows:
                    if not batch:
                        length = min(self.batch_size, missing)
                        batch = {t: np.empty((length, *s[1:]), np.float32) for t, s in self.shapes.items()}
                    count = min(rows - done, length - filled)
                    for top, array in batch.items():
                        array[filled : filled + count] = file[top][done : done + count]
                    done, filled, missing = done + count, filled + count, missing - count
                    if filled == length:
                        yield batch
                        batch, filled = {}, 0


def _check(param: caffe_pb2.LayerParameter, what: str) -> None:
    problems = []
    if not param.top:
        problems.append("has no top")
    if not param.hdf5_data_param.source:
        problems.append("hdf5_data_param.source is missing; it names a list of HDF5 files")
    if param.hdf5_data_param.batch_size < 1:
        problems.append("hdf5_data_param.batch_size is missing or 0; it must be at least 1")
    if param.HasField("transform_param"):
        problems.append("has a transform_param; Caffe does not transform HDF5 data")
    if problems:
        raise DataError(f"{what}: the samples cannot be read as the prototxt says", problems)


def _listed_files(source: str, model_folder: Path, what: str) -> list[Path]:
    lines = [line.strip() for line in read_lines(find_path(source, [model_folder]), what)]
    files = [find_path(line, [model_folder]) for line in lines if line]
    if not files:
        raise DataError(f"{what}: the list {source} names no files")
    missing = [f"no file {path}" for path in files if not is_file(path)]
    if missing:
        raise DataError(f"{what}: {len(missing)} of {len(files)} files in {source} are missing", missing[:20])
    return files


def _all_shapes(files: list[Path], tops: tuple[str, ...], what: str) -> tuple[list[int], dict[str, Shape]]:
    """Find the rows of every file, and the shape of one row of every top."""
    rows_and_shapes = [_shapes_in(path, tops, what) for path in files]
    first = rows_and_shapes[0][1]
    problems = [
        f"{path}: rows of the shapes {shapes}, the first file has {first}"
        for path, (_, shapes) in zip(files, rows_and_shapes, strict=True)
        if shapes != first
    ]
    if problems:
        raise DataError(f"{what}: the HDF5 files do not fit together", problems)
    return [rows for rows, _ in rows_and_shapes], first


def _shapes_in(path: Path, tops: tuple[str, ...], what: str) -> tuple[int, dict[str, Shape]]:
    with _open(path, what) as file:
        for top in tops:
            if isinstance(file.get(top, getlink=True), _h5py(what).ExternalLink):
                raise DataError(f"{what}: {path}: {top!r} is a link to another file, which is not followed")
        # A group has no dtype: a dataset is meant, in the root of the file and called like the top.
        missing = [top for top in tops if not hasattr(file.get(top), "dtype")]
        if missing:
            raise DataError(f"{what}: {path} has no dataset {', '.join(map(repr, missing))}; it has {sorted(file)}")
        datasets = {top: file[top] for top in tops}
        wrong = [top for top, d in datasets.items() if d.dtype.kind not in "iuf" or d.ndim == 0]
        if wrong:
            raise DataError(f"{what}: {path}: dataset {wrong[0]!r} has no rows of numbers")
        for top, dataset in datasets.items():
            _check_storage(dataset, f"{what}: {path}: dataset {top!r}")
        rows = {d.shape[0] for d in datasets.values()}
        if len(rows) > 1 or rows == {0}:
            raise DataError(f"{what}: {path}: the datasets have {sorted(rows)} rows; all need the same number")
        return rows.pop(), {top: tuple(d.shape[1:]) for top, d in datasets.items()}


def _check_storage(dataset: Any, what: str) -> None:
    """Raise DataError for values that lie in other files, that are not stored, or that come in pieces too large."""
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{what} keeps its values in another file, which is not followed")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > stored * MOST_COMPRESSED:
        raise DataError(f"{what} claims {dataset.nbytes} bytes of values, {stored} are stored")
    piece = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if piece > _MOST_CHUNK:
        raise DataError(f"{what} is stored in pieces of {piece} bytes, more than {_MOST_CHUNK}")


def _h5py(what: str) -> Any:
    try:
        import h5py  # noqa: PLC0415 - an extra
    except ImportError:
        raise DataError(f"{what}: HDF5Data needs h5py: pip install calib8[hdf5]") from None
    return h5py


@contextlib.contextmanager
def _open(path: Path, what: str) -> Iterator[Any]:
    h5py = _h5py(what)
    if not is_file(path):
        raise DataError(f"{what}: {path}: not a regular file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except HDF5_DAMAGES as why:
        raise DataError(f"{what}: {path} is no readable HDF5 file: {why}") from None
