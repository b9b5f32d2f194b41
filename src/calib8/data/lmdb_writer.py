"""Writing an LMDB: beside its place first, then renamed, so that it is there whole or not at all. A database that is
replaced is there until the new one takes its place, in one step.

The same records give the same bytes (with one version of LMDB and one size of a memory page). The map grows with the
data; what is left over in the file is a few pages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import lmdb

from calib8.atomic import write_folder
from calib8.errors import DataError, OptionError
from calib8.reading import is_folder, paths_in

MAX_KEY_BYTES = 511
"""LMDB's longest key; longer ones are cut."""
_FIRST_MAP_BYTES = 1 << 22
_BATCH_BYTES = 1 << 24
_FILES = {"data.mdb", "lock.mdb"}

Records = Iterable[tuple[bytes, bytes]]


def write_lmdb(path: Path, records: Records, *, force: bool = False) -> None:
    """Write an LMDB of (key, record) pairs that come in the order of their keys.

    Args:
        path: a folder that does not exist yet; its parent does.
        force: replace an LMDB that is there.

    Raises:
        OptionError: something is there already, or the folder cannot be written.
        DataError: keys that are not in order; whatever the records raise.
    """
    check_target(path, force=force)
    with write_folder(path, replace=force) as folder:
        try:
            _fill(folder, records)
        except (lmdb.Error, OSError) as why:
            raise OptionError(f"cannot write {path}: {getattr(why, 'strerror', None) or why}") from None


def check_target(path: Path, *, force: bool) -> None:
    """Raise OptionError if `write_lmdb` would refuse to write here."""
    if not is_folder(path.parent):
        raise OptionError(f"cannot write {path}: {path.parent} is no folder")
    if not os.path.lexists(path):
        return
    is_lmdb = is_folder(path) and not path.is_symlink() and {p.name for p in paths_in(path, OptionError)} <= _FILES
    if not is_lmdb:
        raise OptionError(f"{path} exists and is no LMDB; choose another place")
    if not force:
        raise OptionError(f"{path} exists; choose another place, or replace it with `force=True`")


def _fill(folder: Path, records: Records) -> None:
    # Nothing reads the file before it has its name, so it is enough to flush it to the disk once.
    environment = lmdb.open(str(folder), map_size=_FIRST_MAP_BYTES, sync=False, metasync=False)
    try:
        batch: list[tuple[bytes, bytes]] = []
        size = 0
        for key, record in records:
            batch.append((key[:MAX_KEY_BYTES], record))
            size += len(record)
            if size >= _BATCH_BYTES:
                _append(environment, batch)
                batch, size = [], 0
        _append(environment, batch)
        environment.sync(True)
    finally:
        environment.close()
    (folder / "lock.mdb").unlink()


def _append(environment: lmdb.Environment, batch: list[tuple[bytes, bytes]]) -> None:
    """Write a batch, with a larger map if it does not fit."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, record in batch:
                    if not transaction.put(key, record, append=True, overwrite=False):
                        raise DataError(f"the key {key!r} is not in order")
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
