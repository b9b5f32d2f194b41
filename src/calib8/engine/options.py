"""How a network is executed; nothing here changes a result, but for last bits where it says so."""

from __future__ import annotations

import os
from dataclasses import dataclass

from calib8.errors import OptionError


@dataclass(frozen=True)
class EngineOptions:
    """Options of execution.

    Attributes:
        threads: threads within one operator; None takes the cores that this process may use.
        release_blobs: free every blob behind its last reader instead of keeping the buffers for the next sample.
            Lowers the peak of memory, costs some time.
        gpu: number of the GPU to compute on; None is the CPU.
        repack_weights: repack float weights in every graph, not only beside integer layers. An InnerProduct in FP32
            then has the same last bits whatever graph it is in.
    """

    threads: int | None = None
    release_blobs: bool = False
    gpu: int | None = None
    repack_weights: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads is {self.threads}; it must be at least 1")

    @property
    def thread_count(self) -> int:
        """The number of threads to use."""
        return self.threads or available_cores()


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
