"""Files that appear whole or not at all, one by one or several together."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from calib8.errors import OptionError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_waiting: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("files written and not yet renamed", default=None)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes the name `path` only when the block ends without an error.

    The bytes are written beside the target (same folder, so that the rename is atomic) and flushed to the disk
    before the rename. On any error the target keeps what it held before. Within `write_together` the rename waits.

    Raises:
        OptionError: the folder does not exist or cannot be written, or the disk is full.
    """
    target = Path(path)
    # Not tempfile: its files are readable by their owner only, and the umask cannot be asked for without changing it.
    part = target.parent / f".calib8-{secrets.token_hex(8)}.part"
    try:
        _check_name(target)
        opened = part.open("xb")
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else why
        raise OptionError(f"cannot write {target}: {reason}; choose a folder that exists") from None
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        waiting = _waiting.get()
        if waiting is None:
            part.replace(target)
        else:
            waiting.append((part, target))
    except BaseException as why:
        _remove(part)
        if isinstance(why, OSError) and why.errno in _FULL:
            raise OptionError(f"cannot write {target}: {why.strerror}; make room, or choose another disk") from None
        raise


@contextlib.contextmanager
def write_together() -> Iterator[None]:
    """Files that `write_atomically` writes in this block get their names at its end, all of them; none on an error.

    A block within a block waits for the end of the outer one.
    """
    if _waiting.get() is not None:
        yield
        return
    waiting: list[tuple[Path, Path]] = []
    token = _waiting.set(waiting)
    try:
        yield
        for written, target in waiting:
            written.replace(target)
    finally:
        _waiting.reset(token)
        for written, _ in waiting:
            _remove(written)


def _check_name(target: Path) -> None:
    """What a rename would find out too late: a folder, a name that is too long."""
    with contextlib.suppress(FileNotFoundError):
        target.lstat()
    if target.is_dir():
        raise OptionError(f"cannot write {target}: it is a folder; choose the name of a file")


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
