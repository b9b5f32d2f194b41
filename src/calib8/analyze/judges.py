"""What says how much worse the INT8 outputs are than the FP32 ones: one number, 0 for equal ones, less is better.

- `SquaredDifference`: the original tool's: per output the mean squared difference, summed over outputs
- `ScoreDifference`: the same before a Softmax, where the best classes count most
- `calib8.analyze.yolo`: the original's second one: decoded boxes and scores in the place of raw outputs
- `QualityDrop`: by how much a measure of quality falls, such as top-1 accuracy or a function of the user's

All but the last are means over samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.analyze.metrics import mean_squared_error
from calib8.errors import OptionError
from calib8.layers.arg_max import ArgMax
from calib8.layers.softmax import Softmax
from calib8.lowering import Model

Array = NDArray[Any]
Outputs = Mapping[str, Array]
"""Of one sample, or of several one after another along axis 0, by value."""


class Judge(ABC):
    """Turns outputs into a loss, a part for each sample at a time, so that samples can be judged in any order.

    Attributes:
        name: for reports.
        values: what it looks at; outputs may hold more than these.
    """

    name: str
    values: tuple[str, ...]

    @property
    def key(self) -> str:
        """Names everything that a loss depends on beside the outputs."""
        return repr((self.name, self.values))

    @property
    def for_parts(self) -> Judge:
        """The judge without what `loss` alone needs, as it goes to another process."""
        return self

    @abstractmethod
    def part(self, reference: Outputs, result: Outputs) -> Any:
        """Compute what one sample contributes, from its FP32 and INT8 outputs. Later runs change `result`'s arrays."""

    @abstractmethod
    def loss(self, samples: Sequence[int], parts: Sequence[Any]) -> float:
        """Compute the loss over some samples, by their numbers, from their parts."""


class MeanJudge(Judge):
    """The mean of what the samples contribute, numbers of at least 0: more of them never make a loss smaller."""

    def loss(self, samples: Sequence[int], parts: Sequence[float]) -> float:
        """Take the mean; with the parts of some of the samples only, what the loss is at least."""
        return math.fsum(parts) / len(samples)


class SquaredDifference(MeanJudge):
    """Per output the mean of (fp32 - int8)^2 over its elements, summed over outputs, averaged over samples."""

    name = "difference"

    def __init__(self, values: Sequence[str]) -> None:
        self.values = tuple(values)

    def part(self, reference: Outputs, result: Outputs) -> float:
        """Sum the outputs' differences, in squared real units."""
        return sum(mean_squared_error(reference[value], result[value]) for value in self.values)


class ScoreDifference(SquaredDifference):
    """Squared differences of what goes into a Softmax, weighted by class; those of other values as they are.

    With the scores x in FP32 and y in INT8 of C classes: `sum_c (p_c + 1/C)/2 * (x_c - y_c)^2`, p = softmax(x / 2), as
    a mean over positions. What happens to the few best classes decides which of them is best. A plain mean hardly sees
    it among many classes, and prefers thresholds that clip the best.

    Args:
        axes: the class axis of the values that are scores.
    """

    def __init__(self, values: Sequence[str], axes: Mapping[str, int]) -> None:
        super().__init__(values)
        self._axes = dict(axes)

    @property
    def key(self) -> str:
        """With the axes."""
        return repr((self.name, self.values, self._axes))

    def part(self, reference: Outputs, result: Outputs) -> float:
        """Sum the values' differences, in squared real units."""
        return sum(self._difference(value, reference[value], result[value]) for value in self.values)

    def _difference(self, value: str, x: Array, y: Array) -> float:
        if value not in self._axes:
            return mean_squared_error(x, y)
        x, y = (np.moveaxis(scores, self._axes[value], -1).astype(np.float64) for scores in (x, y))
        # Softmax of FP32 alone: what counts must not depend on what is judged. The largest goes first against overflow.
        shares = np.exp((x - x.max(axis=-1, keepdims=True)) / _TEMPERATURE)
        shares /= shares.sum(axis=-1, keepdims=True)
        weights = (shares + 1 / x.shape[-1]) / 2
        return float((weights * (x - y) ** 2).sum(axis=-1).mean())


_TEMPERATURE = 2.0


def score_difference(model: Model) -> ScoreDifference:
    """Make the judge for a network's outputs, before their Softmax where they have one."""
    values = compared_values(model, before_softmax=True)
    readers = {value: [model.op_of[x.name] for x in model.net.consumers[value]] for value in values}
    axes = {value: op.axis for value, ops in readers.items() for op in ops if isinstance(op, Softmax)}
    return ScoreDifference(values, axes)


Quality = Callable[[Outputs, Outputs, Any], float]
"""From outputs of all samples in FP32 and in INT8, and labels or None, to a number; more is better."""


class QualityDrop(Judge):
    """`quality(fp32, fp32, labels) - quality(fp32, int8, labels)`.

    Args:
        labels: one for each sample of the experiment, along axis 0; None for none.
        finds: those of the values that have a row for each find, see `finds_of`. Rows of several runs stand one after
            another, and the first number of a row, that of its image, counts the images of all runs.
        code: names the quality's own code, for a function of the user's.
    """

    def __init__(
        self, name: str, quality: Quality, values: Sequence[str], labels: Array | None = None, code: str = "",
        finds: Mapping[str, int] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.name, self._quality, self.values, self._labels = name, quality, tuple(values), labels
        self._code, self._finds = code, dict(finds)
        self._of_fp32: dict[tuple[int, ...], float] = {}

    @property
    def key(self) -> str:
        """With the labels, and what names the code."""
        labels = None if self._labels is None else self._labels.tolist()
        return repr((self.name, self._code, self.values, labels))

    @property
    def for_parts(self) -> Judge:
        """Without the function, which may be known to this process only, and without labels."""
        return QualityDrop(self.name, _stays_behind, self.values)

    def part(self, reference: Outputs, result: Outputs) -> tuple[Outputs, Outputs]:
        """Return the outputs themselves: a quality may look at all of them together."""
        return {v: reference[v] for v in self.values}, {v: result[v].copy() for v in self.values}

    def loss(self, samples: Sequence[int], parts: Sequence[tuple[Outputs, Outputs]]) -> float:
        """Return the drop of quality; it may be negative, where INT8 happens to be better."""
        chosen = tuple(samples)
        reference = self._joined([part[0] for part in parts])
        if chosen not in self._of_fp32:
            self._of_fp32[chosen] = self._measure(chosen, reference, reference)
        return self._of_fp32[chosen] - self._measure(chosen, reference, self._joined([part[1] for part in parts]))

    def _joined(self, parts: Sequence[Outputs]) -> Outputs:
        return {
            value: _all_rows([part[value] for part in parts], self._finds[value])
            if value in self._finds
            else self._concatenated(value, [part[value] for part in parts])
            for value in self.values
        }

    def _concatenated(self, value: str, arrays: Sequence[Array]) -> Array:
        shapes = dict.fromkeys(a.shape[1:] for a in arrays)
        if len(shapes) > 1:
            raise OptionError(
                f"metric {self.name}: output {value!r} has the shapes {' and '.join(map(str, list(shapes)[:2]))} for "
                "different samples, which cannot be put into one array"
            )
        return np.concatenate([a.reshape(1) if a.ndim == 0 else a for a in arrays])

    def reference(self, samples: Sequence[int]) -> float:
        """Return the quality in FP32 over samples that were judged before."""
        return self._of_fp32[tuple(samples)]

    def _measure(self, samples: tuple[int, ...], reference: Outputs, result: Outputs) -> float:
        labels = None if self._labels is None else self._labels[list(samples)]
        found = float(self._quality(reference, result, labels))
        if not math.isfinite(found):
            raise OptionError(f"metric {self.name} gave {found} for {len(samples)} samples; expected a finite number")
        return found


def _stays_behind(reference: Outputs, result: Outputs, labels: Any) -> float:
    raise AssertionError("a judge for parts computes no loss")


def top1(reference: Outputs, result: Outputs, labels: Any) -> float:
    """Return the share of samples whose largest channel (axis 1) is the label or, without labels, that of FP32.

    Of several outputs, the first counts. A map (N, C, H, W) counts pixel by pixel, with labels (N) for whole images
    only if it is one pixel large.

    Raises:
        OptionError: labels that do not fit the output.
    """
    name = next(iter(reference))
    found = result[name].argmax(axis=1).reshape(len(result[name]), -1)
    right = reference[name].argmax(axis=1).reshape(len(found), -1) if labels is None else np.asarray(labels)
    if labels is not None:
        right = right.reshape(len(right), -1)
        if not np.array_equal(right, np.floor(right)):
            raise OptionError(
                "metric top1: the labels are no whole numbers, so they name no classes; give a `metric` of your own "
                "that understands them, or labels of classes (`labels=..`)"
            )
    if right.shape != found.shape:
        raise OptionError(
            f"metric top1: labels of the shape {right.shape} for the output {name!r} of {reference[name].shape}; "
            "expected one class for each sample and pixel"
        )
    return float(np.mean(found == right))


def compared_values(model: Model, *, before_softmax: bool = False) -> tuple[str, ...]:
    """List the values that stand for the network's outputs when INT8 is compared with FP32.

    An output that a layer in Python gives, such as detections, has as many rows as there are finds: what goes into
    such a layer is compared in its place. So is what goes into an ArgMax, whose places are numbers without a distance.

    Args:
        before_softmax: compare what goes into a Softmax, too, in the place of its probabilities. These hardly move
            where the network is sure of its answer, so that they say little about most samples.
    """
    found: dict[str, None] = {}
    open_values = list(model.net.outputs)
    while open_values:
        value = open_values.pop(0)
        layer = model.net.producer[value]
        op = model.op_of[layer.name]
        has_no_distance = op.kind == "host" or (isinstance(op, ArgMax) and op.gives_places)
        if has_no_distance or (before_softmax and isinstance(op, Softmax)):
            open_values[:0] = layer.bottoms
        elif value not in model.inputs:
            found[value] = None
    return tuple(found)


def finds_of(model: Model) -> dict[str, int]:
    """Find the outputs that have a row for each find, and how many images a run has.

    Such as those of DetectionOutput, (1, 1, N, 7), and of Proposal, (N, 5): a row begins with the number of its image.
    How many rows there are depends on the image.
    """
    images = max((model.shapes[value][0] for value in model.inputs if model.shapes[value]), default=1)
    outputs = [v for v in model.net.outputs if model.op_of[model.net.producer[v].name].kind == "host"]
    return {v: images for v in outputs if model.shapes[v][-1:] in ((7,), (5,)) and len(model.shapes[v]) in (2, 4)}


def _all_rows(arrays: Sequence[Array], images: int) -> Array:
    """The rows of all runs, in the form that one run has."""
    moved = [array.copy() for array in arrays]
    for run, array in enumerate(moved):
        array.reshape(-1, array.shape[-1])[:, 0] += run * images
    return np.concatenate(moved, axis=moved[0].ndim - 2)
