"""What pycaffe has for the process beside the device: a log, and a clock.

Source: BVLC/caffe, python/caffe/_caffe.cpp, InitLog, Log, class_<Timer>; src/caffe/util/benchmark.cpp.
"""

from __future__ import annotations

import logging
import time

_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)  # glog's 0 to 3
_handlers: list[logging.Handler] = []  # that init_log made
_log = logging.getLogger("calib8.caffe")


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Write calib8's log to stderr, and what `log` is given.

    Args:
        level: the least that is written: 0 all, 1 warnings, 2 errors, 3 nothing that calib8 says.
        stderr: False writes nothing; glog's files do not exist here.
    """
    top = logging.getLogger("calib8")
    while _handlers:
        top.removeHandler(_handlers.pop())
    if stderr:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        handler.setLevel(_LEVELS[min(max(int(level), 0), len(_LEVELS) - 1)])
        _handlers.append(handler)
        top.addHandler(handler)
        top.setLevel(handler.level)


def log(text: str) -> None:
    """Write a line into the log, which `init_log` shows."""
    _log.info("%s", text)


class Timer:
    """A clock that is started and stopped.

    timer = caffe.Timer()
    timer.start()
    net.forward()
    timer.stop()
    print(timer.ms)
    """

    def __init__(self) -> None:
        self._start: float | None = None
        self._seconds = 0.0

    def start(self) -> None:
        """Begin to measure."""
        self._start = time.perf_counter()

    def stop(self) -> None:
        """End; nothing happens where it was not started."""
        if self._start is not None:
            self._seconds = time.perf_counter() - self._start
            self._start = None

    @property
    def ms(self) -> float:
        """Milliseconds between `start` and `stop`; where it runs, it is stopped."""
        self.stop()
        return 1000 * self._seconds
