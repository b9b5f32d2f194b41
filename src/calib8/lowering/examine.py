"""From a prototxt and a caffemodel to a Model, or to everything that is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calib8.errors import PrototxtError, UserLayerError
from calib8.graph import Array, Layer, Net, Phase, Shape
from calib8.graph.build import draft_net
from calib8.layer_kit.measuring import only_measures
from calib8.layers import Op, RefusedError, make_op
from calib8.lowering.aliases import reads_of_overwritten
from calib8.lowering.model import Model
from calib8.lowering.problems import Failure, Problem, problem_of, raise_problems, some, titled
from calib8.lowering.shapes import InputShapes, unknown_inputs, values_that_are_read
from calib8.lowering.weights import fit_layers, with_shared_blobs
from calib8.proto.caffemodel import Caffemodel
from calib8.proto.text import Prototxt

_UNKNOWN = re.compile(r"([\w.]+) \(unknown\)")
Weights = Caffemodel | Mapping[str, Sequence[Array]]


@dataclass(frozen=True, eq=False)
class Examination:
    """All that can be said of a network, whether it can be used or not.

    Attributes:
        net: with problems only good to look at: bottoms may be missing, names may be there twice.
        ops: what each of net.layers computes; None for a layer that was refused.
        shapes: of every value, as far as they are known.
        problems: everything that is wrong, in the order of the layers; empty for a network that can be used.
    """

    net: Net
    ops: tuple[Op | None, ...]
    shapes: Mapping[str, Shape]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def model(self) -> Model:
        """Return the network, if nothing is wrong with it; else raise all problems as one error."""
        raise_problems(self.net.source, self.problems)
        return Model(self.net, tuple(op for op in self.ops if op is not None), self.shapes, self.notes)


def build_model(
    prototxt: Prototxt,
    weights: Weights | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    phase: Phase = Phase.TEST,
    level: int = 0,
    stages: Collection[str] = (),
    measures: Collection[str] = (),
) -> Model:
    """Read every layer, infer every shape and bind the weights.

    Args:
        weights: a caffemodel, or blobs by layer name; None builds the structure alone.
        input_shapes: shapes of tops of Input and data layers, instead of those in the prototxt.
        phase, level, stages: Caffe's NetState.
        measures: types of layers that only measure, and stay in nevertheless.

    Raises:
        PrototxtError: the layers do not make a network, or `input_shapes` names no input.
        UnsupportedError: layers that calib8 does not compute, or that do not fit together.
        UserLayerError: Python layers that cannot be found, or that failed.
        CaffemodelError: layers without weights, or with others than their parameters ask for.
        Whatever the class: all problems, of all these kinds.
    """
    return examine_model(
        prototxt, weights, input_shapes, phase=phase, level=level, stages=stages, measures=measures
    ).model()


def examine_model(
    prototxt: Prototxt,
    weights: Weights | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    *,
    phase: Phase = Phase.TEST,
    level: int = 0,
    stages: Collection[str] = (),
    measures: Collection[str] = (),
) -> Examination:
    """Do what `build_model` does, and return everything that is wrong instead of raising it."""

    def left_out(kind: str) -> bool:
        return only_measures(kind) and kind not in measures

    net, wrong = draft_net(prototxt, phase=phase, level=level, stages=stages, only_measures=left_out)
    ops, refused, notes = _read_layers(net, phase)
    pairs = list(zip(net.layers, ops, strict=True))
    given = InputShapes(input_shapes or {}, values_that_are_read(net.layers))
    stored = with_shared_blobs(net.layers, _blobs_by_layer(weights))
    fitted = fit_layers(pairs, given, stored if weights is not None else None)
    failures = {**fitted.failures, **refused}
    problems = [Problem(PrototxtError, text) for text in wrong]
    problems += [problem_of(net.source, net.layers[index], failures[index]) for index in sorted(failures)]
    problems += unknown_inputs(net.source, pairs, given.given)
    problems += [problem_of(net.source, x, RefusedError(text)) for x, text in reads_of_overwritten(net.layers, ops)]
    bound = replace(net, layers=fitted.layers, has_weights=weights is not None)
    from_files = (*_told_once(net.notes, problems), *notes)
    from_weights = (*_odd_weights(fitted.layers, ops), *_unused_weights(net, stored))
    return Examination(bound, ops, fitted.shapes, tuple(problems), from_files + from_weights)


def _read_layers(net: Net, phase: Phase) -> tuple[tuple[Op | None, ...], dict[int, Failure], list[str]]:
    """The Op of every layer, why some have none, and notes on fields that do not count."""
    ops: list[Op | None] = []
    refused: dict[int, Failure] = {}
    notes: list[str] = []
    for index, layer in enumerate(net.layers):
        ops.append(None)
        if not layer.type:
            continue  # reported with the structure of the network
        try:
            op = ops[-1] = make_op(layer, Path(net.source).parent, phase)
            notes += [f"{titled(layer)}: {x}" for x in op.notes]
        except (RefusedError, UserLayerError) as why:
            refused[index] = why
    return tuple(ops), refused, notes


def _told_once(notes: Sequence[str], problems: Sequence[Problem]) -> list[str]:
    """Leave out the notes on unknown fields for which a layer is refused."""
    refused = {field for problem in problems for field in _UNKNOWN.findall(problem.text)}
    ends = tuple(f": {field}: unknown field, not read" for field in refused)
    return [note for note in notes if not note.endswith(ends)]


def _odd_weights(layers: Sequence[Layer], ops: Sequence[Op | None]) -> list[str]:
    bound = [(layer, op) for layer, op in zip(layers, ops, strict=True) if op is not None and layer.blobs]
    return [f"{titled(layer)}: {x}" for layer, op in bound for x in op.weight_notes(layer.blobs)]


def _unused_weights(net: Net, stored: Mapping[str, Sequence[Array]]) -> list[str]:
    unused = [name for name in stored if name not in net.layer_by_name and stored[name]]
    if not unused:
        return []
    return [f"weights of layers that the prototxt does not have are ignored: {some(unused)}"]


def _blobs_by_layer(weights: Weights | None) -> dict[str, Sequence[Array]]:
    """Blobs by layer name. Caffe copies layer by layer, so the last of several with one name wins."""
    if weights is None:
        return {}
    if isinstance(weights, Caffemodel):
        return {layer.name: layer.blobs for layer in weights.layers}
    return dict(weights)
