"""Jobs of `analyze.bench` on the workers of a Dask scheduler: `sensitivity`, `tune` and mixed precision.

Every lane of the workers has a seat: some of the samples and, where there are more lanes than samples, some of the
items of every job. What a seat needs (the network, its samples, FP32's outputs, values that are kept between trials) is
made once, on the worker where the seat is, and stays there; a trial sends a question and gets back what the judge says
of each sample. Where a worker dies, its seats move to others, which make it again.

A loss is made of all parts in the order of the samples, in the process that asks. So it does not depend on who computed
them.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from calib8.analyze.bench import Bench, Job, Parts, Runner, Setting
from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.errors import DataError
from calib8.graph import Array
from calib8.workflow.cluster import SharedNetwork, Workers
from calib8.workflow.judging import JudgeOptions
from calib8.workflow.samples import sample_chunks

if TYPE_CHECKING:
    from distributed import Future

_ITEMS_OF_A_SEAT = 4
"""Items that a seat is given at once, where there are many: so few that their parts need not be counted as memory."""
_RUNNERS_KEPT = 2
"""A worker keeps what it has made for so many runners: two searches at a time do not take it from each other."""
P = TypeVar("P")


@dataclass(frozen=True, eq=False)
class _Bench:
    """What a worker makes a bench of.

    Attributes:
        shared: the network.
        images: how many images the samples are made of.
        samples: the numbers of those that sit here, each with a digest of what it has to be.
        setting: pickled.
        options: how they are run.
    """

    shared: SharedNetwork
    images: int
    samples: Mapping[int, bytes]
    setting: bytes
    options: ExperimentOptions

    def made(self) -> tuple[Bench, dict[int, int]]:
        """Open the network, read the samples and run FP32; also the place of every sample by its number.

        Raises:
            DataError: the network or the samples are others than where the command was given.
            Calib8Error: they cannot be used.
        """
        network = self.shared.opened()
        inputs: dict[int, Mapping[str, Array]] = {}
        number = 0
        for chunk in sample_chunks(network.of_one_sample, network.samples, self.images, 1):
            for one in chunk.inputs:
                if number in self.samples:
                    inputs[number] = one
                number += 1
        wrong = [n for n, digest in self.samples.items() if _digest(inputs[n]) != digest]
        if wrong:
            raise DataError(
                f"{self.shared.files.prototxt}: this worker reads other samples than where the command was given, the "
                f"first is number {wrong[0] + 1}; all must see the same files under the same paths"
            )
        setting: Setting = pickle.loads(self.setting)
        experiment = Experiment(network.of_one_sample, list(inputs.values()), setting.outputs, self.options)
        return Bench(experiment, setting), {number: place for place, number in enumerate(inputs)}


@dataclass(eq=False)
class _Kept:
    """A seat on a worker; one task at a time sits on it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    made: tuple[Bench, dict[int, int]] | None = None


class _Seats:
    """The seats on this worker, of the last few runners."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runners: OrderedDict[str, dict[int, _Kept]] = OrderedDict()

    def seat(self, runner: str, number: int) -> _Kept:
        with self._lock:
            seats = self._runners.setdefault(runner, {})
            self._runners.move_to_end(runner)
            while len(self._runners) > _RUNNERS_KEPT:
                self._runners.popitem(last=False)
            return seats.setdefault(number, _Kept())

    def leave(self, runner: str) -> None:
        with self._lock:
            self._runners.pop(runner, None)


_seats = _Seats()


@dataclass(frozen=True)
class _Answer:
    """What a worker says.

    Attributes:
        worker: its address.
        parts: as `Job.parts`; None where the seat is not made here and the task does not say what it is made of.
    """

    worker: str
    parts: Parts[Any] | None


def answer(runner: str, number: int, job: Job[Any], samples: Sequence[int], bench: _Bench | None) -> _Answer:
    """Do a job on a seat; runs on a worker."""
    from distributed import get_worker  # noqa: PLC0415 - an extra

    kept = _seats.seat(runner, number)
    with kept.lock:
        if kept.made is None and bench is not None:
            kept.made = bench.made()
        if kept.made is None:
            return _Answer(get_worker().address, None)
        own, place = kept.made
        return _Answer(get_worker().address, own.parts(job, [place[sample] for sample in samples]))


def leave(runner: str) -> None:
    """Forget a runner's seats; runs on a worker."""
    _seats.leave(runner)


@dataclass(eq=False)
class _Seat:
    """A seat as the runner knows it.

    Attributes:
        number: its own.
        samples: those that sit there.
        group: which part of the items it takes.
        worker: the address of the worker that has it; "" for none.
    """

    number: int
    samples: frozenset[int]
    group: int
    worker: str = ""


Running = dict["Future", tuple[_Seat, Job[Any], list[int]]]
"""Tasks by their seat, the items and the samples."""


class ClusterRunner:
    """Does jobs on workers, as `analyze.bench.Runner`. Use it in a `with` block.

    Args:
        experiment: has the samples, and is not run.
        images: how many images these are.
        order: the numbers of all samples; neighbours in it are given to different seats.
    """

    def __init__(
        self, workers: Workers, experiment: Experiment, setting: Setting, images: int, order: Sequence[int],
        options: JudgeOptions,
    ) -> None:  # fmt: skip
        self._workers, self._experiment, self._images = workers, experiment, images
        self._setting = pickle.dumps(
            Setting(setting.plan, setting.judge.for_parts, setting.outputs, setting.compared, setting.at_layer)
        )
        own = options.experiment
        self._options = replace(own, threads=workers.threads, budget=own.budget // workers.budget_share)
        self._name, lanes = uuid.uuid4().hex, workers.lanes
        shares = min(lanes, len(order))
        self._groups = lanes // shares
        self._seats = [
            _Seat(number, frozenset(order[number % shares :: shares]), number // shares)
            for number in range(shares * self._groups)
        ]
        self._digests = [_digest(sample) for sample in experiment.samples]
        self.at_once = _ITEMS_OF_A_SEAT * self._groups

    def __enter__(self) -> ClusterRunner:
        return self

    def __exit__(self, *error: object) -> None:
        # Where that fails there is nobody to forget anything.
        self._workers.client.run(leave, self._name, on_error="ignore")

    def parts(self, job: Job[P], samples: Sequence[int]) -> Parts[P]:
        """Do a job: each seat some of the samples, for some of the items.

        Raises:
            OptionError: the cluster failed, or workers die again and again.
            DataError: a worker sees something else than what is here.
            Calib8Error: what the work raises.
        """
        groups = min(self._groups, job.size)
        ends = [job.size * i // groups for i in range(groups + 1)]
        self._settle()
        running: Running = {}
        for seat in self._seats:
            own = [sample for sample in samples if sample in seat.samples]
            if own and seat.group < groups:
                piece = job.piece(ends[seat.group], ends[seat.group + 1])
                running[self._submit(seat, piece, own)] = seat, piece, own
        found: list[dict[int, P] | None] = [{} for _ in range(job.size)]
        try:
            while running:
                future = self._workers.next_done(running)
                if future is None:
                    running = self._again(running)
                    continue
                seat, piece, own = running.pop(future)
                said: _Answer = self._workers.result_of(future, f"{len(own)} samples")
                future.release()
                if said.parts is None:  # nobody has made this seat yet, or its worker is gone
                    running[self._submit(seat, piece, own, made=False)] = seat, piece, own
                    continue
                seat.worker = said.worker
                _enter(found, ends[seat.group], own, said.parts)
        finally:
            for future in running:
                future.cancel()
        return [None if one is None else [one[sample] for sample in samples] for one in found]

    def _settle(self) -> None:
        """Give a worker to every seat whose own is gone: the one with the fewest seats for its threads."""
        threads = self._workers.addresses()
        taken = dict.fromkeys(threads, 0)
        for seat in self._seats:
            if seat.worker in taken:
                taken[seat.worker] += 1
        for seat in self._seats:
            if seat.worker not in threads:
                seat.worker = min(sorted(threads), key=lambda address: taken[address] / threads[address], default="")
                taken[seat.worker] = taken.get(seat.worker, 0) + 1

    def _again(self, running: Running) -> Running:
        """Submit all tasks anew, for the workers that there are now."""
        for future in running:
            future.cancel()
        self._settle()
        return {self._submit(seat, piece, own): (seat, piece, own) for seat, piece, own in running.values()}

    def _submit(self, seat: _Seat, job: Job[Any], samples: list[int], *, made: bool = True) -> Future:
        bench = None if made else self._bench_of(seat)
        return self._workers.submit(answer, self._name, seat.number, job, samples, bench, worker=seat.worker)

    def _bench_of(self, seat: _Seat) -> _Bench:
        samples = {number: self._digests[number] for number in sorted(seat.samples)}
        return _Bench(self._workers.shared, self._images, samples, self._setting, self._options)


def experiment_options(options: JudgeOptions, workers: Workers | None) -> ExperimentOptions:
    """How an experiment runs of which everything is run by the workers, where there are some."""
    return replace(options.experiment, elsewhere=workers is not None)


@contextlib.contextmanager
def runner_of(
    workers: Workers | None, experiment: Experiment, setting: Setting, images: int, order: Sequence[int],
    options: JudgeOptions,
) -> Iterator[Runner | None]:  # fmt: skip
    """The runner of an experiment; None where there are no workers, and the experiment runs itself."""
    if workers is None:
        yield None
        return
    with ClusterRunner(workers, experiment, setting, images, order, options) as runner:
        yield runner


def _enter(found: list[dict[int, P] | None], start: int, samples: Sequence[int], parts: Parts[P]) -> None:
    """Put down the parts of some items, beginning with number `start`, and some samples."""
    for item, of_item in enumerate(parts, start):
        own = found[item]
        if of_item is None:
            found[item] = None
        elif own is not None:
            own.update(zip(samples, of_item, strict=True))


def _digest(sample: Mapping[Any, Array]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value, array in sorted(sample.items()):
        digest.update(repr((value, array.shape)).encode())
        digest.update(np.ascontiguousarray(array, "<f4").data)
    return digest.digest()
