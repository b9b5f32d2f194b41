"""`check`: what is in a network, what would run in INT8, and everything that is wrong with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from calib8.analyze.overview import Overview, overview_of
from calib8.boundary import closed
from calib8.data import look_at, open_source
from calib8.errors import CaffemodelError, Calib8Error, DataError, ModelError, NotRunError, UserLayerError
from calib8.export.record import strangers_in
from calib8.graph import Phase, Shape
from calib8.layers.data import SHAPES_ADVICE
from calib8.lowering.examine import Weights, examine_model
from calib8.lowering.weights import weights_that_are_no_numbers
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import Prototxt, is_onnx, read_prototxt
from calib8.python_layers import without_running
from calib8.workflow.definition import require_no_caffemodel
from calib8.workflow.network import data_layer

_LOOKED_AT = 1000
"""Samples whose heads are looked at."""


@closed
def check(
    prototxt: str | os.PathLike[str],
    caffemodel: str | os.PathLike[str] | None = None,
    shapes: Mapping[str, Shape] | None = None,
    phase: Phase = Phase.TEST,
    *,
    run_python: bool = False,
) -> Overview:
    """Look at a network without running it. What is wrong, unreadable files included, is a problem, not an error.

    Nothing of the model's folder is executed, so nothing is known of layers in Python and of what is behind them.

    Args:
        prototxt: its definition, or an ONNX model (`.onnx`).
        caffemodel: its weights; None to check the structure alone, and for an ONNX model, which holds them.
        shapes: of inputs, by blob, in the place of those in the prototxt or in the data.
        phase: which layers take part.
        run_python: execute the modules that the prototxt names, to learn the shapes that their layers give.
    """
    if is_onnx(prototxt):
        require_no_caffemodel(prototxt, caffemodel)
        return _check_onnx(prototxt, dict(shapes or {}), phase)
    problems: list[str] = []
    network, weights = None, None
    try:
        network = read_prototxt(prototxt)
    except Calib8Error as why:
        problems += why.problems
    try:
        weights = None if caffemodel is None else read_caffemodel(caffemodel)
    except CaffemodelError as why:
        problems += why.problems
    if network is None:
        return Overview("", {}, {}, (), tuple(problems), ())
    with contextlib.nullcontext() if run_python else without_running():
        overview = _examined(network, weights, dict(shapes or {}), phase)
    notes = (*overview.notes, *strangers_in(Path(prototxt).parent))
    return replace(overview, problems=(*problems, *overview.problems), notes=notes)


def _check_onnx(path: str | os.PathLike[str], shapes: dict[str, Shape], phase: Phase) -> Overview:
    """The overview of an ONNX model; what no layer computes is a problem, too."""
    from calib8.onnx_in import read_onnx  # noqa: PLC0415 - with the whole of onnx, which Caffe's networks do not need

    try:
        found = read_onnx(path, shapes)
    except ModelError as why:
        return Overview("", {}, {}, (), why.problems, ())
    overview = _examined(found.prototxt, found.weights, {}, phase)
    return replace(overview, notes=(*overview.notes, *strangers_in(Path(path).parent)))


def _examined(prototxt: Prototxt, weights: Weights | None, shapes: dict[str, Shape], phase: Phase) -> Overview:
    """The overview, with the shapes that the network's own data give."""
    notes: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()
    bad: list[str] = []
    layer = data_layer(prototxt)
    if phase != Phase.TRAIN and layer is not None and not any(top in shapes for top in layer.top):
        try:
            source = open_source(layer, Path(prototxt.source).parent, phase)
            shapes.update(source.shapes)
            notes = tuple(source.notes)
            bad = look_at(source, _LOOKED_AT).lines
        except NotRunError as why:
            not_run = why.problems
        except (DataError, UserLayerError) as why:
            causes = why.problems
    examination = examine_model(prototxt, weights, shapes, phase=phase)
    overview = overview_of(examination)
    hidden = [p.kind is NotRunError or (bool(not_run) and SHAPES_ADVICE in p.text) for p in examination.problems]
    problems = [
        _with_cause(p.text, causes) for p, is_hidden in zip(examination.problems, hidden, strict=True) if not is_hidden
    ]
    problems += bad
    problems += weights_that_are_no_numbers(prototxt.source, examination.net.layers)
    not_run += tuple(p.text for p in examination.problems if p.kind is NotRunError)
    return replace(overview, problems=tuple(problems), notes=(*overview.notes, *notes), not_run=not_run)


def _with_cause(problem: str, causes: tuple[str, ...]) -> str:
    """That a data layer has no shapes, and why its data could not be read."""
    return f"{problem}; {'; '.join(causes)}" if causes and SHAPES_ADVICE in problem else problem
