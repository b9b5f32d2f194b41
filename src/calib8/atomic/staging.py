"""The hidden folder that files lie in until they are complete, and what becomes of one that a killed run has left.

    FOLDER/.calib8-0123456789abcdef/
        parts/NAME    the new files
        old/NAME      the files that were there before, as further names of theirs (hard links)
        links/NAME    links of the user's that had the names of files, for the way back
        now           a symbolic link to `old` before the commit, and to `parts` after it
        committed/    `parts` under another name, after the commit, on file systems without links

Its maker holds a lock on it, which the system frees when he ends: a folder that can be locked was left by a killed run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from calib8.atomic.lock import try_lock

_NAME = re.compile(r"\.calib8-[0-9a-f]{16}")
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


class Staging:
    """One such folder of this process.

    Attributes:
        folder: where the files belong.
        path: the hidden folder in it.
        parts: where they lie until then.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OSError or ValueError: the folder does not exist, or cannot be written."""
        self.folder = folder
        self.is_needed = False  # once names lead through it
        while True:
            self.path = folder / f".calib8-{os.urandom(8).hex()}"
            self.path.mkdir()
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another run took it for one that was left, and has removed it already
            if try_lock(self._descriptor) and os.fstat(self._descriptor).st_nlink:
                break
            os.close(self._descriptor)  # it is just removing it
        self.parts = self.path / "parts"
        try:
            self.parts.mkdir()
        except OSError:
            self.remove()
            raise

    def remove(self) -> None:
        """Take it away with all that is in it; what is needed, or cannot be removed now, is left to the next run."""
        if not self.is_needed:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def names_in(folder: Path) -> list[str]:
    """List what is in a folder. A link in its place leads to files that are none of ours, so it has nothing."""
    return sorted(path.name for path in folder.iterdir()) if is_folder(folder) else []


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk. Raises OSError; not where folders cannot be synced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as why:
        if why.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def left_behind(folder: Path) -> Iterator[Path]:
    """Yield the hidden folders that killed runs have left in `folder`, each one locked while it is the current one.

    Raises:
        OSError: the folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    for name in names:
        with _opened(folder / name) as descriptor:
            if descriptor is not None and _was_left(descriptor):
                yield folder / name


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A descriptor of a folder that is none but a folder: a link in its place leads who knows where."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _was_left(descriptor: int) -> bool:
    """Whether nobody holds it. Without locks nobody can say, so it stays."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)
