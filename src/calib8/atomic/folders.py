"""A folder of one file, as an LMDB is, that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from calib8.atomic.commit import recover, sync_afterwards
from calib8.atomic.lock import brief_claim
from calib8.atomic.sets import cannot_write, note_write, undisturbed
from calib8.atomic.staging import Staging, names_in, sync_folder
from calib8.errors import OptionError


def make_folder(path: Path) -> None:
    """Make a folder for results, with those above it, where it is not there yet.

    Raises:
        OptionError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as why:
        reason = getattr(why, "strerror", None) or why
        raise OptionError(f"{path}: cannot be made a folder for the results: {reason}") from None


@contextlib.contextmanager
def write_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yield an empty folder; the one file that is in it at the end of the block is then in the folder `path`.

    One rename is the commit point: of the whole folder where there is none yet, else of the file.

    Args:
        replace: whether a file of that name may be there already.

    Raises:
        OptionError: the parent does not exist or cannot be written; there is a folder that must not be replaced.
    """
    try:
        staging = Staging(path.parent)
    except (OSError, ValueError) as why:
        raise cannot_write(path, why) from None
    try:
        yield staging.parts
        _publish(staging, path, replace)
    finally:
        staging.remove()


def _publish(staging: Staging, path: Path, replace: bool) -> None:
    try:
        (name,) = names_in(staging.parts)
        _sync_file(staging.parts / name)
        sync_folder(staging.parts)
        with undisturbed(), brief_claim(path.parent):
            recover(path.parent)
            _move(staging.parts, name, path, replace)
            note_write(path)
    except OSError as why:
        raise cannot_write(path, why) from None


def _move(made: Path, name: str, path: Path, replace: bool) -> None:
    if not os.path.lexists(path):
        made.rename(path)
        sync_afterwards(path.parent)
        return
    if not replace:
        raise OptionError(f"{path} exists: it has come while this one was made; choose another place")
    (made / name).replace(path / name)
    sync_afterwards(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
