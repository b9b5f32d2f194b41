"""Reading an LMDB: read-only, without locks, opened once per process."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import lmdb

from calib8.errors import DataError

_BYTES_PER_OPENING = 8 * 2**20


class _Environment:
    """An open LMDB; closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.env = lmdb.open(str(path), readonly=True, lock=False, create=False, subdir=path.is_dir())

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # the opening itself failed
            self.env.close()


_OPEN: WeakValueDictionary[Path, _Environment] = WeakValueDictionary()
# LMDB forbids a process to open a database twice, but two networks, or two passes, may well read the same one.


class LmdbRecords:
    """The records of an LMDB in the order of their keys; iterating begins anew every time.

    Attributes:
        path: the folder (or file) of the database.
        count: number of records.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Open it once to count.

        Raises:
            DataError: no LMDB there, a truncated or an empty one; `what` says what it was for.
        """
        self.path = path
        self._what = what
        with self._reading():
            held = self._open()
            self.count = int(held.env.stat()["entries"])
            self._check_length(held.env)
        if self.count == 0:
            raise DataError(f"{what}: the LMDB {path} is empty; write samples into it first")

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, record). Raises DataError when the database cannot be read on."""
        last: bytes | None = None
        while (last := (yield from self._read_after(last))) is not None:
            pass

    def _read_after(self, last: bytes | None) -> Generator[tuple[bytes, bytes], None, bytes | None]:
        """Yield the records behind the key `last`; returns the key to go on with, None at the end.

        Pages that were read count as memory of the process until the database is closed, so it is opened again every
        _BYTES_PER_OPENING: memory must not grow with the number of samples.
        """
        read = 0
        with self._reading():
            held = self._open()
            with held.env.begin() as transaction, transaction.cursor() as cursor:
                if last is not None and not cursor.set_range(last):
                    return None
                for key, record in cursor:
                    if key != last:
                        yield key, record
                        read += len(record)
                    if read >= _BYTES_PER_OPENING:
                        return key
        return None

    def _open(self) -> _Environment:
        key = self.path.resolve()
        held = _OPEN.get(key)
        if held is None:
            held = _OPEN[key] = _Environment(self.path)
        return held

    def _check_length(self, env: lmdb.Environment) -> None:
        # Pages behind the end of a truncated file would kill the process (SIGBUS), not raise.
        needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        size = file.stat().st_size
        if size < needed:
            raise DataError(
                f"{self._what}: the LMDB {self.path} is truncated: {file.name} has {size} bytes of {needed}; copy it "
                "again"
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as why:
            reason = str(why).removeprefix(f"{self.path}: ")
            raise DataError(
                f"{self._what}: {self.path} is no readable LMDB: {reason}; data_param.source must name a folder with a "
                f"data.mdb, relative to {Path.cwd()} or to the model's folder"
            ) from None
