"""Histograms on a cluster: parts of the samples go to Dask's workers, counter states come back and are added.

    samples -> shards -> workers -> states, added as a tree -> maxima -> shards again, where counts must be exact

Counter states add up exactly (`measure.states`), so the result has the bytes of one process. A state is fetched as soon
as it is there; a worker that dies costs the shards that it was at work on, which Dask gives to another one.

Workers are processes with calib8 that see the network and its data under the same paths.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from calib8.data import takes
from calib8.errors import Calib8Error, DataError, OptionError
from calib8.graph import Shape
from calib8.measure.histogram_file import HistogramSet, Identity
from calib8.workflow.arrays import Arrays
from calib8.workflow.calibrating import CalibrateOptions
from calib8.workflow.histograms import (
    CountOptions,
    Part,
    count_exactly,
    count_histograms,
    exact_values,
    identity_of,
    part_of,
)
from calib8.workflow.images import Images
from calib8.workflow.network import Network, open_network
from calib8.workflow.progress import Progress, ProgressCallback, quiet

if TYPE_CHECKING:
    from distributed import Client, Future

_LOCAL = "local:"
_MOST_IN_SHARD = 512
_SHARDS_PER_LANE = 4
"""So many shards for each thread of the workers, where there are samples enough: the last ones end about together."""
_IN_FLIGHT = 2
"""Shards for each thread that are submitted at a time: results that nobody has fetched take memory."""
_PATIENCE = 30
"""Seconds to wait for a scheduler, and for its first worker."""
_ONE_PASS = "max"


@dataclass(frozen=True)
class NetworkFiles:
    """What a worker opens: paths that all of them see, and the samples as the options give them.

    Attributes:
        prototxt, caffemodel: absolute paths; an ONNX model has no caffemodel.
        shapes: of inputs, in the place of the model's own.
        samples: None for the network's own data layer.
    """

    prototxt: Path
    caffemodel: Path | None = None
    samples: Images | Arrays | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)

    def opened(self) -> Network:
        """Open the network, with its samples."""
        return open_network(self.prototxt, self.caffemodel, self.samples, shapes=self.shapes)


def count_on_cluster(
    network: Network,
    files: NetworkFiles,
    options: CalibrateOptions,
    cluster: str,
    progress: ProgressCallback = quiet,
    patience: float = _PATIENCE,
) -> HistogramSet:
    """Count what the methods measure on the workers of a Dask scheduler.

    Args:
        network: the files, opened here.
        options: `threads` are those of one shard; None for 1, or with `local:N` for an equal share of the cores.
        cluster: a scheduler's address, or `local:N` for N processes on this machine.
        patience: seconds to wait for a scheduler, and for its first worker.

    Returns:
        The set that `count_histograms` gives.

    Raises:
        OptionError: Dask is not installed, no scheduler answers, it has no workers, or workers die again and again.
        DataError: workers that do not see what is here: all of them, and why.
        Calib8Error: as `count_histograms`.
    """
    takes(network.samples, options.iteration)  # refuses a wrong number before anything is started
    with _connected(cluster, options, patience) as (client, own):
        run = _Run(client, network, files, own, progress)
        run.check_workers()
        fine = run.over(count_first, replace(own, method=_ONE_PASS, two_pass=False), None)
        if not exact_values(identity_of(network, options), options):
            return fine
        exact = run.over(count_second, own, fine.maxima)
        return replace(fine, exact=exact.exact)


class _Run:
    """Passes over the samples, cut into shards."""

    def __init__(
        self,
        client: Client,
        network: Network,
        files: NetworkFiles,
        options: CalibrateOptions,
        progress: ProgressCallback,
    ) -> None:
        self._client, self._files, self._progress = client, files, progress
        self._expected = identity_of(network, options)
        self._lanes = max(1, sum(client.nthreads().values()))
        self._parts = shards(network, options.iteration, self._lanes)
        self._passes = 2 if exact_values(self._expected, options) else 1
        self._options, self._done = options, 0

    def check_workers(self) -> None:
        """Let every worker open the network.

        Raises:
            DataError: workers that cannot, or that find another one; all of them.
        """
        found = self._client.run(problem_here, self._files, self._options, self._expected, on_error="return")
        problems = [f"worker {address}: {problem}" for address, problem in sorted(found.items()) if problem]
        if problems:
            raise DataError(
                f"{len(problems)} of {len(found)} workers cannot use the network and its data; every worker needs this "
                "calib8 and must see the same files under the same paths, for instance in a shared folder",
                problems,
            )

    def over(
        self, work: Callable[..., HistogramSet], options: CalibrateOptions, maxima: Mapping[str, float] | None
    ) -> HistogramSet:
        """Do all shards; what is found is added as it comes."""
        from distributed import as_completed  # noqa: PLC0415 - an extra

        def submit(part: Part) -> Future:
            own = self._client.submit(work, self._files, options, part, self._expected, maxima, pure=False)
            part_of_future[own.key] = part
            return own

        part_of_future: dict[str, Part] = {}
        waiting = iter(self._parts)
        running = as_completed([submit(part) for part in islice(waiting, _IN_FLIGHT * self._lanes)])
        tree = _Tree()
        for future in running:
            part = part_of_future.pop(future.key)
            tree.add(_result_of(future, part))
            future.release()
            self._done += len(part)
            self._progress(Progress("calibrating", self._done, self._parts[-1].stop * self._passes))
            for following in islice(waiting, 1):
                running.add(submit(following))
        return tree.whole()


class _Tree:
    """Adds sets of like size, as they come: so many merges as there are shards, none of them of many at a time."""

    def __init__(self) -> None:
        self._found: list[tuple[int, HistogramSet]] = []

    def add(self, one: HistogramSet) -> None:
        """Take in a set."""
        rank = 0
        while self._found and self._found[-1][0] == rank:
            one = self._found.pop()[1].merge(one)
            rank += 1
        self._found.append((rank, one))

    def whole(self) -> HistogramSet:
        """Add what is left."""
        _, found = self._found.pop()
        while self._found:
            found = self._found.pop()[1].merge(found)
        return found


def shards(network: Network, iteration: int, lanes: int) -> list[Part]:
    """Cut the first `iteration` samples into parts: several for each lane, and none of many samples."""
    batch = 1 if network.model.batch_of_one() is not None else network.samples.batch_size
    wanted = max(_SHARDS_PER_LANE * lanes, -(-iteration // _MOST_IN_SHARD))
    count = min(wanted, -(-iteration // batch))
    return [part_of(network, iteration, index, count) for index in range(1, count + 1)]


def count_first(
    files: NetworkFiles, options: CalibrateOptions, part: Part, expected: Identity, maxima: Mapping[str, float] | None
) -> HistogramSet:
    """Count a shard's fine counts; runs on a worker."""
    return count_histograms(_opened(files, options, expected), options, CountOptions(part))


def count_second(
    files: NetworkFiles, options: CalibrateOptions, part: Part, expected: Identity, maxima: Mapping[str, float]
) -> HistogramSet:
    """Count a shard's exact counts; runs on a worker."""
    return count_exactly(_opened(files, options, expected), options, part, maxima)


def problem_here(files: NetworkFiles, options: CalibrateOptions, expected: Identity) -> str:
    """Say what keeps this worker from taking part; "" for nothing. Runs on a worker."""
    try:
        _opened(files, options, expected)
    except Calib8Error as why:
        return str(why)
    return ""


_kept = threading.local()
"""The network that this thread of a worker has opened: samples are read by one thread at a time."""


def _opened(files: NetworkFiles, options: CalibrateOptions, expected: Identity) -> Network:
    if getattr(_kept, "files", None) != files:
        _kept.network, _kept.files = files.opened(), files
    network: Network = _kept.network
    problems = expected.differences(identity_of(network, options))
    if problems:
        raise DataError(f"{files.prototxt}: another network than where the command was given", problems)
    return network


def _result_of(future: Future, part: Part) -> HistogramSet:
    from distributed import KilledWorker  # noqa: PLC0415 - an extra

    try:
        found: HistogramSet = future.result()
    except Calib8Error:
        raise
    except KilledWorker as why:
        raise OptionError(
            f"workers died again and again while they ran the samples {part.start + 1} to {part.stop}, the last one "
            f"{why.last_worker.address}; is there memory enough? `memory_opt` takes less"
        ) from None
    except Exception as why:  # noqa: BLE001 - whatever the connection, or Dask itself, has
        raise OptionError(f"the cluster failed at samples {part.start + 1} to {part.stop}: {why!r}") from None
    return found


@contextlib.contextmanager
def _connected(cluster: str, options: CalibrateOptions, patience: float) -> Iterator[tuple[Client, CalibrateOptions]]:
    """A client of the scheduler that has workers, and the options for a shard."""
    try:
        from distributed import Client, LocalCluster  # noqa: PLC0415 - an extra
    except ImportError:
        raise OptionError("`cluster` needs Dask: pip install 'calib8[cluster]'") from None
    with contextlib.ExitStack() as stack:
        target, threads = cluster, options.threads or 1
        if cluster.startswith(_LOCAL):
            count = local_workers(cluster)
            threads = options.threads or max(1, len(os.sched_getaffinity(0)) // count)
            target = stack.enter_context(
                LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                    memory_limit=0,
                )
            )
        try:
            client = stack.enter_context(Client(target, timeout=patience))
            client.wait_for_workers(1, timeout=patience)
        except (OSError, ValueError, TimeoutError) as why:
            raise OptionError(
                f"`cluster` {cluster}: no scheduler of Dask with workers answers there within {patience:g} s: {why}; "
                "expected an address like tcp://host:8786, or local:N"
            ) from None
        yield client, replace(options, threads=threads)


def local_workers(cluster: str) -> int:
    """Read the N of `local:N`.

    Raises:
        OptionError: it is no number of processes.
    """
    text = cluster.removeprefix(_LOCAL)
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= 1024):
        raise OptionError(f"`cluster` is {cluster!r}; local:N takes a number of processes, 1 to 1024, like local:4")
    return int(text)
