"""Where the outputs of steps lie in memory that they share: those of one step over those that nobody reads any more."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calib8.graph import Array
from calib8.lowering.readings import Reading
from calib8.lowering.steps import HostStep, OnnxStep, Port, Step

_LINE = 64  # bytes, of a processor's cache


@dataclass(frozen=True)
class Layout:
    """Places of outputs in one piece of memory.

    Attributes:
        places: output and first byte.
        size: bytes of the whole.
    """

    places: Mapping[Reading, tuple[Port, int]]
    size: int

    def buffers(self) -> dict[Reading, Array]:
        """Take memory, and return the array of each output in it."""
        memory = np.empty(self.size + _LINE, np.uint8)
        memory = memory[-memory.ctypes.data % _LINE :]
        return {
            reading: memory[start : start + _bytes(port)].view(port.dtype).reshape(port.shape)
            for reading, (port, start) in self.places.items()
        }


def laid_out(steps: Sequence[Step], finished: Sequence[Collection[Reading]]) -> Layout:
    """Find places for the outputs of all ONNX steps, so that none lies over another that is still read.

    The largest comes first, each as low as it can lie: what is best is as hard as packing, and this comes close.

    Args:
        finished: for every step, what nobody needs after it.

    Source: Y. Pisarchyk, J. Lee, "Efficient Memory Management for Deep Neural Net Inference", arXiv:2001.03288, greedy
    by size.
    """
    last = {reading: at for at, readings in enumerate(finished) for reading in readings}
    # What a layer in Python returns may be a view of what it was given.
    last |= {reading: len(steps) for step in steps if isinstance(step, HostStep) for reading in step.inputs}
    outputs = [
        (port, at, last[port.reading])
        for at, step in enumerate(steps)
        if isinstance(step, OnnxStep)
        for port in step.output_ports
    ]
    placed: list[tuple[Port, int, int, int]] = []  # output, first byte, and the steps from and to which it is needed
    for port, since, until in sorted(outputs, key=lambda output: -_bytes(output[0])):
        start = 0
        for other, begin, other_since, other_until in sorted(placed, key=lambda place: place[1]):
            if other_since <= until and since <= other_until and begin < start + _bytes(port):
                start = max(start, _up(begin + _bytes(other)))
        placed.append((port, start, since, until))
    size = max((start + _bytes(port) for port, start, _, _ in placed), default=0)
    return Layout({port.reading: (port, start) for port, start, _, _ in placed}, size)


def _bytes(port: Port) -> int:
    return math.prod(port.shape) * np.dtype(port.dtype).itemsize


def _up(place: int) -> int:
    return -(-place // _LINE) * _LINE
