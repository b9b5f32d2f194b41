"""The edge of every command: whatever happens inside, one line says it, and the exit code is 0, 1, 2 or a signal's.

Nothing large is imported here, so that it stands before anything else does.

- Calib8Error: its own message, exit code 1
- no memory, a file system that fails, a defect of ours: one line as well, exit code 1; --verbose shows where
- Ctrl-C, SIGTERM, SIGHUP: what had been written by then, exit code 128 and the signal's number
- a reader of stdout that has gone (head, less), a closed or full stdout: exit code 1

What is written to stdout and stderr goes through a filter: no control characters of a file's reach the terminal, and
characters that the terminal's encoding lacks become escapes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from calib8.atomic import record_writes
from calib8.boundary import REPORT, sentence
from calib8.errors import Calib8Error
from calib8.terminal import printable, printable_lines

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _OutputError(Exception):
    """stdout or stderr cannot be written."""

    def __init__(self, name: str, why: OSError | ValueError) -> None:
        super().__init__(f"cannot write to {name}: {getattr(why, 'strerror', None) or why}")
        self.reader_has_gone = isinstance(why, BrokenPipeError)


class PlainStream(io.TextIOWrapper):
    """A stream for a terminal that shows control characters as escapes, and says what it is when it fails."""

    def __init__(self, stream: io.TextIOWrapper, name: str) -> None:
        super().__init__(
            stream.buffer,
            stream.encoding,
            "backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=False,
        )
        self._name = name

    def write(self, text: str) -> int:
        """Write a text; of control characters only line ends and tabs are kept."""
        return self.write_unchanged("\t".join(map(printable_lines, text.split("\t"))))

    def write_unchanged(self, text: str) -> int:
        """Write a text of ours that moves the cursor."""
        with self._failures():
            return super().write(text)

    def flush(self) -> None:
        """Hand on what was written."""
        with self._failures():
            super().flush()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as why:
            raise _OutputError(self._name, why) from None


def guarded(program: str, work: Callable[[], int], words: Callable[[str], str] = str) -> int:
    """Run a command.

    Args:
        program: its name, in front of messages.
        work: what it does; returns the exit code.
        words: what messages of errors go through.

    Returns:
        The exit code.
    """
    missing = _open_missing()
    with _signals() as came, record_writes() as written, _plain_streams():
        try:
            code = _outcome(program, work, words, written, came)
            sys.stdout.flush()
        except _OutputError as why:
            if not why.reader_has_gone:
                _say(program, f"error: {why}")
            return 1
        if missing and code == 0:
            _say(program, "error: cannot write to stdout: it is closed")
            return 1
        return code


def _outcome(
    program: str, work: Callable[[], int], words: Callable[[str], str], written: list[Path], came: list[int]
) -> int:
    try:
        return work()
    except (_OutputError, SystemExit):
        raise
    except BaseException as why:  # noqa: BLE001 - the last line of defence
        # An interrupt within a library's own code may come out as anything, as an ImportError for instance.
        if came or isinstance(why, KeyboardInterrupt):
            if came:  # a second Ctrl-C need not break into this line
                for number in _SIGNALS:
                    signal.signal(number, signal.SIG_IGN)
            what = printable(", ".join(map(str, written)))
            _say(program, f"interrupted; {f'written before: {what}' if written else 'no file was changed'}")
            return 128 + (came[0] if came else signal.SIGINT)
        text = _text(why, words)
        if text:
            _say(program, f"error: {text}")
        return 1


def _text(why: BaseException, words: Callable[[str], str]) -> str:
    if not isinstance(why, Calib8Error):
        _show_where(why)
        return _for_commands(sentence(why))
    if why.__cause__ is not None:  # what no code of ours has expected
        _show_where(why.__cause__)
    return _for_commands(words(str(why)))


def _for_commands(text: str) -> str:
    return text.replace(REPORT, "with what --verbose says and, if you may, the files")


def _show_where(why: BaseException) -> None:
    """For --verbose."""
    if logging.getLogger("calib8").isEnabledFor(logging.INFO) and not isinstance(why, OSError | MemoryError):
        sys.stderr.write("".join(traceback.format_exception(why)))


def _say(program: str, text: str) -> None:
    with contextlib.suppress(_OutputError):
        print(f"{program}: {text}", file=sys.stderr, flush=True)


def _open_missing() -> bool:
    """Open the null device where a standard stream is closed: the next file would become it. True for stdout."""
    missing = []
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError as why:
            if why.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:  # as it was when Python began
            missing.append(number)
            setattr(sys, name, os.fdopen(os.dup(number), mode))
    return 1 in missing


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does, with everything put right; not where they are ignored.

    What interrupts a finalizer or a weak reference's callback (imports have one) is swallowed by Python: it is sent
    again a moment later, so that no Ctrl-C is lost.

    Yields the list of those that came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    again: list[threading.Timer] = []

    def swallowed(what: sys.UnraisableHookArgs) -> None:
        if not came or not issubclass(what.exc_type, KeyboardInterrupt):
            hook(what)
            return
        # From a thread of its own: raised here, it would be swallowed once more.
        again.append(threading.Timer(0.01, os.kill, (os.getpid(), came[-1])))
        again[-1].daemon = True
        again[-1].start()

    hook, sys.unraisablehook = sys.unraisablehook, swallowed
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}  # None: not one of Python's
    for number, handler in before.items():
        if handler in usual:
            signal.signal(number, end)
    try:
        yield came
    finally:
        for timer in again:
            timer.cancel()
            timer.join()
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        sys.unraisablehook = hook


@contextlib.contextmanager
def _plain_streams() -> Iterator[None]:
    """Put filters in front of stdout and stderr; what cannot be written at the end is dropped."""
    before = sys.stdout, sys.stderr
    plain = [_plain(stream, name) for stream, name in zip(before, ("stdout", "stderr"), strict=True)]
    sys.stdout, sys.stderr = plain
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, outer in zip(plain, before, strict=True):
            if isinstance(stream, PlainStream) and stream is not outer:
                _let_go(stream)


def _plain(stream: TextIO, name: str) -> TextIO:
    if isinstance(stream, PlainStream) or not isinstance(stream, io.TextIOWrapper):
        return stream
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    return PlainStream(stream, name)


def _let_go(stream: PlainStream) -> None:
    try:
        stream.flush()
    except _OutputError:
        # Python flushes once more when it ends, and would complain again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    with contextlib.suppress(_OutputError, ValueError, OSError):
        stream.detach()
