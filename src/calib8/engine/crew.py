"""Threads for images that go through a network one each, which wastes less than several threads an image.

Results do not depend on how many there are: an image is computed by one executor, and `each` keeps the order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar, cast

Item = TypeVar("Item")
T = TypeVar("T")
Work = Callable[[int, Item], T]
"""Takes the number of a lane and an item. No other item has this lane at the same time: its buffers are free."""


class Crew:
    """Threads with numbered lanes. In a `with` block they end with it, else when nobody has the crew any more.

    Args:
        count: number of threads; with one, everything happens in the caller's.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None
        self._free: SimpleQueue[int] = SimpleQueue()
        for lane in range(count):
            self._free.put(lane)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def stream(self, work: Work[Item, T], items: Iterable[Item]) -> Iterator[T]:
        """Do `work` for every item; the results come in that order.

        Items are taken as threads become free: at most one more than there are threads is on its way.

        Raises:
            Calib8Error: what the work for an item raised, when its turn has come.
        """
        if self._pool is None:
            for item in items:
                yield work(0, item)
            return
        running: deque[Future[T]] = deque()
        for item in items:
            while len(running) > self.count:
                yield running.popleft().result()
            running.append(self._pool.submit(self._in_free_lane, work, item))
        while running:
            yield running.popleft().result()

    def each(self, work: Work[Item, T], items: Sequence[Item]) -> list[T]:
        """Do `work` for every item, without handing each of them over: for work that takes no longer than that.

        Returns:
            The results in the order of the items.

        Raises:
            Calib8Error: what the work raised for the first item, in their order, for which it raised anything.
        """
        done: list[T | None] = [None] * len(items)
        raised: dict[int, BaseException] = {}
        places = iter(range(len(items)))  # shared: each thread takes the next one when it is free

        def some(lane: int, _: int) -> None:
            for place in places:
                try:
                    done[place] = work(lane, items[place])
                except BaseException as why:  # noqa: BLE001 - raised again below
                    raised[place] = why
                if raised:  # not before the work: items before the one that failed are done, and may fail as well
                    return

        list(self.stream(some, range(min(self.count, len(items)))))
        if raised:
            raise raised[min(raised)]
        return cast("list[T]", done)

    def _in_free_lane(self, work: Work[Item, T], item: Item) -> T:
        lane = self._free.get()
        try:
            return work(lane, item)
        finally:
            self._free.put(lane)
