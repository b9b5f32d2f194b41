"""What takes in the values of a blob, from one thread or from several."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Protocol

from calib8.graph import Array


class Counter(Protocol):
    """What takes in the values of one blob."""

    def add(self, values: Array) -> None:
        """Take in an array."""


class InTurn:
    """Several counters of one blob."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = tuple(counters)

    def add(self, values: Array) -> None:
        """Take in an array, each of them."""
        for counter in self._counters:
            counter.add(values)


class Guarded:
    """A counter that several threads feed, one at a time."""

    def __init__(self, counter: Counter) -> None:
        self._counter, self._lock = counter, Lock()

    def add(self, values: Array) -> None:
        """Take in an array, when no other thread does."""
        with self._lock:
            self._counter.add(values)
