"""Parts of an output in which INT8 says nothing: one number everywhere, where FP32 has others.

A layer that puts values of different sizes into one blob gives them one step. Box corners of 0 to 320 beside scores of
0 to 1 make a step of 2.5, and every score 0: a detector that finds nothing, at 30 dB of signal to noise, as nearly all
of the signal is in the corners.

A part is what has one index of an axis: a channel, or one of the numbers of each anchor where these come last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Layer

_FEWEST_NUMBERS = 64
"""Of a part, over all runs: a few numbers may be the same by chance."""
_LEAST_SHARE = 0.125
"""Of the parts of an axis: a channel or two of hundreds may live below a step and mean nothing."""


@dataclass(frozen=True)
class LostParts:
    """The parts of one axis that are lost.

    Attributes:
        axis: from 1 on; 0 counts samples.
        indices: of the lost parts, in order.
        count: how many parts the axis has.
        largest: the largest |x| that FP32 has in them.
        layer: that writes the output.
        joins: whether it is a Concat.
    """

    axis: int
    indices: tuple[int, ...]
    count: int
    largest: float
    layer: str
    joins: bool = False

    @property
    def text(self) -> str:
        """Say it in a few words."""
        what = "channels" if self.axis == 1 else f"places of axis {self.axis}"
        return (
            f"{len(self.indices)} of {self.count} {what} lost ({_ranges(self.indices)}: one number in INT8, up to "
            f"{self.largest:.3g} in FP32)"
        )

    @property
    def advice(self) -> str:
        """What to do; no repair brings them back."""
        leave = "calibrate with `concat_quantize` and leave that layer in FP32"
        if self.joins:
            return f"cut the network before layer {self.layer!r}, or {leave}"
        return f"leave layer {self.layer!r} in FP32"


class PartsSeen:
    """The least and the largest number of each part of one output, over runs.

    Args:
        writer: the layer that writes it.
    """

    def __init__(self, writer: Layer) -> None:
        self._writer = writer
        self._spans: dict[int, tuple[_Spans, _Spans]] = {}

    def add(self, reference: Array, result: Array) -> None:
        """Take in one run of FP32 and of INT8, (N, C, ...); one without a row says nothing."""
        for axis in range(1, reference.ndim if reference.size else 0):
            if reference.shape[axis] > 1:
                own = self._spans.setdefault(axis, (_Spans(), _Spans()))
                own[0].add(reference, axis)
                own[1].add(result, axis)

    @property
    def lost(self) -> LostParts | None:
        """The axis with the largest share of lost parts; None where no axis has an eighth."""
        each = (self._of_axis(axis, fp32, int8) for axis, (fp32, int8) in self._spans.items())
        found = [lost for lost in each if lost is not None]
        return max(found, key=lambda one: len(one.indices) / one.count, default=None)

    def _of_axis(self, axis: int, fp32: _Spans, int8: _Spans) -> LostParts | None:
        if fp32.low is None or fp32.high is None or fp32.numbers < _FEWEST_NUMBERS:
            return None
        lost = np.flatnonzero((fp32.high > fp32.low) & (int8.high == int8.low))
        if lost.size < _LEAST_SHARE * fp32.low.size:
            return None
        largest = float(np.maximum(np.abs(fp32.low), np.abs(fp32.high))[lost].max())
        writer = self._writer
        return LostParts(axis, tuple(lost.tolist()), fp32.low.size, largest, writer.name, writer.type == "Concat")


class _Spans:
    def __init__(self) -> None:
        self.low: NDArray[np.float32] | None = None
        self.high: NDArray[np.float32] | None = None
        self.numbers = 0

    def add(self, array: Array, axis: int) -> None:
        others = tuple(a for a in range(array.ndim) if a != axis)
        low, high = array.min(axis=others), array.max(axis=others)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)
        self.numbers += array.size // array.shape[axis]


def _ranges(indices: tuple[int, ...]) -> str:
    """0, 1, 2, 7 as `0 to 2, 7`; no more than three ranges are named."""
    ends = [i for i, index in enumerate(indices) if i + 1 == len(indices) or indices[i + 1] != index + 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    named = [f"{indices[a]} to {indices[b]}" if b > a else f"{indices[a]}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(named[:3]) + (", .." if len(named) > 3 else "")
