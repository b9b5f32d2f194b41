"""The FP32 walk: a network as ONNX graphs, cut where a layer runs in Python."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from calib8.graph import Layer
from calib8.layers import OnnxBuilder, Op
from calib8.lowering.model import Model
from calib8.lowering.steps import HostStep, OnnxStep, Step

_Pair = tuple[Layer, Op]


def lower_float(model: Model, outputs: Collection[str], *, max_output_bytes: int | None = None) -> tuple[Step, ...]:
    """The steps that compute `outputs` (values) and nothing that they do not need.

    Args:
        max_output_bytes: cut the graphs so that the wanted outputs of one of them take no more than this, where
            layers allow it. Cuts lie behind a wanted output only, so that the arithmetic stays the same.
    """
    pairs = _needed(model, outputs)
    stretches = list(_stretches(model, pairs, set(outputs), max_output_bytes))
    read_later = _read_later(stretches)
    steps: list[Step] = []
    for stretch, later in zip(stretches, read_later, strict=True):
        layer, op = stretch[0]
        if op.kind == "host":
            steps.append(HostStep(layer, op, model.call(layer)))
        else:
            steps.append(_graph(model, stretch, later | set(outputs)))
    return tuple(steps)


def _needed(model: Model, outputs: Collection[str]) -> list[_Pair]:
    """The layers that the outputs depend on, in order."""
    wanted = set(outputs)
    needed: list[_Pair] = []
    for layer, op in reversed(list(zip(model.net.layers, model.ops, strict=True))):
        if wanted.intersection(layer.tops) and op.kind != "source":
            needed.append((layer, op))
            wanted.update(layer.bottoms)
    return needed[::-1]


def _stretches(
    model: Model, pairs: Sequence[_Pair], outputs: Collection[str], max_output_bytes: int | None
) -> Iterator[list[_Pair]]:
    """Cut the layers: around each that runs in Python, and where the wanted outputs grow too large."""
    stretch: list[_Pair] = []
    size = 0
    for layer, op in pairs:
        if op.kind == "host":
            if stretch:
                yield stretch
            yield [(layer, op)]
            stretch, size = [], 0
            continue
        stretch.append((layer, op))
        wanted = [t for t in layer.tops if t in outputs]
        size += sum(4 * math.prod(model.shapes[t]) for t in wanted)
        if wanted and max_output_bytes is not None and size >= max_output_bytes:
            yield stretch
            stretch, size = [], 0
    if stretch:
        yield stretch


def _read_later(stretches: Sequence[Sequence[_Pair]]) -> list[set[str]]:
    """For every stretch the values that later ones read."""
    found: list[set[str]] = []
    read: set[str] = set()
    for stretch in reversed(stretches):
        found.append(set(read))
        read |= {b for layer, _ in stretch for b in layer.bottoms}
    return found[::-1]


def _graph(model: Model, stretch: Sequence[_Pair], wanted: Collection[str]) -> OnnxStep:
    g = OnnxBuilder()
    names: dict[str, str] = {}
    inputs: list[str] = []
    for layer, op in stretch:
        for bottom in layer.bottoms:
            if bottom not in names:
                names[bottom] = g.input(model.shapes[bottom])
                inputs.append(bottom)
        tops = op.lower(g, model.call(layer, [names[b] for b in layer.bottoms]))
        names.update(zip(layer.tops, tops, strict=True))
    outputs = [t for layer, _ in stretch for t in layer.tops if t in wanted]
    return finish_graph(model, g, names, inputs, outputs, {}, tuple(layer.name for layer, _ in stretch))


def finish_graph(
    model: Model,
    g: OnnxBuilder,
    names: dict[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dtypes: dict[str, Any],
    layers: tuple[str, ...],
) -> OnnxStep:
    """Close a graph: every output gets a name of its own, which is no input's and no other output's."""
    output_names: list[str] = []
    taken = {names[value] for value in inputs}
    for value in outputs:
        name = names[value] if names[value] not in taken else g.node("Identity", names[value])
        taken.add(name)
        output_names.append(name)
    dtypes = {value: dtypes.get(value, np.float32) for value in (*inputs, *outputs)}
    onnx, weights = g.model([(n, dtypes[v]) for n, v in zip(output_names, outputs, strict=True)])
    return OnnxStep(
        onnx=onnx,
        weights=weights,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        input_names=tuple(names[value] for value in inputs),
        output_names=tuple(output_names),
        shapes={value: model.shapes[value] for value in (*inputs, *outputs)},
        dtypes=dtypes,
        layers=layers,
    )
