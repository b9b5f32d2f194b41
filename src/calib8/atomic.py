"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from calib8.errors import OptionError


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes the name `path` only when the block ends without an error.

    The bytes are written beside the target (same folder, so that the rename is atomic) and flushed to the disk
    before the rename. On any error the target keeps what it held before.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    target = Path(path)
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
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _umask() -> int:
    value = os.umask(0o022)
    os.umask(value)
    return value
