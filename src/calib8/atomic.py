"""Files that appear whole or not at all, one by one or several together."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from calib8.errors import OptionError

_waiting: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("files written and not yet renamed", default=None)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes the name `path` only when the block ends without an error.

    The bytes are written beside the target (same folder, so that the rename is atomic) and flushed to the disk
    before the rename. On any error the target keeps what it held before. Within `write_together` the rename waits.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise OptionError(f"cannot write {target}: it is a folder; choose the name of a file")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent or Path())
    except OSError as error:
        raise OptionError(f"cannot write {target}: {error.strerror or error}; choose a folder that exists") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        waiting = _waiting.get()
        if waiting is None:
            Path(name).replace(target)
        else:
            waiting.append((Path(name), target))
    except BaseException:
        _remove(Path(name))
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


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _umask() -> int:
    value = os.umask(0o022)
    os.umask(value)
    return value
