"""Arrays as samples, for networks whose inputs are no pictures: sound, radar, tables.

One array for each input blob, in numpy's formats: an `.npz` with an array of the blob's name, a folder with `BLOB.npy`
for each, or one with a folder `BLOB` of `.npy` files, each of them a sample. An array has the samples along axis 0;
where one run of the network takes a whole blob (the time steps of an LSTM), it may have the blob's own axes behind
that. An array `label` of one number for each sample is no input: metrics may ask for it.
Only heads are read until samples are asked for, and then a batch at a time; nothing in the files is executed.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from calib8.data.faces import Batch, SampleSource
from calib8.data.npy import HEAD_BYTES, NpyHead, check_size, read_head
from calib8.errors import DataError
from calib8.graph import Shape
from calib8.reading import is_file, is_folder, open_file, visible_paths_in

Array = NDArray[np.float32]
_WHAT = "samples"
_MOST_ARRAYS = 1000
_LABELS = ("label", "labels")
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


class _Stored(ABC):
    """Arrays of one name, one after the other along axis 0."""

    def __init__(self, name: str, heads: Sequence[NpyHead]) -> None:
        self.name = name
        self.heads = heads
        for head in heads:
            if head.is_fortran and sum(n > 1 for n in head.shape) > 1:
                raise ValueError("its values are in Fortran's order; save np.ascontiguousarray(array)")
            if 0 in head.shape:
                raise ValueError(f"it has the shape {head.shape}, which holds nothing")

    @property
    def shape(self) -> Shape:
        """Of the first one."""
        return self.heads[0].shape

    @abstractmethod
    def streams(self) -> Iterator[IO[bytes]]:
        """Open each array in turn, from its first byte on."""

    def rows(self, blob: Shape) -> int:
        """Count the rows of a blob, its axes but the first, in all arrays.

        Raises:
            ValueError: an array is neither one row, nor many, nor many blobs.
        """
        row, size = blob[1:], math.prod(blob[1:])
        for head in self.heads:
            if not (head.shape == row or head.shape[1:] == row or head.shape[1:] == blob):
                raise ValueError(f"it has the shape {head.shape}, and rows of the shape {row} are expected")
        return sum(math.prod(head.shape) // size for head in self.heads)

    def chunks(self, row: Shape, count: int) -> Iterator[Array]:
        """Yield all rows, `count` at a time; only the last chunk may be smaller."""
        size, rest = math.prod(row), np.zeros((0, *row), np.float32)
        for head, stream in zip(self.heads, self.streams(), strict=True):
            _read_exactly(stream, head.begin)
            left = math.prod(head.shape) // size
            while left:
                wanted = min(count - len(rest), left)
                values = np.frombuffer(_read_exactly(stream, wanted * size * head.dtype.itemsize), head.dtype)
                rest = np.concatenate([rest, values.reshape(wanted, *row).astype(np.float32)])
                left -= wanted
                if len(rest) == count:
                    yield rest
                    rest = rest[:0]
        if len(rest):
            yield rest


def _read_exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise ValueError("it ends before its last value")
    return data


class _Files(_Stored):
    """`.npy` files."""

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self._paths = paths
        heads = []
        for path in paths:
            with _readable(str(path)), open_file(path, DataError, _WHAT) as file:
                head = read_head(file.read(HEAD_BYTES))
                check_size(head, os.fstat(file.fileno()).st_size - head.begin)
                heads.append(head)
        super().__init__(name, heads)

    def streams(self) -> Iterator[IO[bytes]]:
        for path in self._paths:
            with open_file(path, DataError, _WHAT) as file:
                yield file


class _Member(_Stored):
    """An array in an `.npz`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self._path, self._member = path, member.filename
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is packed in a way that numpy does not use")  # other ways take memory as they like
        with archive.open(member) as file:
            head = read_head(file.read(HEAD_BYTES))
        check_size(head, member.file_size - head.begin)
        super().__init__(member.filename.removesuffix(".npy"), [head])

    def streams(self) -> Iterator[IO[bytes]]:
        with (
            open_file(self._path, DataError, _WHAT) as file,
            zipfile.ZipFile(file) as archive,
            archive.open(self._member) as stream,
        ):
            yield stream


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn what numpy's formats may raise into one error that names the file."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGES as why:
        raise DataError(f"{_WHAT}: {what} cannot be read: {why}") from None


class ArraysSource(SampleSource):
    """A SampleSource over arrays in files."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        inputs: Mapping[str, Shape | None],
        needed: Collection[str],
        constants: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """Read the heads of all arrays.

        Args:
            path: an `.npz`, or a folder; see the module's text. A single `.npy` is for a network with one input.
            inputs: the shape of every input, None where the arrays tell.
            needed: inputs that layers read.
            constants: other inputs, the same for every run.

        Raises:
            DataError: files that cannot be read, inputs without an array, arrays without an input or of other shapes.
        """
        self._constants = dict(constants or {})
        wanted = [blob for blob in needed if blob not in self._constants]
        stored = _named(_stored(Path(path), inputs), inputs, wanted, str(path))
        self._labels = next((stored.pop(name) for name in _LABELS if name in stored and name not in inputs), None)
        self._arrays = {blob: stored[blob] for blob in inputs if blob in stored}
        missing = [blob for blob in wanted if blob not in self._arrays]
        if missing:
            raise DataError(
                f"{_WHAT}: {path} has no array for {_listed(missing)}; it has {_listed(stored) or 'none'}, and the "
                f"inputs are {_listed(inputs)}"
            )
        own = {blob: inputs[blob] or (1, *array.shape[1:]) for blob, array in self._arrays.items()}
        self.shapes = {**own, **{blob: array.shape for blob, array in self._constants.items()}}
        self._rows = {blob: shape[1:] for blob, shape in own.items()}
        self.batch_size = next(iter(own.values()))[0]
        self.size = self._check_rows(own, str(path))
        self.notes = ()

    def _check_rows(self, shapes: Mapping[str, Shape], path: str) -> int:
        """Count the rows of the first array; all arrays must be for as many runs."""
        counts: dict[str, int] = {}
        problems = []
        for blob, array in self._arrays.items():
            try:
                counts[blob] = array.rows(shapes[blob])
            except ValueError as why:
                problems.append(f"array for input {blob!r}, which has the shape {shapes[blob]}: {why}")
        runs = {blob: count / shapes[blob][0] for blob, count in counts.items()}
        if len(set(runs.values())) > 1:
            found = ", ".join(f"{run:g} for {blob!r}" for blob, run in runs.items())
            problems.append(f"arrays are for different numbers of runs: {found}")
        count = next(iter(counts.values()), 0)
        if self._labels is not None and self._labels.shape not in ((count,), (count, 1)):
            problems.append(f"labels have the shape {self._labels.shape}; expected ({count},), one for each sample")
        if problems:
            raise DataError(f"{_WHAT}: {path} does not fit the network", problems)
        return count

    def batches(self) -> Iterator[Batch]:
        """See SampleSource."""
        names = [*self._arrays, *([_LABELS[0]] if self._labels is not None else [])]
        chunks = [array.chunks(self._rows[blob], self.shapes[blob][0]) for blob, array in self._arrays.items()]
        if self._labels is not None:
            chunks.append(self._labels.chunks(self._labels.shape[1:], self.batch_size))
        while True:
            parts = [_next(name, chunk) for name, chunk in zip(names, chunks, strict=True)]
            if parts[0] is None:
                return
            batch = {name: part for name, part in zip(names, parts, strict=True) if part is not None}
            yield {**batch, **{blob: array.copy() for blob, array in self._constants.items()}}


def _next(name: str, chunks: Iterator[Array]) -> Array | None:
    with _readable(f"the array {name!r}"):
        return next(chunks, None)


def _stored(path: Path, inputs: Collection[str]) -> dict[str, _Stored]:
    """All arrays under a path by their names."""
    if is_folder(path):
        return _of_folder(path, inputs)
    if path.suffix == ".npy":
        return _with_reason({path.stem: [path]})
    with _readable(str(path)), open_file(path, DataError, _WHAT) as file, zipfile.ZipFile(file) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        if len(members) > _MOST_ARRAYS:
            raise ValueError(f"it has {len(members)} arrays, more than {_MOST_ARRAYS}")
        found: dict[str, _Stored] = {}
        for member in members:
            with _readable(f"{path}, array {member.filename!r},"):
                array = _Member(path, archive, member)
                found[array.name] = array
        return found


def _of_folder(path: Path, inputs: Collection[str]) -> dict[str, _Stored]:
    files = {blob: [path / f"{blob}.npy"] for blob in (*inputs, *_LABELS) if is_file(path / f"{blob}.npy")}
    folders = {blob: _arrays_in(path / blob) for blob in (*inputs, *_LABELS) if is_folder(path / blob)}
    named = {**{blob: paths for blob, paths in folders.items() if paths}, **files}
    return _with_reason(named or {path.name: _arrays_in(path)})


def _arrays_in(folder: Path) -> list[Path]:
    return [p for p in visible_paths_in(folder, DataError, _WHAT) if p.suffix == ".npy"]


def _with_reason(paths: Mapping[str, Sequence[Path]]) -> dict[str, _Stored]:
    found: dict[str, _Stored] = {}
    for name, files in paths.items():
        if files:
            with _readable(str(files[0])):
                found[name] = _Files(name, files)
    return found


def _named(stored: dict[str, _Stored], inputs: Collection[str], needed: Sequence[str], path: str) -> dict[str, _Stored]:
    """The arrays by input; a single one needs no name where there is a single input that takes it."""
    expected = f"the inputs are {_listed(inputs)}"
    if not stored:
        raise DataError(f"{_WHAT}: {path} holds no arrays as numpy saves them; {expected}")
    strangers = [name for name in stored if name not in inputs and name not in _LABELS]
    if len(strangers) == len(needed) == 1 and needed[0] not in stored:
        stored[needed[0]] = stored.pop(strangers[0])
        strangers = []
    if strangers:
        raise DataError(f"{_WHAT}: {path} has arrays {_listed(strangers)} for no input; {expected}")
    return stored


def _listed(names: Collection[Any]) -> str:
    return ", ".join(map(repr, names))
