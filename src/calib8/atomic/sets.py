"""Files written beside their places, which take their names when all of them are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import IO, Any

from calib8.atomic.commit import commit, recover
from calib8.atomic.lock import brief_claim
from calib8.atomic.staging import Staging, names_in
from calib8.errors import OptionError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_open_sets: ContextVar[dict[Path, Staging] | None] = ContextVar("files written and not yet renamed", default=None)
_written: ContextVar[list[Path] | None] = ContextVar("files that have got their names", default=None)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes the name `path` only when the block ends without an error.

    The bytes are written beside the target (same file system, so that the rename is atomic) and flushed to the disk
    before the rename. On any error the target keeps what it held before. Within `write_together` the rename waits.
    A link in the place of the target is replaced, not followed.

    Raises:
        OptionError: the folder does not exist or cannot be written, the disk is full or fails.
    """
    target = Path(path)
    with write_together():
        part, file = _opened(target)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException as why:
            with contextlib.suppress(OSError):
                part.unlink()
            if isinstance(why, OSError) and why.errno is not None and why.filename is None:  # of writing this file
                raise cannot_write(target, why) from None
            raise


@contextlib.contextmanager
def write_together() -> Iterator[None]:
    """Make all files of one folder that `write_atomically` writes in this block new at its end, or leave all old.

    That is true after a kill at any moment, too. A block within a block waits for the end of the outer one. Files of
    several folders are a set for each folder.

    Raises:
        OptionError: the files cannot be written, or another command is at work in the folder.
    """
    if _open_sets.get() is not None:
        yield
        return
    stagings: dict[Path, Staging] = {}
    token = _open_sets.set(stagings)
    try:
        yield
        with undisturbed():
            for staging in stagings.values():
                _publish(staging)
    finally:
        _open_sets.reset(token)
        for staging in stagings.values():
            staging.remove()


def written_files() -> dict[Path, Path]:
    """Return what this `write_together` has written so far: for each path the file in which its bytes are now."""
    stagings = _open_sets.get() or {}
    return {folder / n: staging.parts / n for folder, staging in stagings.items() for n in names_in(staging.parts)}


@contextlib.contextmanager
def record_writes() -> Iterator[list[Path]]:
    """Yield a list that grows by every path that is written within the block, for what is said when it is ended."""
    paths: list[Path] = []
    token = _written.set(paths)
    try:
        yield paths
    finally:
        _written.reset(token)


def note_write(path: Path) -> None:
    """Tell `record_writes` of a file that has got its name."""
    paths = _written.get()
    if paths is not None:
        paths.append(path)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals that end a program wait for the end of the block: the renames of a set, some milliseconds."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs its handlers in the main thread
        return
    came: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before: dict[int, Any] = {
        number: signal.signal(number, wait) for number in _SIGNALS if signal.getsignal(number) is not None
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _opened(target: Path) -> tuple[Path, IO[bytes]]:
    """The file in the set's hidden folder that will become `target`."""
    stagings = _open_sets.get()
    if stagings is None:
        raise AssertionError("outside of write_together")
    try:
        _check_name(target)
        if target.parent not in stagings:
            stagings[target.parent] = Staging(target.parent)
        part = stagings[target.parent].parts / target.name
        part.unlink(missing_ok=True)  # the last one of the same name counts
        # Not tempfile: its files are readable by their owner only, and the umask cannot be asked for without a change.
        return part, part.open("xb")
    except (OSError, ValueError) as why:
        raise cannot_write(target, why) from None


def _check_name(target: Path) -> None:
    """What a rename would find out too late, or not at all: a folder, a name that is too long, a device."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise OptionError(f"cannot write {target}: it is a folder; choose the name of a file")
    if not stat.S_ISREG(mode):
        raise OptionError(f"cannot write {target}: it is no regular file; choose the name of a file")


def _publish(staging: Staging) -> None:
    names = names_in(staging.parts)
    if not names:
        return
    try:
        with brief_claim(staging.folder):
            recover(staging.folder)
            commit(staging)
    except OSError as why:
        raise cannot_write(staging.folder / names[0], why) from None
    for name in names:
        note_write(staging.folder / name)


def cannot_write(target: Path, why: OSError | ValueError) -> OptionError:
    """Make the error to raise for what the system says about writing `target`."""
    reason = why.strerror if isinstance(why, OSError) else why
    advice = "choose a folder that exists and that you may write"
    if isinstance(why, OSError) and why.errno in _FULL:
        advice = "make room, or choose another disk"
    return OptionError(f"cannot write {target}: {reason}; {advice}")
