"""Reading an LMDB of a user's: read-only, without locks, without trust."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from calib8.data.lmdb_pages import DamagedError, LmdbTree, read_header
from calib8.errors import DataError
from calib8.reading import is_folder, open_file


class LmdbRecords:
    """The records of an LMDB in the order of their keys; iterating begins anew every time.

    Attributes:
        path: the folder (or file) of the database.
        count: number of records.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Read its header.

        Raises:
            DataError: no LMDB there, a truncated or an empty one; `what` says what it was for.
        """
        self.path = path
        self._what = what
        self._file = path / "data.mdb" if is_folder(path) else path
        with self._reading() as descriptor:
            self._header = read_header(descriptor)
        self.count = self._header.entries
        if self.count == 0:
            raise DataError(f"{what}: the LMDB {path} is empty; write samples into it first")

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, record). Raises DataError when the database cannot be read on."""
        return self.records()

    def records(self, first: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """Yield the same from the record with the number `first` on."""
        with self._reading() as descriptor:
            yield from LmdbTree(descriptor, self._header).records(first)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[int]:
        try:
            with open_file(self._file, DataError) as file:
                yield file.fileno()
        except DataError as why:
            raise self._error(f"{self.path} is no readable LMDB: {why}") from None
        except DamagedError as why:
            raise self._error(f"{self._file} {why}") from None
        except OSError as why:
            raise self._error(f"{self.path} is no readable LMDB: {why.strerror or why}") from None

    def _error(self, problem: str) -> DataError:
        return DataError(
            f"{self._what}: {problem}; data_param.source must name a folder with a data.mdb, relative to {Path.cwd()} "
            "or to the model's folder"
        )
