"""Files that others wrote: regular ones only, so many bytes at most, and questions about paths that have an answer.

A pipe would let a read wait for ever, a device never end it. `Path.exists` and its like raise for names that are too
long and for folders that one may not look into; here such a path is none.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import IO

from calib8.errors import Calib8Error

_BLOCK = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_file(path: str | os.PathLike[str], most: int, error: type[Calib8Error], what: str = "") -> bytes:
    """Read the bytes of a file of at most `most` bytes.

    Args:
        error: what is raised.
        what: put in front of the message: what the file was for.

    Raises:
        `error`: it cannot be read, is no regular file, or is larger.
    """
    start = f"{what}: {os.fspath(path)}" if what else os.fspath(path)
    with open_file(path, error, what) as file:
        try:
            data = file.read(min(most, os.fstat(file.fileno()).st_size + (1 << 16)) + 1) or b""
        except OSError as why:
            raise error(f"{start}: cannot be read: {why.strerror or why}") from None
    if len(data) > most:
        raise error(f"{start}: more than {most} bytes, the most that is read")
    return data


def open_file(path: str | os.PathLike[str], error: type[Calib8Error], what: str = "") -> IO[bytes]:
    """Open a regular file; see `read_file`."""
    start = f"{what}: {os.fspath(path)}" if what else os.fspath(path)
    try:
        kind = _kind(os.stat(path).st_mode)  # noqa: PTH116 - a path may be a text
        if not kind:
            # What stands there may have become another file since: opening a pipe must not wait for its writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            kind = _kind(os.fstat(descriptor).st_mode)
            if not kind:
                return os.fdopen(descriptor, "rb")
            os.close(descriptor)
    except (OSError, ValueError) as why:
        raise error(f"{start}: cannot be read: {getattr(why, 'strerror', None) or why}") from None
    raise error(f"{start}: not a regular file, but {kind}")


def open_inside(folder: Path, name: str, error: type[Calib8Error], what: str) -> IO[bytes]:
    """Open a regular file that a file of others names, in its own folder or below, on a way without links.

    Raises:
        `error`: the name leads elsewhere, or the file cannot be opened.
    """
    parts = Path(name).parts
    if not parts or "\0" in name or "\\" in name or Path(name).is_absolute() or ".." in parts:
        raise error(f"{what}: names the file {name!r}; expected one in the folder of the model")
    path = folder
    for part in parts:
        path = path / part
        if os.path.islink(path):  # noqa: PTH114
            raise error(f"{what}: names the file {name!r}, and {path} is a link; put the file itself there")
    return open_file(path, error, what)


def file_digest(path: str | os.PathLike[str], error: type[Calib8Error]) -> str:
    """Return `sha256:..` of a file's bytes, read block by block.

    Raises:
        error: as `open_file`.
    """
    digest = hashlib.sha256()
    with open_file(path, error) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _kind(mode: int) -> str:
    return next((name for is_it, name in _KINDS if is_it(mode)), "")


def exists(path: str | os.PathLike[str]) -> bool:
    """Tell whether something stands there that can be looked at."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is a regular file, or a link to one."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is a folder, or a link to one."""
    return os.path.isdir(path)  # noqa: PTH112


def require_folder(path: str | os.PathLike[str], error: type[Calib8Error], purpose: str) -> None:
    """Raise `error`, with the system's reason, where there is no folder; `purpose` ends the sentence."""
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116
            raise error(f"{os.fspath(path)}: no such folder, but a file; {purpose}")
    except FileNotFoundError:
        raise error(f"{os.fspath(path)}: no such folder; {purpose}") from None
    except (OSError, ValueError) as why:
        raise error(f"{os.fspath(path)}: no such folder: {getattr(why, 'strerror', None) or why}; {purpose}") from None


def paths_in(folder: Path, error: type[Calib8Error], what: str = "") -> list[Path]:
    """List what a folder holds, sorted by name.

    Raises:
        `error`: it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError) as why:
        start = f"{what}: {folder}" if what else str(folder)
        raise error(f"{start}: cannot be listed: {getattr(why, 'strerror', None) or why}") from None


def visible_paths_in(folder: Path, error: type[Calib8Error], what: str = "") -> list[Path]:
    """List what a folder shows, sorted by name: on foreign disks macOS leaves a hidden `._x.jpg` beside every x.jpg.

    Raises:
        `error`: it cannot be listed.
    """
    return [path for path in paths_in(folder, error, what) if not path.name.startswith(".")]
