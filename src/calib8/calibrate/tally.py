"""Counting the values of one run on several threads: every counter is fed by one of them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

from numpy.typing import NDArray

from calib8.engine import EngineOptions

_SMALL = 1 << 15
"""Elements below which a thread costs more than it brings."""


class Counter(Protocol):
    """What counts the values of one blob."""

    def add(self, values: NDArray[Any]) -> None:
        """Take in an array."""


class Tally:
    """Takes arrays while a network runs and counts them before the next run, when their buffers are used again.

    With released blobs nothing waits: an array is counted at once and can be freed.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._at_once = options.release_blobs
        self._threads = options.thread_count
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 and not self._at_once else None
        self._waiting: list[tuple[Counter, NDArray[Any]]] = []

    def __enter__(self) -> Tally:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def add(self, counter: Counter, array: NDArray[Any]) -> None:
        """Count an array now or with the next `flush`; a counter comes once between two of them."""
        if self._at_once:
            counter.add(array)
        else:
            self._waiting.append((counter, array))

    def flush(self) -> None:
        """Count what waits."""
        shares = self._shares()
        self._waiting = []
        futures: list[Future[None]] = []
        if self._pool is not None:
            futures = [self._pool.submit(_count, share) for share in shares[1:] if share]
        _count(shares[0])
        for future in futures:
            future.result()

    def _shares(self) -> list[list[tuple[Counter, NDArray[Any]]]]:
        """The work in shares of about equal size, the largest arrays dealt out first."""
        if self._pool is None or sum(array.size for _, array in self._waiting) < _SMALL:
            return [self._waiting]
        shares: list[list[tuple[Counter, NDArray[Any]]]] = [[] for _ in range(self._threads)]
        sizes = [0] * self._threads
        for counter, array in sorted(self._waiting, key=lambda item: -item[1].size):
            least = sizes.index(min(sizes))
            shares[least].append((counter, array))
            sizes[least] += array.size
        return shares


def _count(share: list[tuple[Counter, NDArray[Any]]]) -> None:
    for counter, array in share:
        counter.add(array)
