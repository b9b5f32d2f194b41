"""How a network is executed; nothing here changes a result, but for last bits where it says so."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from calib8.errors import OptionError


@dataclass
class _Process:
    gpu: int | None = None


_process = _Process()


def use_gpu(gpu: int | None) -> None:
    """Set the device of all later `EngineOptions` that name none: a GPU's number, or None, as at the start, the CPU.

    Raises:
        OptionError: a negative number.
    """
    _check_number(gpu)
    _process.gpu = gpu


def gpu_in_use() -> int | None:
    """Return what `use_gpu` has set."""
    return _process.gpu


MAX_THREADS = 1024
"""More are no machine's; making them takes minutes, or all memory."""


@dataclass(frozen=True)
class EngineOptions:
    """Options of execution.

    Attributes:
        threads: threads within one operator; None takes the cores that this process may use.
        release_blobs: free every blob behind its last reader instead of keeping the buffers for the next sample.
            Lowers the peak of memory, costs some time.
        gpu: number of the GPU to compute on, None for the CPU; what `use_gpu` has set where nothing is given.
        repack_weights: repack float weights in every graph, not only beside integer layers. An InnerProduct in FP32
            then has the same last bits whatever graph it is in.
        lend_weights: read large matrices where they lie, a file it may be, instead of a copy. Nobody may change them
            as long as the network is open.
    """

    threads: int | None = None
    release_blobs: bool = False
    gpu: int | None = field(default_factory=gpu_in_use)
    repack_weights: bool = False
    lend_weights: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise OptionError(f"`threads` is {self.threads}; it must be 1 to {MAX_THREADS}")
        _check_number(self.gpu)

    @property
    def thread_count(self) -> int:
        """The number of threads to use."""
        return self.threads or available_cores()

    @property
    def integer_kernels(self) -> bool:
        """Whether the device has kernels over integers; see `OnnxBuilder`."""
        return self.gpu is None


def available_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_number(gpu: int | None) -> None:
    if gpu is not None and gpu < 0:
        raise OptionError(f"GPU {gpu}: GPUs are numbered from 0")
