"""Histograms on a cluster: parts of the samples go to Dask's workers, counter states come back and are added.

    samples -> shards -> workers -> states, added as a tree -> maxima -> shards again, where counts must be exact

Counter states add up exactly (`measure.states`), so the result has the bytes of one process. A state is fetched as soon
as it is there; a worker that dies costs the shards that it was at work on, which Dask gives to another one. What is
saved is the sum of all shards from the first one on up to one that is missing: the state that one process would have
had there, so that either can go on with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from calib8.data import takes
from calib8.data.digests import Digests, digests_of
from calib8.measure.histogram_file import HistogramSet, States
from calib8.workflow.calibrating import CalibrateOptions
from calib8.workflow.cluster import PATIENCE, NetworkFiles, SharedNetwork, Workers, connected
from calib8.workflow.histograms import (
    SAVE_SECONDS,
    Counting,
    CountOptions,
    Part,
    count_exactly,
    count_histograms,
    count_into,
)
from calib8.workflow.network import Network
from calib8.workflow.progress import ProgressCallback, quiet

if TYPE_CHECKING:
    from distributed import Future

_MOST_IN_SHARD = 512
_SHARDS_PER_LANE = 4
"""So many shards for each thread of the workers, where there are samples enough: the last ones end about together."""
_IN_FLIGHT = 2
"""Shards for each thread that are submitted at a time: results that nobody has fetched take memory."""
_ONE_PASS = "max"
T = TypeVar("T")


class _Sum(Protocol):
    def merge(self, other: Any) -> Any: ...


Summed = TypeVar("Summed", bound=_Sum)


def count_on_cluster(
    network: Network,
    files: NetworkFiles,
    options: CalibrateOptions,
    cluster: str,
    progress: ProgressCallback = quiet,
    patience: float = PATIENCE,
    path: str | os.PathLike[str] | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> HistogramSet:
    """Count what the methods measure on the workers of a Dask scheduler.

    Args:
        network: the files, opened here.
        options: `threads` are those of one shard; None for 1, or with `local:N` for an equal share of the cores.
        cluster: a scheduler's address, or `local:N` for N processes on this machine.
        patience: seconds to wait for a scheduler, and for workers where there are none.
        path: count into this file, and go on with what it has or where an interrupted run was, as `count_to_file`;
            None to keep nothing.
        save_seconds: how often a run that goes to a file saves what it has.

    Returns:
        The set that `count_histograms` gives.

    Raises:
        OptionError: Dask is not installed, no scheduler answers, it has no workers, or workers die again and again.
        DataError: workers that do not see what is here: all of them, and why; or as `count_to_file`.
        Calib8Error: as `count_histograms`.
    """
    takes(network.samples, options.iteration)  # refuses a wrong number before anything is started
    counting = CountOptions(Part(0, options.iteration), save_seconds=save_seconds)
    with connected(cluster, network, files, options, patience) as workers:

        def count(known: HistogramSet | None, save: Callable[[HistogramSet], None] | None) -> HistogramSet:
            return _OnWorkers(workers, options, counting, progress).counted(known, save)

        return count(None, None) if path is None else count_into(path, network, options, counting, count)


class _OnWorkers(Counting):
    """Passes over the samples, cut into shards."""

    def __init__(
        self, workers: Workers, options: CalibrateOptions, counting: CountOptions, progress: ProgressCallback
    ) -> None:
        part = counting.part or Part(0, options.iteration)
        super().__init__(workers.network, options, part, counting, progress)
        self._workers, self._save_seconds = workers, counting.save_seconds

    def digests_of_first(self, count: int) -> Iterator[Digests]:
        """Let workers read samples."""
        parts = self._shards(self.part.start, self.part.start + count)
        for _, found in self._each(digests_there, parts, self._workers.shared):
            yield found

    def fine_counts(self, known: HistogramSet | None, done: int) -> Iterator[HistogramSet]:
        """Count in shards what is not known; see `Counting`."""
        shared = self._workers.shared
        own = replace(shared, options=replace(shared.options, method=_ONE_PASS, two_pass=False))
        parts = self._shards(self.part.start + done, self.part.stop)
        start = None if known is None else replace(known, exact={}, unfinished=None)
        for found, _ in self._sums(parts, 0, done, count_first, own):
            yield found if start is None else start.merge(found)

    def exact_counts(self, known: States, maxima: Mapping[str, float], done: int) -> Iterator[tuple[States, int]]:
        """Count in shards over known maxima; see `Counting`."""
        parts = self._shards(self.part.start + done, self.part.stop)
        wanted = {value: maxima[value] for value in self.exact_values}
        for found, samples in self._sums(parts, len(self.part), done, count_second, self._workers.shared, wanted):
            yield {v: known[v].merge(state) if known else state for v, state in found.exact.items()}, samples

    def _sums(
        self, parts: list[Part], before: int, done: int, work: Callable[..., HistogramSet], *arguments: object
    ) -> Iterator[tuple[HistogramSet, int]]:
        """From time to time the sum of the first shards, at last of all; and how many samples are counted then."""
        tree, saved, saves, counted = _Tree[HistogramSet](), 0, time.monotonic(), done
        for index, found in self._each(work, parts, *arguments):
            tree.add(index, found)
            counted += len(parts[index])
            self.tell("calibrating", before + counted)
            due = time.monotonic() - saves >= self._save_seconds or tree.reach == len(parts)
            if due and tree.reach > saved:
                saved = tree.reach
                yield tree.first(), parts[saved - 1].stop - self.part.start
                saves = time.monotonic()

    def _each(self, work: Callable[..., T], parts: list[Part], *arguments: object) -> Iterator[tuple[int, T]]:
        """Do all shards; what is found comes as soon as it is there, with the shard's number."""
        waiting = iter(enumerate(parts))
        running: dict[Future, int] = {}

        def submit(count: int) -> None:
            for index, part in islice(waiting, count):
                running[self._workers.submit(work, part, *arguments)] = index

        submit(_IN_FLIGHT * self._workers.lanes)
        while running:
            future = self._workers.next_done(running)
            if future is None:
                continue
            index = running.pop(future)
            part = parts[index]
            found: T = self._workers.result_of(future, f"samples {part.start + 1} to {part.stop}")
            future.release()
            submit(1)
            yield index, found

    def _shards(self, start: int, stop: int) -> list[Part]:
        return shards(self._workers.network, start, stop, self._workers.lanes)


class _Tree(Generic[Summed]):
    """Adds neighbours in pairs, then pairs in pairs, as they come: no sum is added to more than it is worth."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[int, Summed]] = {}
        """By the first of their shards: how many it is the sum of, a power of two, and the sum."""

    def add(self, index: int, one: Summed) -> None:
        """Take in a shard's."""
        size = 1
        while (other := self._sums.get(index ^ size, (0, None)))[0] == size and other[1] is not None:
            del self._sums[index ^ size]
            one = other[1].merge(one) if index & size else one.merge(other[1])
            index &= ~size
            size *= 2
        self._sums[index] = size, one

    @property
    def reach(self) -> int:
        """How many shards there are from the first on, up to one that is missing."""
        end = 0
        while end in self._sums:
            end += self._sums[end][0]
        return end

    def first(self) -> Summed:
        """Add these."""
        end, whole = self._sums[0]
        while end in self._sums:
            size, following = self._sums[end]
            whole, end = whole.merge(following), end + size
        return whole


def shards(network: Network, start: int, stop: int, lanes: int) -> list[Part]:
    """Cut the samples from `start` to before `stop` into parts: several for each lane, and none of many samples.

    Where samples do not go through the network independently, `start` is where a batch begins, and parts end with one.
    """
    batch = 1 if network.model.batch_of_one() is not None else network.samples.batch_size
    pieces = -(-(stop - start) // batch)
    count = min(pieces, max(_SHARDS_PER_LANE * lanes, -(-(stop - start) // _MOST_IN_SHARD)))
    ends = [min(stop, start + pieces * i // count * batch) for i in range(count + 1)]
    return [Part(first, last) for first, last in pairwise(ends)]


def count_first(part: Part, shared: SharedNetwork) -> HistogramSet:
    """Count a shard's fine counts; runs on a worker."""
    return count_histograms(shared.opened(), shared.options, CountOptions(part))


def count_second(part: Part, shared: SharedNetwork, maxima: Mapping[str, float]) -> HistogramSet:
    """Count a shard's exact counts; runs on a worker."""
    return count_exactly(shared.opened(), shared.options, part, maxima)


def digests_there(part: Part, shared: SharedNetwork) -> Digests:
    """Read a shard; runs on a worker."""
    return np.concatenate([digests_of(batch) for batch in takes(shared.opened().samples, part.stop, part.start)])
