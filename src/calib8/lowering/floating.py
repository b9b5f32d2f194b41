"""The FP32 walk: a network as ONNX graphs, cut where a layer runs in Python."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from calib8.errors import CaffemodelError
from calib8.graph import Shape
from calib8.layers import OnnxBuilder
from calib8.lowering.cuts import needed_layers, stretches
from calib8.lowering.model import Model
from calib8.lowering.shapes import Pair
from calib8.lowering.steps import HostStep, OnnxStep, Port, Step, close_graph, float_bytes


def lower_float(model: Model, outputs: Collection[str], *, max_output_bytes: int | None = None) -> tuple[Step, ...]:
    """Make the steps that compute `outputs` (values) and nothing that they do not need.

    Args:
        max_output_bytes: cut the graphs where the wanted outputs of one of them take this or more; see `stretches`.
            Cuts lie behind a wanted output only, so that the arithmetic stays the same.

    Raises:
        CaffemodelError: the model was built without weights, and layers need some; all of them.
    """

    def again(shapes: Mapping[str, Shape]) -> tuple[Step, ...]:
        return lower_float(model.with_shapes(shapes), outputs, max_output_bytes=max_output_bytes)

    needed = needed_layers(model, outputs)
    _check_weights(model, needed)
    cut = list(stretches(model, needed, set(outputs), max_output_bytes))
    steps: list[Step] = []
    for stretch, later in zip(cut, _read_later(cut), strict=True):
        layer, op = stretch[0]
        if op.kind == "host":
            steps.append(HostStep(layer, op, model.call(layer), layer.bottoms, again))
        else:
            steps.append(_graph(model, stretch, later | set(outputs)))
    return tuple(steps)


def _check_weights(model: Model, needed: Sequence[Pair]) -> None:
    if model.net.has_weights:
        return
    missing = [
        f"layer {layer.name!r} ({layer.type}) has no weights"
        for layer, op in needed
        if op.blob_shapes([model.shapes[b] for b in layer.bottoms])
    ]
    if missing:
        raise CaffemodelError(f"{model.net.source}: the network cannot run without its caffemodel", missing)


def _read_later(cut: Sequence[Sequence[Pair]]) -> list[set[str]]:
    """For every stretch the values that later ones read."""
    later: list[set[str]] = []
    read: set[str] = set()
    for stretch in reversed(cut):
        later.append(set(read))
        read |= {b for layer, _ in stretch for b in layer.bottoms}
    return later[::-1]


def _graph(model: Model, stretch: Sequence[Pair], wanted: Collection[str]) -> OnnxStep:
    g = OnnxBuilder()
    names: dict[str, str] = {}
    inputs: list[Port] = []
    for layer, op in stretch:
        for bottom in layer.bottoms:
            if bottom not in names:
                names[bottom] = g.input(model.shapes[bottom])
                inputs.append(Port(bottom, names[bottom], model.shapes[bottom]))
        tops = op.lower(g, model.call(layer, [names[b] for b in layer.bottoms]))
        names.update(zip(layer.tops, tops, strict=True))
    outputs = [Port(t, names[t], model.shapes[t]) for layer, _ in stretch for t in layer.tops if t in wanted]
    made = sum(float_bytes(model.shapes[t]) for layer, _ in stretch for t in layer.tops)
    return close_graph(g, inputs, outputs, tuple(layer.name for layer, _ in stretch), made)
