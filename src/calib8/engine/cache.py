"""Executors that wait for their next use, as many as fit into memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, Protocol, TypeVar

MOST_BYTES = 1 << 30
"""About how much memory waiting executors may take, where their user says nothing else."""


class Shared(Protocol):
    """What several threads can run at the same time, each with a sibling of its own.

    Attributes:
        shared_bytes: about how much memory all siblings take together: their weights.
        own_bytes: about how much each of them takes: the values that it computes.
    """

    shared_bytes: int
    own_bytes: int

    def sibling(self: E) -> E:
        """Make another one that shares what can be shared."""


E = TypeVar("E", bound=Shared)


class ExecutorCache(Generic[E]):
    """Executors by what they compute; those that have not been used for the longest time are closed first.

    Any thread may call. Threads that run the same thing at the same time have a number each, their lane, and an
    executor each, with buffers of its own.

    Args:
        most: so many are open at most, their siblings not counted; each has threads of its own.
        most_bytes: about how much memory they may take.
        always: so many of those that were used last stay open, however large they are.
    """

    def __init__(self, most: int, most_bytes: int = MOST_BYTES, always: int = 1) -> None:
        self._most, self._most_bytes, self._always = most, most_bytes, always
        self._open: OrderedDict[Hashable, _Siblings[E]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], E], lane: int = 0) -> E:
        """Return the executor for a key; make it if none is open.

        Args:
            lane: whose it is; nobody else may run it at the same time.
        """
        with self._lock:
            siblings = self._open.get(key)
            if siblings is None:
                siblings = self._open[key] = _Siblings()
            self._open.move_to_end(key)
        executor = siblings.of_lane.get(lane)
        if executor is None:
            executor = siblings.add(lane, make)
            self._close_oldest()
        return executor

    def clear(self) -> None:
        """Close all."""
        with self._lock:
            self._open.clear()

    @property
    def nbytes(self) -> int:
        """About how much memory the open ones take."""
        return sum(siblings.nbytes for siblings in self._open.values())

    def __len__(self) -> int:
        """How many are open, their siblings not counted."""
        return len(self._open)

    def _close_oldest(self) -> None:
        with self._lock:
            while len(self) > self._most or (len(self) > self._always and self.nbytes > self._most_bytes):
                self._open.popitem(last=False)


class _Siblings(Generic[E]):
    """Executors of the same thing, by lane: one of them is made, the others are its siblings."""

    def __init__(self) -> None:
        self.of_lane: dict[int, E] = {}
        self.nbytes = 0
        self._making = Lock()

    def add(self, lane: int, make: Callable[[], E]) -> E:
        with self._making:
            first = next(iter(self.of_lane.values()), None)
            made = self.of_lane[lane] = make() if first is None else first.sibling()
            self.nbytes += made.own_bytes + (made.shared_bytes if first is None else 0)
            return made
