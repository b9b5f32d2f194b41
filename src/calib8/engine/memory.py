"""Memory that nobody needs any more, back to the system: what a library has freed stays with the process by itself."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort

from calib8.graph import Array
from calib8.layers import OnnxBuilder
from calib8.lowering.steps import OnnxStep, Step

_AS_REQUESTED = 1
_SILENT = 4


@cache
def make_arena() -> None:
    """Make one arena for all sessions of this process, most of which run in turn.

    It takes as much as is asked for; by itself ONNX Runtime takes the next power of two.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": _AS_REQUESTED}))


def share_arena(settings: ort.SessionOptions) -> None:
    """Let a session take memory from that arena."""
    make_arena()
    settings.add_session_config_entry("session.use_env_allocators", "1")
    settings.enable_mem_pattern = False  # one piece for all values of a run takes more than a piece for each


def empty_arena() -> None:
    """Free what the arena keeps for later runs. Only a run can do that; this one has next to nothing to compute."""
    g = OnnxBuilder()
    x = g.input((1,))
    model, _ = g.model([(g.node("Abs", x), np.float32)])
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.intra_op_num_threads = 1
    share_arena(settings)
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    shrinking = ort.RunOptions()
    shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.run(None, {x: np.zeros(1, np.float32)}, shrinking)
    trim()


def settle(steps: Iterable[Step]) -> None:
    """Give back what is left when sessions have been opened: they hold copies of weights, and threw others away."""
    forget(array for step in steps if isinstance(step, OnnxStep) for array in step.weights.values())
    trim()


def trim() -> None:
    """Let the C library give back what was freed; glibc keeps it, where it has become used to large pieces.

    It looks at every page: a heap of a gigabyte takes 50 ms, so this is nothing for what happens often.
    """
    trim_heap = getattr(_c_library(), "malloc_trim", None)
    if trim_heap is not None:
        trim_heap(0)


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def forget(arrays: Iterable[Array]) -> None:
    """Drop the pages of files that arrays lie in: they are read again where somebody looks at them again."""
    files = {id(file): file for array in arrays if (file := _mapped_file(array)) is not None}
    for file in files.values():
        file.madvise(mmap.MADV_DONTNEED)


def _mapped_file(array: Array) -> mmap.mmap | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    owner = base.obj if isinstance(base, memoryview) else base
    # What may be written may be a private copy, which is nowhere else.
    return owner if isinstance(owner, mmap.mmap) and memoryview(owner).readonly else None
