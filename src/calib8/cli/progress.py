"""A progress line on stderr with the time that is left; silent where stderr is no terminal."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

from calib8.cli.boundary import PlainStream
from calib8.terminal import printable
from calib8.workflow import Progress

_QUIET_SECONDS = 2.0
_REFRESH_SECONDS = 0.2


class ProgressLine:
    """Shows `what: done/total, rate, time left`, from two seconds on. Use it in a `with` block."""

    def __init__(self, what: str, total: int | None, stream: TextIO | None = None) -> None:
        self._what, self._total = what, total
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._start = self._last = time.monotonic()
        self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __call__(self, done: int, detail: str = "", total: int | None = None) -> None:
        """Report how many are done, what is going on, and a total that has changed."""
        self._total = total or self._total
        now = time.monotonic()
        if not self._shown or now - self._start < _QUIET_SECONDS or now - self._last < _REFRESH_SECONDS:
            return
        self._last = now
        text = progress_text(self._what, done, self._total, now - self._start)
        self._write(f"{text}; {printable(detail)}" if detail else text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Wipe the line."""
        if self._width:
            self._put("\r" + " " * self._width + "\r")

    def _write(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps could not be overwritten
        self._put("\r" + text.ljust(self._width))
        self._width = max(self._width, len(text))

    def _put(self, text: str) -> None:
        """Write a text that moves the cursor."""
        if isinstance(self._stream, PlainStream):
            self._stream.write_unchanged(text)
        else:
            self._stream.write(text)
        self._stream.flush()


class ProgressLines:
    """A `calib8.workflow.ProgressCallback` that shows a line for each stage. Use it in a `with` block."""

    def __init__(self) -> None:
        self._stage = ""
        self._line: ProgressLine | None = None

    def __enter__(self) -> ProgressLines:
        return self

    def __call__(self, progress: Progress, /) -> None:
        """Show it, in a line of its own if the stage is a new one."""
        if self._line is None or progress.stage != self._stage:
            self.clear()
            self._stage, self._line = progress.stage, ProgressLine(progress.stage, progress.total)
        self._line(progress.done, progress.what, progress.total)

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Wipe the line."""
        if self._line is not None:
            self._line.clear()
        self._line = None


def progress_text(what: str, done: int, total: int | None, seconds: float) -> str:
    """Write one line, for instance `calibrating: 40/100, 21.3/s, 3 s left`."""
    rate = done / seconds if seconds > 0 else 0.0
    if total is None:
        return f"{what}: {done}, {rate:.1f}/s"
    left = f", {_duration((total - done) / rate)} left" if rate > 0 else ""
    return f"{what}: {done}/{total}, {rate:.1f}/s{left}"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"
