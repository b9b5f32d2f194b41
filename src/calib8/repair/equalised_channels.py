"""Equalised channels: every channel of a value is counted in a unit of its own, so that small ones get more codes.

On this chip all channels of a value share one threshold: where the largest channel reaches 100, one that never exceeds
2 has three codes. Between layers with weights the unit u of a channel can be moved: the layer that writes it has
W[c] / u[c] and b[c] / u[c], those that read it W[:, c] * u[c], and ReLU, poolings, sums and Concat in between hand it
on (`ChannelFlow`). In FP32 nothing changes.

Channels that have to share their unit - a sum's bottoms and its top - are a class. Small units give the weights that
read a channel fewer steps, and those that write it more than they have, so units are found in two ways. One weighs both
by a model of the noise (`least_noise`). The other goes by ranges: a class's largest value, relative to that of the
largest channel, is r; its unit is r^a, with a = 1/2, as Nagel et al. balance the ranges of the weights of two layers.
With a = 1 every channel would have the range that its values need. The guard says which is best, or that neither is.

The thresholds follow from the distributions of values in their units, by the methods that find all others. Counts have
to be of all values: what a twentieth of them says of a tail cost SqueezeNet 0.5 dB. Where samples are few and maps are
small, thresholds have room for what was not seen (`unseen_maxima`).

Channels that can have no unit - of inputs and outputs, and what a layer reads or writes that mixes channels or runs in
FP32 - keep theirs.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1, with
ranges of values in the place of those of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Layer
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layers import Op
from calib8.lowering import Model
from calib8.measure.counters import InTurn
from calib8.measure.histogram import BlobHistogram, Histogram
from calib8.quantize import QuantPlan, fold_groups
from calib8.quantize.channel_units import in_channel_units, is_before_batch_norm
from calib8.repair.channel_values import ChannelMoments
from calib8.repair.least_noise import NoiseModel, least_noise
from calib8.repair.unseen_maxima import raised

Array = NDArray[np.float64]
Classes = NDArray[np.intp]

EQUALISED = "equalised-channels"
LEAST_NOISE = "least noise"
WORTH_IT = 0.95
"""How much of the noise may be left at most, for units that files then need a record for: 0.2 dB."""
CLEARLY = 0.9
"""How much of the noise with float weights is left, at most, where units by range are taken: 0.5 dB."""
_EXPONENT = 0.5
_BLOCK = 1 << 16  # elements that are divided at a time, which a cache holds
_SMALLEST = 1 / 64  # of the units of a value


@dataclass(frozen=True, eq=False)
class ChannelClasses:
    """Channels that share their unit.

    Attributes:
        of: by value, the class of every channel, (C); -1 for those that can have no unit.
        count: how many classes there are.
    """

    of: Mapping[str, Classes]
    count: int

    def by_value(self, units: Array) -> dict[str, Array]:
        """Give every value the units of its channels, (C); 1 where a channel can have none."""
        return {v: np.where(of >= 0, units[of], 1.0) for v, of in self.of.items()}


def channel_classes(model: Model, plan: QuantPlan) -> ChannelClasses:
    """Find which channels can have units, and which of them share theirs."""
    joined = _Joined(model)
    for layer, op in model.pairs:
        flow = ChannelFlow.MIXED
        if plan.forms.get(layer.name) is not None and op.kind == "onnx":
            flow = op.channel_flow(model.call(layer))
        joined.take(layer, op, flow)
    for value in (*model.inputs, *model.net.outputs):
        joined.fix(value)
    return joined.made()


class _Joined:
    """Channels of all values, put together into classes."""

    def __init__(self, model: Model) -> None:
        self._model = model
        sizes = {v: shape[1] for v, shape in model.shapes.items() if len(shape) > 1}
        ends = np.cumsum(list(sizes.values()), dtype=np.intp)
        self._places = {v: np.arange(end - size, end) for (v, size), end in zip(sizes.items(), ends, strict=True)}
        self._parents = np.arange(ends[-1] if len(ends) else 0)
        self._fixed: list[str] = []
        times_seen: dict[int, int] = {}
        for layer in model.net.layers:
            for blob in layer.blobs:
                times_seen[id(blob)] = times_seen.get(id(blob), 0) + 1
        self._shared = {layer.name for layer in model.net.layers if any(times_seen[id(b)] > 1 for b in layer.blobs)}

    def take(self, layer: Layer, op: Op, flow: ChannelFlow) -> None:
        """Join channels of a layer's bottoms and tops, or fix them."""
        values = (*layer.bottoms, *layer.tops)
        if flow is ChannelFlow.TAKEN and not is_before_batch_norm(self._model, layer.bottoms[0]):
            values = layer.tops
            flow = ChannelFlow.MIXED
        unshaped = any(v not in self._places for v in values)
        if flow in (ChannelFlow.MIXED, ChannelFlow.TAKEN) or unshaped or layer.name in self._shared:
            self._fixed += values
        elif flow is ChannelFlow.CARRIED:
            for value in values[1:]:
                self._join(self._places[values[0]], self._places[value])
        elif flow is ChannelFlow.JOINED:
            self._join(np.concatenate([self._places[b] for b in layer.bottoms]), self._places[layer.tops[0]])

    def fix(self, value: str) -> None:
        """Leave a value's channels as they are."""
        self._fixed.append(value)

    def made(self) -> ChannelClasses:
        """Give the classes."""
        roots = np.array([self._root(place) for place in range(len(self._parents))], np.intp)
        is_fixed = np.zeros(len(roots), bool)
        for value in self._fixed:
            if value in self._places:
                is_fixed[roots[self._places[value]]] = True
        free, numbers = np.unique(roots[~is_fixed[roots]], return_inverse=True)
        classes = np.full(len(roots), -1, np.intp)
        classes[~is_fixed[roots]] = numbers
        of = {v: classes[places] for v, places in self._places.items()}
        return ChannelClasses({v: own for v, own in of.items() if (own >= 0).any()}, len(free))

    def _join(self, some: Classes, others: Classes) -> None:
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            self._parents[self._root(one)] = self._root(other)

    def _root(self, place: int) -> int:
        while self._parents[place] != place:
            self._parents[place] = self._parents[self._parents[place]]
            place = int(self._parents[place])
        return place


class EqualisedChannels:
    """Finds units, in two ways; see the module's text. Samples are run twice, the second time to count in units.

    Args:
        model, plan: the network, and the plan whose groups of values share a threshold.
        has_room: whether thresholds have room for larger values than those that were seen.

    Attributes:
        counters: of the first pass, by value; none where no channel can have a unit.
    """

    def __init__(self, model: Model, plan: QuantPlan, *, has_room: bool = True) -> None:
        self._model, self._classes, self._has_room = model, channel_classes(model, plan), has_room
        groups = fold_groups(model, plan.enable_concat_quantize)
        self._members = {g.measured(as_written=False): g.members for g in groups}
        self._measured = [v for v in self._members if v in self._classes.of]
        self._noise = NoiseModel(model, plan)
        source = {m: g.measured(as_written=False) for g in groups for m in g.members}
        # What a group is measured by stands for its other values, but for those of a Concat, which have fewer channels.
        self._source = {
            v: source[v] if model.shapes[source[v]][1] == model.shapes[v][1] else v for v in self._noise.values
        }
        watched = dict.fromkeys((*self._measured, *self._source.values())) if self._measured else ()
        self.counters = {v: ChannelMoments() for v in watched}

    def ways(self) -> Ways:
        """Choose units from what the first pass has counted."""
        seen = {v: counter for v, counter in self.counters.items() if counter.seen}
        by_value = {v: seen[source] for v, source in self._source.items() if source in seen}
        measured = {v: seen[v] for v in self._measured if v in seen}
        layers = list(self._noise.layers(self._classes.of, self._classes.count, by_value))

        def units(name: str, own: Array) -> Units:
            return Units(name, self._model, own, self._classes, measured, self._members, has_room=self._has_room)

        least = least_noise(layers, self._classes.count, _SMALLEST)
        by_range = self._by_range({v: counter.largest for v, counter in measured.items()})
        return Ways(units(LEAST_NOISE, least), units("by range", by_range))

    def room(self, thresholds: Mapping[str, float]) -> dict[str, float]:
        """Find those thresholds that are larger with room for what was not seen, of the network without units.

        Args:
            thresholds: what it has, by value.

        Returns:
            By value, of all values of a group.
        """
        able = [v for v in self._measured if self._has_room and self.counters[v].seen]
        return _of_members(raised(thresholds, {v: self.counters[v].unseen() for v in able}), self._members)

    def _by_range(self, measured: Mapping[str, Array]) -> Array:
        """Choose every class's unit by the largest value of its channels, relative to all that it meets; at most 1."""
        needed = np.zeros(self._classes.count)
        largest = np.zeros(self._classes.count)  # of all channels that a class meets in a value, directly or not
        for value, own in measured.items():
            free = self._classes.of[value] >= 0
            np.maximum.at(needed, self._classes.of[value][free], own[free])
        of = self._classes.of
        meetings = [(of[v][of[v] >= 0], own.max()) for v, own in measured.items()]
        while True:
            before = largest.copy()
            for classes, top in meetings:
                largest[classes] = max(top, largest[classes].max(initial=0))
            if np.array_equal(before, largest):
                break
        relative = np.divide(needed, largest, out=np.ones_like(needed), where=needed > 0)
        return np.asarray(np.clip(relative, _SMALLEST, 1.0) ** _EXPONENT)


class Units:
    """Units of all channels, and the distributions of values that are counted in them.

    Args:
        name: how they were chosen.
        model: the network.
        units: by class.
        classes: those of channels.
        measured: what was seen of the channels, by value that stands for a group.
        members: the values of each group.
        has_room: as `EqualisedChannels` has it.

    Attributes:
        name, classes: as given.
        counters: of the second pass, by value; those that were always 0 have none.
    """

    def __init__(
        self, name: str, model: Model, units: Array, classes: ChannelClasses, measured: Mapping[str, ChannelMoments],
        members: Mapping[str, tuple[str, ...]], *, has_room: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.classes, self._model, self._units, self._members = name, classes, model, units, members
        of_values = classes.by_value(units)
        tops = {v: float((own.largest / of_values[v]).max()) for v, own in measured.items()}
        self.counters = {v: InUnits(of_values[v], top) for v, top in tops.items() if top > 0}
        unseen = {v: measured[v].unseen(of_values[v]) for v in self.counters if has_room}
        self._unseen = {v: own for v, own in unseen.items() if own.excess.any()}

    def thresholds(self, find: Callable[[BlobHistogram], float]) -> dict[str, float]:
        """Find the thresholds of all values whose channels have units, in the distributions of the second pass."""
        found = {value: find(counter.histogram) for value, counter in self.counters.items()}
        return _of_members({**found, **raised(found, self._unseen)}, self._members)

    def raised(self, find: Callable[[BlobHistogram], float]) -> dict[str, float]:
        """Give those of `thresholds` that are larger than what was found, as there are values that were not seen."""
        found = {value: find(self.counters[value].histogram) for value in self._unseen}
        return _of_members(raised(found, self._unseen), self._members)

    @property
    def histograms(self) -> dict[str, BlobHistogram]:
        """What the second pass has counted."""
        return {value: counter.histogram for value, counter in self.counters.items()}

    def network(self, times: Array | None = None) -> InChannelUnits:
        """Give the network in these units.

        Args:
            times: what they are multiplied by, by class; None for nothing.
        """
        units = self.classes.by_value(self._units if times is None else self._units * times)
        return InChannelUnits(in_channel_units(self._model, units), _with_batch_norms(self._model, units))


def _of_members(thresholds: Mapping[str, float], members: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Give every value of a group the threshold of the one that stands for it."""
    return {member: threshold for value, threshold in thresholds.items() for member in members[value]}


class Ways(NamedTuple):
    """Units that were chosen in one way and another."""

    least_noise: Units
    by_range: Units

    @property
    def counters(self) -> dict[str, InTurn]:
        """Those of both, for one pass."""
        values = dict.fromkeys(v for way in self for v in way.counters)
        return {v: InTurn([way.counters[v] for way in self if v in way.counters]) for v in values}


class InUnits:
    """The distribution of a value whose channels are counted in units.

    Args:
        units: (C).
        maximum: the largest |x| / units.
    """

    def __init__(self, units: Array, maximum: float) -> None:
        self._units = units.astype(np.float32)
        self._counter = Histogram(float(np.float32(maximum)))

    def add(self, values: NDArray[Any]) -> None:
        """Take in a value of one sample, (N, C, ...)."""
        channels = max(1, _BLOCK * values.shape[1] // max(values.size, 1))
        units = self._units.reshape(-1, *(1,) * (values.ndim - 2))
        for first in range(0, values.shape[1], channels):
            part = slice(first, first + channels)
            self._counter.add(np.divide(values[:, part], units[part], dtype=np.float32))

    @property
    def histogram(self) -> BlobHistogram:
        """What was counted."""
        return self._counter.result()


@dataclass(frozen=True, eq=False)
class InChannelUnits:
    """A network whose channels are counted in units: in FP32 it computes what the network itself does.

    Attributes:
        model: with weights that take up the units; what is solved for is solved in it.
        units: by value, (C); nothing for the network as it is.
    """

    model: Model
    units: Mapping[str, Array] = field(default_factory=dict)

    def real(self, plan: QuantPlan) -> QuantPlan:
        """Give a plan of this network as one of the network itself: the same integers, and what they mean."""
        return replace(plan, channel_units={**self.units, **plan.channel_units}) if self.units else plan


def _with_batch_norms(model: Model, units: Mapping[str, Array]) -> dict[str, Array]:
    """Give a BatchNorm's top, which holds what its Scale makes, the units of the Scale's top."""
    pairs = ((model.net.layer_by_name[name].tops[0], scale.tops[0]) for name, scale in model.batch_norm_pairs.items())
    return {**units, **{top: units[of_scale] for top, of_scale in pairs if of_scale in units}}
