"""What is run for samples, as values that can go to another process, and the place where that happens.

A job asks for something of each of its items and each sample, such as the answer to a question, or what a layer costs.
`Bench` does it in this process; `workflow.cluster_trials` cuts it by samples and by items, for other processes. What
makes one figure of many parts stays where the job was given: it sums in the order of the samples, so that the figure
does not depend on where a part was computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from calib8.analyze.experiment import Experiment
from calib8.analyze.judges import Judge
from calib8.quantize import QuantPlan

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)
S = TypeVar("S")
Parts = list[list[P] | None]
"""By item, and of each item by sample; None for an item that cannot be run."""


class Job(ABC, Generic[P_co]):
    """Something to do for items and samples. Its class is known by name to every process that has calib8."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many items there are."""

    @abstractmethod
    def piece(self, start: int, stop: int) -> Job[P_co]:
        """The same job for the items from `start` to before `stop`."""

    @abstractmethod
    def parts(self, bench: Bench, samples: Sequence[int]) -> Parts[Any]:
        """Do it, for samples by their numbers in the bench's experiment."""


class Runner(Protocol):
    """Does jobs, here or elsewhere.

    Attributes:
        at_once: how many items it had better be given at a time, where there are many; parts of all of them are in
            memory then.
    """

    at_once: int

    def parts(self, job: Job[P], samples: Sequence[int]) -> Parts[P]:
        """Do a job for some samples, by their numbers."""
        ...


@dataclass(frozen=True, eq=False)
class Setting:
    """What a bench needs beside the network and its samples; it can be sent.

    Attributes:
        plan: the network in integers, at the beginning.
        judge: of outputs; where parts are made, only `Judge.part` is used.
        outputs: the values that runs can be asked for; those of the judge among them.
        compared: the values that stand for the network's outputs.
        at_layer: as `trials.Trials` has it.
    """

    plan: QuantPlan
    judge: Judge
    outputs: tuple[str, ...]
    compared: tuple[str, ...] = ()
    at_layer: bool = True


class Bench:
    """Does jobs in this process.

    Attributes:
        experiment: the samples.
        setting: as given.
    """

    at_once = 1

    def __init__(self, experiment: Experiment, setting: Setting) -> None:
        self.experiment, self.setting = experiment, setting
        self._made: dict[Callable[[Bench], Any], Any] = {}

    def once(self, make: Callable[[Bench], S]) -> S:
        """Return what `make` has made of this bench when it was first asked for."""
        if make not in self._made:
            self._made[make] = make(self)
        made: S = self._made[make]
        return made

    def parts(self, job: Job[P], samples: Sequence[int]) -> Parts[P]:
        """Do a job for some samples."""
        return job.parts(self, samples)
