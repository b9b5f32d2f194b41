"""One writer at a time in a folder: an advisory lock on the folder itself, so that no file is left behind.

Source: flock(2). The system frees the lock when the process ends, however it ends. File systems that have no such lock
on folders (NFS, some that are mounted from another system) go without one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from calib8.errors import OptionError

_PATIENCE = 10.0
"""Seconds that a short write waits for another one."""
_PAUSE = 0.05

_mutex = threading.RLock()
_claims: dict[tuple[int, int], _Claim] = {}
"""What this process holds, by device and inode: a second lock on the same folder would wait for the first."""


class _Claim:
    """A lock that this process holds, and how many of its blocks want it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 1


@contextlib.contextmanager
def claim_folder(folder: str | os.PathLike[str], seconds: float = 0.0) -> Iterator[None]:
    """Keep other processes from writing into `folder` within the block; blocks within blocks are fine.

    Args:
        seconds: how long to wait for another process.

    Raises:
        OptionError: another process is at work there, or the folder cannot be opened.
    """
    with _mutex:
        key = _claim(Path(folder), time.monotonic() + seconds)
    try:
        yield
    finally:
        with _mutex:
            _release(key)


@contextlib.contextmanager
def brief_claim(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Claim a folder for the moment of a commit: wait for others, threads of this process among them."""
    with claim_folder(folder, _PATIENCE), _mutex:
        yield


def _claim(folder: Path, end: float) -> tuple[int, int]:
    descriptor = _opened(folder)
    status = os.fstat(descriptor)
    key = status.st_dev, status.st_ino
    held = _claims.get(key)
    if held is not None:
        os.close(descriptor)
        held.users += 1
        return key
    while not try_lock(descriptor):
        if time.monotonic() >= end:
            os.close(descriptor)
            raise OptionError(
                f"{folder}: another calib8 command is writing there; wait for its end, or choose another folder "
                "(`output=..`)"
            )
        time.sleep(_PAUSE)
    _claims[key] = _Claim(descriptor)
    return key


def _opened(folder: Path) -> int:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else why
        raise OptionError(f"cannot write into {folder}: {reason}; choose a folder that exists") from None
    if os.access(folder, os.W_OK):  # or it would be found out in the end, after hours
        return descriptor
    os.close(descriptor)
    raise OptionError(f"cannot write into {folder}: {os.strerror(errno.EACCES)}; choose a folder that you may write")


def _release(key: tuple[int, int]) -> None:
    claim = _claims[key]
    claim.users -= 1
    if claim.users == 0:
        del _claims[key]
        os.close(claim.descriptor)  # which frees the lock


def try_lock(descriptor: int) -> bool:
    """Tell whether this process now holds the lock of an open folder; also where locks do not exist."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as why:
        return why.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
