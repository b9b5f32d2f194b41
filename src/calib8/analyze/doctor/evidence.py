"""What a network tells of the data that it was trained with, without a label.

`BatchNormEvidence`: a BatchNorm holds the mean and the variance of each channel over the training data. Samples that
were prepared as in training give the same ones. The misfit of a layer is the mean over its channels of the divergence
between two normal distributions, that of the samples (m, v) and the stored one (M, V):

    KL = (ln(V/v) + (v + (m - M)^2) / V - 1) / 2    in nats

and the misfit of a network is the geometric mean over its layers, so that no single layer decides. Where there are few
layers, a converter has folded the others, and a mean over them is a matter of chance: with 3 layers of a network a
wrong recipe often fits 1.2 times as well as the right one. So what all layers say together has to be as much as ten of
them say: a gain counts as its power of (layers / 10).

`BalanceEvidence`: weaker, for networks without BatchNorm. A trained rectifier is on for some inputs and off for
others; an offset or a factor on the samples pushes many of them to one side. With p the share of inputs above 0, of
each channel, the balance is the mean of -p log2 p - (1-p) log2 (1-p), in bits. Where a Softmax stands, its inputs must
have a size that training gives: cross-entropy hardly pushes them beyond a few tens. The misfit is what is missing to
one bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.analyze.answers import answers_of
from calib8.arithmetic import dead_channels
from calib8.graph import Layer
from calib8.layers.batch_norm import BatchNorm
from calib8.layers.elu import ELU
from calib8.layers.prelu import PReLU
from calib8.layers.relu import ReLU
from calib8.layers.relu6 import ReLU6
from calib8.layers.softmax import Softmax
from calib8.lowering import Model, lower_float

Array = NDArray[Any]
Doubles = NDArray[np.float64]
_RECTIFIERS = (ReLU, ReLU6, PReLU, ELU)
_MOST_KL = 50.0  # a layer that does not fit at all; beyond that, more is no more telling
_LEAST_KL = 1e-4
_LEAST_VARIANCE = 1e-12
_ENOUGH_NORMS = 10
"""With three of a network's BatchNorms, in a row or drawn, a wrong recipe fits 1.15 times as well as the right one in 5
to 61 of 100 cases, and 1.15^(10/3) times as well in 0 to 5 (four networks with 10 to 57 BatchNorms)."""
_LARGEST_LOGIT = 30.0  # exp(-30) is nothing beside 1, in float32 and for a gradient


class Evidence(ABC):
    """Turns each sample into a row of numbers, and rows of samples into a misfit; less is better.

    Attributes:
        kind: "batchnorm" or "balance".
        values: what is looked at in a forward pass.
        text: what it rests on, for people.
        weight: 1, or less where it rests on few layers: the part of what is usual that it says.
    """

    kind: str
    values: tuple[str, ...]
    text: str
    weight: float = 1.0

    @abstractmethod
    def part(self, value: str, array: Array) -> tuple[Doubles, Doubles]:
        """What counts of one value of a forward pass, so that the value itself need not be kept."""

    @abstractmethod
    def row(self, parts: Mapping[str, tuple[Doubles, Doubles]]) -> Doubles:
        """What counts of one forward pass, from its parts; rows are averaged over samples."""

    def misfit(self, rows: Doubles) -> float:
        """From rows (samples, numbers)."""
        return float(self.misfits(rows.mean(axis=0, keepdims=True))[0])

    @abstractmethod
    def misfits(self, means: Doubles) -> Doubles:
        """From means of rows, (n, numbers): the misfit of each, (n)."""


def evidence_of(model: Model) -> Evidence | None:
    """The best evidence that a network has; None for a network that has none, without BatchNorm and rectifier."""
    norms = [x for x, op in model.pairs if isinstance(op, BatchNorm) and _is_usable(op, x)]
    return BatchNormEvidence(model, norms) if norms else balance_of(model)


def balance_of(model: Model) -> Evidence | None:
    """What a network's rectifiers tell; None for a network without any, and for one that makes a picture.

    Such a network carries pixels through to its end: units that are always on are what training gives there.
    """
    if any(answer.kind == "picture" for answer in answers_of(model)):
        return None
    rectified = [x for x, op in model.pairs if isinstance(op, _RECTIFIERS) and len(model.shapes[x.bottoms[0]]) > 1]
    return BalanceEvidence(model, rectified) if rectified else None


def _is_usable(op: BatchNorm, layer: Layer) -> bool:
    """Whether its statistics are those of some data: a converter leaves 0 and 1 for a layer that it folded."""
    mean, variance = op.statistics(layer.blobs)
    return bool(np.isfinite(mean).all() and (variance > 0).any() and not ((variance == 1).all() and (mean == 0).all()))


class BatchNormEvidence(Evidence):
    """See the module's text."""

    kind = "batchnorm"

    def __init__(self, model: Model, layers: Sequence[Layer]) -> None:
        self.values = tuple(dict.fromkeys(x.bottoms[0] for x in layers))
        at, first = 0, {}  # where a value's moments begin in a row
        means, variances, places, sizes, alive = [], [], [], [], []
        for layer in layers:
            op = model.op_of[layer.name]
            if not isinstance(op, BatchNorm):
                raise AssertionError(f"{layer.name} is no BatchNorm")
            mean, variance = op.statistics(layer.blobs)
            if layer.bottoms[0] not in first:
                first[layer.bottoms[0]] = at
                at += 2 * mean.size
            live = np.flatnonzero(~dead_channels(variance))
            means.append(mean[live])
            variances.append(variance[live] + op.eps)
            places.append(first[layer.bottoms[0]] + live)
            sizes.append(np.full(live.size, mean.size))
            alive.append(live.size)
        # Of the live channels of all layers, one after another.
        self._means, self._variances = np.concatenate(means), np.concatenate(variances)
        self._places, self._sizes = np.concatenate(places), np.concatenate(sizes)
        self._alive = np.array(alive)
        self.weight = min(1.0, len(layers) / _ENOUGH_NORMS)
        self.text = f"the statistics of {len(layers)} BatchNorm layer{'s' * (len(layers) > 1)}"
        if self.weight < 1:
            self.text += " (few, so that small mistakes escape it)"

    def part(self, value: str, array: Array) -> tuple[Doubles, Doubles]:
        """Mean and mean square of every channel."""
        del value  # each counts alike
        return _moments(array)

    def row(self, parts: Mapping[str, tuple[Doubles, Doubles]]) -> Doubles:
        """Mean and mean square of every channel, of all values."""
        return np.concatenate([part for value in self.values for part in parts[value]])

    def misfits(self, means: Doubles) -> Doubles:
        """Geometric mean over layers."""
        m = means[:, self._places]
        v = np.maximum(means[:, self._places + self._sizes] - m * m, _LEAST_VARIANCE)
        divergences = 0.5 * (np.log(self._variances / v) + (v + (m - self._means) ** 2) / self._variances - 1)
        starts = np.cumsum(self._alive) - self._alive
        of_layers = np.add.reduceat(np.clip(divergences, 0, _MOST_KL), starts, axis=1) / self._alive
        return np.asarray(np.exp(np.log(of_layers + _LEAST_KL).mean(axis=1)))


class BalanceEvidence(Evidence):
    """See the module's text."""

    kind = "balance"

    def __init__(self, model: Model, layers: Sequence[Layer]) -> None:
        self._rectified = tuple(dict.fromkeys(x.bottoms[0] for x in layers))
        self._logits = tuple(dict.fromkeys(x.bottoms[0] for x, op in model.pairs if isinstance(op, Softmax)))
        self.values = tuple(dict.fromkeys((*self._rectified, *self._logits)))
        self._channels = [model.shapes[value][1] for value in self._rectified]
        self.text = (
            f"how often its {len(layers)} rectifier{'s are' if len(layers) > 1 else ' is'} on and off (weaker than a "
            "BatchNorm: small mistakes escape it)"
        )

    def part(self, value: str, array: Array) -> tuple[Doubles, Doubles]:
        """Shares above 0 by channel, and the mean square of a Softmax's input."""
        shares = (array > 0).mean(axis=_but_channels(array)) if value in self._rectified else np.empty(0)
        squares = [np.mean(np.square(array, dtype=np.float64))] if value in self._logits else []
        return shares, np.array(squares)

    def row(self, parts: Mapping[str, tuple[Doubles, Doubles]]) -> Doubles:
        """All shares, and all mean squares."""
        return np.concatenate([*(parts[v][0] for v in self._rectified), *(parts[v][1] for v in self._logits)])

    def misfits(self, means: Doubles) -> Doubles:
        """What is missing to one bit, of which logits out of all proportion leave little."""
        channels = np.array(self._channels)
        shares, logits = np.split(means, [channels.sum()], axis=1)
        starts = np.cumsum(channels) - channels
        balance = (np.add.reduceat(_bits(shares), starts, axis=1) / channels).mean(axis=1)
        largest = np.sqrt(logits.max(axis=1, initial=0.0))
        return np.asarray(1 - balance * np.minimum(1.0, _LARGEST_LOGIT / np.maximum(largest, 1.0)))


def steps_for(model: Model, evidence: Evidence, max_output_bytes: int | None = None) -> Any:
    """The lowered network up to what the evidence looks at; see `lower_float`."""
    wanted = [value for value in evidence.values if value not in model.inputs]
    return lower_float(model, wanted, max_output_bytes=max_output_bytes)


def _moments(values: Array) -> tuple[Doubles, Doubles]:
    """Mean and mean square of every channel; in float32, where that is enough: images scatter more."""
    channels = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    sums, squares = channels.sum(axis=1), np.einsum("cn,cn->c", channels, channels)
    if not np.isfinite(squares).all():
        channels = channels.astype(np.float64)
        sums, squares = channels.sum(axis=1), np.einsum("cn,cn->c", channels, channels)
    count = channels.shape[1]
    return sums.astype(np.float64) / count, squares.astype(np.float64) / count


def _but_channels(values: Array) -> tuple[int, ...]:
    return (0, *range(2, values.ndim))


def _bits(shares: Doubles) -> Doubles:
    p = np.clip(shares, 1e-6, 1 - 1e-6)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))
