"""Values that share a threshold, and measured thresholds brought to all values of a network.

Steps, in this order:

1. Passive layers (`Op.passive`: ReLU, Flatten, Split ..): the first bottom and all tops make one group. Forwards
   `out := in`, then backwards `in := out`: the group has the threshold of its source, the value that comes first.
   What is measured is the source as its layer writes it (the original's way), or what a ReLU leaves of it: the
   threshold's method says which (`FoldGroup.measured`).
2. A BatchNorm with its Scale (`Model.batch_norm_pairs`): the BatchNorm's top takes the threshold of the Scale's top.
3. Concat, from the last one to the first, without `enable_concat_quantize`: a bottom takes the top's threshold when
   the Concat is the only layer that reads it, or anything of its group, from outside the group. Other bottoms keep
   their own, and so does every bottom with `enable_concat_quantize`; the Concat then requantises them.

Max pooling is not folded. Source of steps 1 and 3: the integer contract of the BM1880.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from calib8.arithmetic import check_thresholds
from calib8.errors import OptionError, QuantizationError, TableError
from calib8.layers.concat import Concat
from calib8.layers.relu import ReLU
from calib8.lowering import Model
from calib8.measure.thresholds import DEAD_THRESHOLD


@dataclass(frozen=True)
class FoldGroup:
    """Values with one threshold.

    Attributes:
        name: the value that the group goes by: the last version of its source's blob, behind all layers in place, which
            is what a user who asks for the blob gets.
        written: the source as its layer writes it.
        rectified: `name`, or what a ReLU with a top of its own makes of it, where nothing else reads it.
        members: all values of the group in the order of their layers, those above among them.
    """

    name: str
    written: str
    rectified: str
    members: tuple[str, ...]

    def measured(self, *, as_written: bool) -> str:
        """Return the value whose distribution gives the threshold: the original's, or what is left to be quantised."""
        return self.written if as_written else self.rectified


def fold_groups(model: Model, enable_concat_quantize: bool = False) -> tuple[FoldGroup, ...]:
    """Put every value of the network into exactly one group, in the order of the groups' first values."""
    groups = _Groups(model)
    groups.follow_scales()
    if not enable_concat_quantize:
        groups.follow_concats()
    return groups.made()


def observed_values(model: Model, enable_concat_quantize: bool = False, *, as_written: bool = False) -> tuple[str, ...]:
    """List the values that need a measured threshold, one for each group, in the order of their layers.

    Args:
        as_written: each as its layer writes it, before a ReLU; else behind it.
    """
    order = {value: index for index, value in enumerate(_values(model))}
    measured = (g.measured(as_written=as_written) for g in fold_groups(model, enable_concat_quantize))
    return tuple(sorted(measured, key=order.__getitem__))


def fold_thresholds(
    model: Model,
    measured: Mapping[str, float],
    enable_concat_quantize: bool = False,
    dead: Collection[str] = (),
) -> dict[str, float]:
    """Give every value a threshold, rounded to float32 as the calibration table holds it.

    Args:
        measured: thresholds in real units by value. Every group needs one, of its name or of a value that it is
            measured on, the first that there is; others are not read.
        dead: values that were 0 in all samples. Whatever their threshold, their codes are 0; they get that of
            the bottom of their layer, so that no ratio of two thresholds gets out of hand.

    Raises:
        TableError: values without a threshold; all of them.
        QuantizationError: thresholds that are not positive finite numbers; all of them.
    """
    groups = fold_groups(model, enable_concat_quantize)
    given = {g.name: _given(g, measured, dead) for g in groups}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise TableError(
            f"{model.net.source}: {len(missing)} blobs have no threshold",
            [f"blob {model.net.blob_of[v]!r} (top of layer {model.net.producer[v].name!r})" for v in missing],
        )
    folded: dict[str, float] = {}
    # In the order of the network, so that the bottoms of a dead group have their thresholds by now.
    for group in groups:
        value = given[group.name]
        threshold = _beside(model, group, folded) if value is None or value in dead else float(measured[value])
        with np.errstate(over="ignore"):
            folded.update(dict.fromkeys(group.members, float(np.float32(threshold))))
    _check(model, folded)
    return folded


def _given(group: FoldGroup, measured: Collection[str], dead: Collection[str]) -> str | None:
    return next((v for v in (group.name, group.rectified, group.written) if v in measured or v in dead), None)


def set_thresholds(
    model: Model,
    thresholds: Mapping[str, float],
    changes: Mapping[str, float],
    enable_concat_quantize: bool = False,
) -> dict[str, float]:
    """Change some of `thresholds`, in a copy; a change reaches all values of its group.

    Args:
        changes: by layer name, meaning the layer's first top, or by blob name or value.

    Raises:
        OptionError: names that the network does not have, and two different thresholds for one group; all of them.
    """
    groups = {v: g for g in fold_groups(model, enable_concat_quantize) for v in g.members}
    problems: list[str] = []
    changed: dict[str, tuple[str, float]] = {}
    for name, threshold in changes.items():
        layer = model.net.layer_by_name.get(name)
        value = layer.tops[0] if layer is not None and layer.tops else name
        if value not in groups:
            problems.append(f"no layer and no blob is named {name!r}")
            continue
        group = groups[value]
        first, before = changed.setdefault(group.name, (name, float(threshold)))
        if before != float(threshold):
            problems.append(f"{first!r} and {name!r} share one threshold and are given {before:g} and {threshold:g}")
    if problems:
        raise OptionError(f"{model.net.source}: thresholds that cannot be set", problems)
    by_member = {v: changed[g.name][1] for v, g in groups.items() if g.name in changed}
    return {**thresholds, **by_member}


class _Groups:
    """Groups while they are made. A group is named by its first value."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._layers = model.pairs
        self._group_of: dict[str, str] = {}
        self._leader_of: dict[str, str] = {}
        for layer, op in self._layers:
            source = self._group_of[layer.bottoms[0]] if op.passive else None
            self._group_of.update((top, source or top) for top in layer.tops)

    def follow_scales(self) -> None:
        """Do step 2."""
        for name, scale in self._model.batch_norm_pairs.items():
            top = self._model.net.layer_by_name[name].tops[0]
            self._leader_of[self._group_of[top]] = self._group_of[scale.tops[0]]

    def follow_concats(self) -> None:
        """Do step 3. The order does not matter here: leaders are resolved at the end."""
        outside = self._outside_readers()
        for layer, op in self._layers:
            if isinstance(op, Concat):
                for group in dict.fromkeys(self._group_of[b] for b in layer.bottoms):
                    if outside[group] == {layer.name}:
                        self._leader_of[group] = self._group_of[layer.tops[0]]

    def _outside_readers(self) -> dict[str, set[str]]:
        """For every group the layers that read one of its values and do not carry the group on."""
        readers: dict[str, set[str]] = {group: set() for group in self._group_of.values()}
        for layer, op in self._layers:
            for bottom in layer.bottoms[1 if op.passive else 0 :]:
                readers[self._group_of[bottom]].add(layer.name)
        return readers

    def made(self) -> tuple[FoldGroup, ...]:
        """Return all groups, those that follow another one merged into it."""
        members: dict[str, list[str]] = {}
        for value, group in self._group_of.items():
            # Who is followed may follow another one in turn: a Concat into a Concat, a Scale into one.
            root = group
            while root in self._leader_of:
                root = self._leader_of[root]
            members.setdefault(root, []).append(value)
        return tuple(self._group(root, tuple(values)) for root, values in members.items())

    def _group(self, source: str, members: tuple[str, ...]) -> FoldGroup:
        net = self._model.net
        # The last version of the source's blob, behind all layers in place.
        name = [v for v, g in self._group_of.items() if g == source and net.blob_of[v] == net.blob_of[source]][-1]
        readers = net.consumers[name]
        alone = len(readers) == 1 and isinstance(self._model.op_of[readers[0].name], ReLU)
        # A leaky ReLU computes: its top is in a group of its own.
        rectified = readers[0].tops[0] if alone and self._group_of[readers[0].tops[0]] == source else name
        return FoldGroup(name, source, rectified, members)


def _values(model: Model) -> Iterator[str]:
    for layer in model.net.layers:
        yield from layer.tops


def _beside(model: Model, group: FoldGroup, folded: Mapping[str, float]) -> float:
    """The threshold of the bottoms of the layer that writes the group's first value; they come before it."""
    bottoms = model.net.producer[group.members[0]].bottoms
    return max((folded[b] for b in bottoms if b in folded), default=DEAD_THRESHOLD)


def _check(model: Model, thresholds: Mapping[str, float]) -> None:
    problems = []
    for value, threshold in thresholds.items():
        try:
            check_thresholds(threshold)
        except QuantizationError as why:
            problems.append(f"layer {model.net.producer[value].name!r}, blob {model.net.blob_of[value]!r}: {why}")
    if problems:
        raise QuantizationError(f"{model.net.source}: thresholds that cannot be used", problems)
