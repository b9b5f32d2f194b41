"""Workers of a Dask scheduler: processes with calib8 that see a network and its data under the same paths.

What goes to them are small values and functions of calib8 by name; the network and the samples they read themselves.
The scheduler needs no calib8: it hands on bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib8.engine.options import gpu_in_use
from calib8.errors import Calib8Error, DataError, OptionError
from calib8.graph import Shape
from calib8.measure.histogram_file import Identity
from calib8.workflow.arrays import Arrays
from calib8.workflow.calibrating import CalibrateOptions
from calib8.workflow.histograms import identity_of
from calib8.workflow.images import Images
from calib8.workflow.network import Network, open_network

if TYPE_CHECKING:
    from distributed import Client, Future

_LOCAL = "local:"
_NO_CALIB8 = "No module named 'calib8"
PATIENCE = 30.0
"""Seconds to wait for a scheduler, and for workers where there are none."""
_MOST_IDLE = 3
"""Waits for a result during which no worker does anything, after which it is given up."""
_GLANCE = 5.0
"""Seconds without a result after which somebody looks whether there are workers, and whether they have work."""


@dataclass(frozen=True)
class NetworkFiles:
    """What a worker opens: paths that all of them see, and the samples as the options give them.

    Attributes:
        prototxt, caffemodel: absolute paths; an ONNX model has no caffemodel.
        shapes: of inputs, in the place of the model's own.
        samples: None for the network's own data layer.
        left_out: as `Network.left_out`.
    """

    prototxt: Path
    caffemodel: Path | None = None
    samples: Images | Arrays | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    left_out: tuple[tuple[int, ...], ...] = ()

    def opened(self) -> Network:
        """Open the network, with its samples."""
        network = open_network(self.prototxt, self.caffemodel, self.samples, shapes=self.shapes)
        for numbers in self.left_out:
            network = network.without_samples(numbers)
        return network


@dataclass(frozen=True)
class SharedNetwork:
    """A network as workers get to know it.

    Attributes:
        files: what they open.
        options: what they measure by.
        expected: what they must find then.
    """

    files: NetworkFiles
    options: CalibrateOptions
    expected: Identity

    def opened(self) -> Network:
        """Open the network on a worker; a thread opens it once, since samples are read by one thread at a time.

        Raises:
            DataError: it is another one than where the command was given.
            Calib8Error: it cannot be opened.
        """
        if getattr(_kept, "shared", None) != self:
            network = self.files.opened()
            problems = self.expected.differences(identity_of(network, self.options))
            if problems:
                raise DataError(f"{self.files.prototxt}: another network than where the command was given", problems)
            _kept.network, _kept.shared = network, self
        opened: Network = _kept.network
        return opened


_kept = threading.local()
"""The network that this thread of a worker has opened."""


class Workers:
    """A scheduler's workers, all of which can use a network; made by `connected`.

    Attributes:
        client: of the scheduler.
        network: as opened here.
        shared: as they open it.
        threads: for the network, in each of the worker's own threads.
        budget_share: how many tasks share a worker's memory, or with `local:N` this machine's.
    """

    def __init__(
        self, client: Client, network: Network, shared: SharedNetwork, threads: int, patience: float, local: int = 0
    ) -> None:
        self.client, self.network, self.shared, self.threads = client, network, shared, threads
        self._patience = patience
        self.budget_share = local or max(client.nthreads().values())
        self._check()

    @property
    def lanes(self) -> int:
        """How many tasks run at a time, as far as is known now."""
        return max(1, sum(self.addresses().values()))

    def addresses(self) -> dict[str, int]:
        """The workers that there are now, and the threads of each."""
        return dict(self.client.nthreads())

    def _check(self) -> None:
        """Let every worker open the network.

        Raises:
            DataError: workers that cannot, or that find another one; all of them.
        """
        found = self.client.run(problem_here, self.shared, on_error="return")
        problems = [f"worker {address}: {_said(problem)}" for address, problem in sorted(found.items()) if problem]
        if problems:
            raise DataError(
                f"{len(problems)} of {len(found)} workers cannot use the network and its data; every worker needs this "
                "calib8 and must see the same files under the same paths, for instance in a shared folder",
                problems,
            )

    def submit(self, work: Callable[..., Any], *arguments: object, worker: str = "") -> Future:
        """Let a worker call a function of calib8.

        Args:
            worker: the address of the one that had better do it; "" for any.
        """
        call = pickle.dumps(_Call(work, arguments))
        place = {"workers": [worker], "allow_other_workers": True} if worker else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")  # weights, once for each worker
            return self.client.submit(pickle.loads, call, pure=False, **place)

    def next_done(self, running: Collection[Future]) -> Future | None:
        """Wait for one of some tasks to end.

        Returns:
            None if there are workers, and none of them has anything to do: tasks for workers that are gone are given to
            none that has come later, if there was no other one just then.

        Raises:
            OptionError: there are no workers any more, and none have come for a while.
        """
        from distributed import wait  # noqa: PLC0415 - an extra

        without, left = 0.0, self._patience
        while True:
            seconds = min(_GLANCE, left)
            try:
                done = wait(list(running), timeout=seconds, return_when="FIRST_COMPLETED").done
            except (TimeoutError, asyncio.TimeoutError):
                without = 0.0 if self.client.nthreads() else without + seconds
                left = self._patience - without
                if left <= 0:
                    raise self._nobody_left() from None
                if not without and not any(self.client.processing().values()):
                    return None
                continue
            return next(iter(done))

    def result_of(self, future: Future, what: str) -> Any:
        """Return what a task has found.

        Args:
            what: the task, for messages.

        Raises:
            OptionError: the cluster failed, or the worker that had the result is gone and nobody finds it again.
            Calib8Error: what the task raised.
        """
        from distributed import KilledWorker  # noqa: PLC0415 - an extra

        try:
            return self._result_of(future)
        except Calib8Error:
            raise
        except KilledWorker as why:
            raise OptionError(
                f"workers died again and again at {what}, the last one {why.last_worker.address}; is there memory "
                "enough? `memory_opt` takes less"
            ) from None
        except Exception as why:  # noqa: BLE001 - whatever the connection, or Dask itself, has
            raise OptionError(f"the cluster failed at {what}: {why!r}") from None

    def _result_of(self, future: Future) -> Any:
        """Fetch a result. A task that was done has to be done again where its worker dies before that."""
        seconds, idle = self._patience, 0
        while True:
            try:
                return future.result(timeout=seconds)
            except (TimeoutError, asyncio.TimeoutError):
                if not self.client.nthreads():
                    raise self._nobody_left() from None
                # A transfer may be slow, so it gets longer each time; but what nobody works on does not come.
                seconds, idle = 2 * seconds, 0 if any(self.client.processing().values()) else idle + 1
                if idle == _MOST_IDLE:
                    raise OptionError(
                        "the cluster has lost a result, and no worker finds it again; what is saved is kept: give the "
                        "command again"
                    ) from None

    def _nobody_left(self) -> OptionError:
        return OptionError(
            f"the cluster has no workers any more, and none has come in {self._patience:g} s; what is saved is kept: "
            "start workers, and give the command again"
        )


class _Call:
    """A call that is made where this is unpickled.

    The scheduler unpickles what it is given, but not bytes within it: so it needs no calib8, only the workers do.
    """

    def __init__(self, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self._work, self._arguments = work, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self._work, self._arguments


def problem_here(shared: SharedNetwork) -> str:
    """Say what keeps this worker from taking part; "" for nothing. Runs on a worker."""
    try:
        shared.opened()
    except Calib8Error as why:
        return str(why)
    return ""


def _said(problem: object) -> str:
    """What a worker has answered, or what has kept it from answering."""
    if isinstance(problem, str):
        return problem
    if _NO_CALIB8 in str(problem):  # Dask hands on the text of an error that it could not unpickle
        return "it has no calib8; install the same one there (pip install)"
    return f"{type(problem).__name__}: {problem}"


@contextlib.contextmanager
def connected(
    cluster: str,
    network: Network,
    files: NetworkFiles,
    options: CalibrateOptions = CalibrateOptions(),
    patience: float = PATIENCE,
) -> Iterator[Workers]:
    """Find workers that can use a network.

    Args:
        cluster: a scheduler's address, or `local:N` for N processes on this machine.
        network: the files, opened here.
        options: `threads` are those of one task; None for 1, or with `local:N` for an equal share of the cores.
        patience: seconds to wait for a scheduler, and for workers where there are none.

    Raises:
        OptionError: Dask is not installed, a GPU is asked for, no scheduler answers, or it has no workers.
        DataError: workers that do not see what is here: all of them, and why.
    """
    try:
        from distributed import Client, LocalCluster  # noqa: PLC0415 - an extra
    except ImportError:
        raise OptionError("`cluster` needs Dask: pip install 'calib8[cluster]'") from None
    if gpu_in_use() is not None:
        raise OptionError("`cluster` computes on the processors of its workers: leave out `gpu`")
    with contextlib.ExitStack() as stack:
        target, threads, local = cluster, options.threads or 1, 0
        if cluster.startswith(_LOCAL):
            local = local_workers(cluster)
            threads = options.threads or max(1, len(os.sched_getaffinity(0)) // local)
            target = stack.enter_context(
                LocalCluster(
                    n_workers=local,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                    memory_limit=0,
                )
            )
        try:
            client = stack.enter_context(Client(target, timeout=patience))
            client.wait_for_workers(1, timeout=patience)
        except (OSError, ValueError, TimeoutError, asyncio.TimeoutError) as why:
            raise OptionError(
                f"`cluster` {cluster}: no scheduler of Dask with workers answers there within {patience:g} s: {why}; "
                "expected an address like tcp://host:8786, or local:N"
            ) from None
        own = replace(options, threads=threads)
        shared = SharedNetwork(files, own, identity_of(network, own))
        yield Workers(client, network, shared, threads, patience, local)


def local_workers(cluster: str) -> int:
    """Read the N of `local:N`.

    Raises:
        OptionError: it is no number of processes.
    """
    text = cluster.removeprefix(_LOCAL)
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= 1024):
        raise OptionError(f"`cluster` is {cluster!r}; local:N takes a number of processes, 1 to 1024, like local:4")
    return int(text)
