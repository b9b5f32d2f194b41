"""From the parsed prototxt to a Net: phases, in-place blobs renamed, losses left out, weights bound by layer name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from calib8.errors import PrototxtError
from calib8.graph.net import Layer, Net
from calib8.graph.phase import layer_takes_part
from calib8.proto.text import Prototxt

TRAIN, TEST = 0, 1
_PHASE_NAMES = {TRAIN: "TRAIN", TEST: "TEST"}


def build_net(
    prototxt: Prototxt,
    *,
    phase: int = TEST,
    level: int = 0,
    stages: Collection[str] = (),
) -> Net:
    """The network that Caffe would build in this state, without weights.

    Raises:
        PrototxtError: with all structural problems: duplicate names, bottoms that nothing produces, tops produced
            twice, cycles, no layers left.
    """
    params = [p for p in prototxt.net.layer if layer_takes_part(p, phase, level, stages)]
    kept, notes = _without_losses(params)
    problems = _name_problems(kept) + _rule_problems(prototxt.net.layer) + _order_problems(kept)
    if not kept:
        problems.append(
            f"no layer takes part in phase {_PHASE_NAMES[phase]} ({len(prototxt.net.layer)} layers in the file)"
        )
    if problems:
        raise PrototxtError(f"{prototxt.source}: the network cannot be built", problems)
    layers, values = _rename_in_place(kept)
    names = {layer.name for layer in layers}
    unknown = tuple(f"{x}: unknown field, ignored" for x in prototxt.unknown_fields)
    return Net(
        name=prototxt.net.name,
        source=prototxt.source,
        layers=layers,
        notes=(*prototxt.notes, *unknown, *notes),
        values_of_blob=values,
        left_out=tuple(p.name for p in params if p.name not in names),
    )


def is_training_only(layer_type: str) -> bool:
    """Whether layers of this type only measure: losses, accuracies and evaluations have no part in inference."""
    return layer_type.endswith(("Loss", "LossLayer", "Accuracy", "Evaluate")) or layer_type in {
        "Accuracy",
        "SoftmaxWithLoss",
        "SoftmaxWithFocalLoss",
        "LossSoftmax",
        "HDF5Output",
        "EvalDetection",
        "Yolov3",
        "YoloSeg",
    }


def _is_python_loss(param: Any) -> bool:
    return param.type == "Python" and any(param.loss_weight)


def _without_losses(params: Iterable[Any]) -> tuple[list[Any], list[str]]:
    """Leave out measuring layers, and then what only they read as a label is harmless: it stays a data top."""
    kept: list[Any] = []
    notes: list[str] = []
    dropped: set[str] = set()
    for p in params:
        reads_dropped = [b for b in p.bottom if b in dropped]
        if is_training_only(p.type) or _is_python_loss(p) or reads_dropped:
            why = f"reads {reads_dropped[0]!r}, which was left out" if reads_dropped else "only measures"
            notes.append(f"layer {p.name!r} ({p.type}) is left out: it {why}")
            dropped.update(t for t in p.top if t not in p.bottom)
        else:
            kept.append(p)
    return kept, notes


def _name_problems(params: Iterable[Any]) -> list[str]:
    params = list(params)
    problems = [f"a layer of type {p.type!r} has no name" for p in params if not p.name]
    problems += [f"layer {p.name!r} has no type" for p in params if not p.type]
    names = Counter(p.name for p in params if p.name)
    problems += [f"{n} layers are named {name!r}; give each its own name" for name, n in names.items() if n > 1]
    return problems


def _rule_problems(params: Iterable[Any]) -> list[str]:
    return [
        f"layer {p.name!r} has both include and exclude rules; Caffe allows one kind"
        for p in params
        if p.include and p.exclude
    ]


def _order_problems(params: Iterable[Any]) -> list[str]:
    """Bottoms must be written by an earlier layer; a blob may be written again only in place."""
    params = list(params)
    problems: list[str] = []
    written: dict[str, str] = {}
    later = {t: p.name for p in params for t in p.top}
    for p in params:
        for b in p.bottom:
            if b not in written:
                hint = f"; layer {later[b]!r} writes it, but later" if b in later else "; no layer writes it"
                problems.append(f"layer {p.name!r} ({p.type}) reads bottom {b!r}, which is unknown there{hint}")
        problems += [f"layer {p.name!r} has top {t!r} twice" for t, n in Counter(p.top).items() if n > 1]
        for t in p.top:
            if t in written and t not in p.bottom:
                problems.append(f"top {t!r} is written by layer {written[t]!r} and again by {p.name!r}, not in place")
            written[t] = p.name
    return problems


def _rename_in_place(params: list[Any]) -> tuple[tuple[Layer, ...], dict[str, tuple[str, ...]]]:
    last_writer = {t: i for i, p in enumerate(params) for t in p.top}
    taken = set(last_writer)
    current: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    layers: list[Layer] = []
    for i, p in enumerate(params):
        bottoms = tuple(current[b] for b in p.bottom)
        for t in p.top:
            value = t if last_writer[t] == i else _fresh(f"{t}@{p.name}", taken)
            current[t] = value
            values.setdefault(t, []).append(value)
        tops = tuple(current[t] for t in p.top)
        layers.append(Layer(p.name, p.type, bottoms, tops, tuple(p.bottom), tuple(p.top), p))
    return tuple(layers), {blob: tuple(v) for blob, v in values.items()}


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    taken.add(name)
    return name
