"""Images through a network on several threads, one image each, which wastes less than several threads an image.

All threads share one set of sessions; each has its own buffers. Results do not depend on their number: an image is
computed by one executor, and counting does not depend on the order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calib8.engine import Executor
from calib8.lowering import value_of

Array = NDArray[Any]


class Counter(Protocol):
    """What takes in the values of one blob."""

    def add(self, values: Array) -> None:
        """Take in an array."""


class Guarded:
    """A counter that several threads feed, one at a time."""

    def __init__(self, counter: Counter) -> None:
        self._counter, self._lock = counter, Lock()

    def add(self, values: Array) -> None:
        """Take in an array, when no other thread does."""
        with self._lock:
            self._counter.add(values)


class Workers:
    """Threads that run images and feed counters. Use it in a `with` block.

    Args:
        count: number of threads; with one, everything happens in the caller's.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None
        self._running: deque[Future[None]] = deque()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, crew: Crew, image: Mapping[str, Array], counters: Mapping[str, Counter]) -> None:
        """Run one image, now or soon; waits while more images are on their way than there are threads.

        Raises:
            Calib8Error: what an image that was submitted before raised.
        """
        if self._pool is None:
            crew.run(image, counters)
            return
        while len(self._running) > self.count:
            self._running.popleft().result()
        mine = {value: np.array(array) for value, array in image.items()}
        self._running.append(self._pool.submit(crew.run, mine, counters))

    def finish(self) -> None:
        """Wait for all images."""
        while self._running:
            self._running.popleft().result()


class Crew:
    """Executors of one network that share their sessions, one for each thread."""

    def __init__(self, executor: Executor, count: int) -> None:
        self._free: SimpleQueue[Executor] = SimpleQueue()
        for member in (executor, *(executor.sibling() for _ in range(count - 1))):
            self._free.put(member)

    def run(self, image: Mapping[str, Array], counters: Mapping[str, Counter]) -> None:
        """One image through the network, every observed value counted as it comes."""
        executor = self._free.get()
        try:
            executor.run(image, lambda reading, array: counters[value_of(reading)].add(array))
        finally:
            self._free.put(executor)
