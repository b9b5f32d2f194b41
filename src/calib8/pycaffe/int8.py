"""`net.int8_init`: a net whose layers run in the chip's integers, from the files of a calibration."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.errors import TableError
from calib8.export import read_plan
from calib8.export.files import without_record
from calib8.graph import Layer, Net
from calib8.layer_kit.measuring import only_measures
from calib8.layers import Op
from calib8.lowering import Model
from calib8.lowering.integer import IntegerSetup
from calib8.proto.text import read_prototxt
from calib8.quantize import QuantPlan, fp32_layers, integer_setup

_log = logging.getLogger(__name__)
_FAR = 2 * 128.0
_SMALL = 4.0  # images in units of their standard deviation
_FEW = 0.05
_MOSTLY = 0.9


@dataclass(frozen=True, eq=False)
class Int8Mode:
    """How a net runs after `int8_init`.

    Attributes:
        setup: which layers run in integers, and their integers.
        thresholds: by blob name, of the value that the blob shows. What layers that only measure give has none.
        units: of blobs whose channels count in units of their own, (C), by name.
    """

    setup: IntegerSetup
    thresholds: Mapping[str, float]
    units: Mapping[str, NDArray[np.float64]]


def read_int8_mode(
    model: Model,
    weights: Mapping[str, tuple[NDArray[np.float32], ...]],
    proto_path: str | os.PathLike[str],
    int8_model: str | os.PathLike[str],
    table: str | os.PathLike[str],
    int8_layer: str,
    *,
    accumulator_bits: int,
) -> Int8Mode:
    """Read the files of a calibration for a net.

    Args:
        model: the net, without weights.
        weights: its FP32 weights by layer name.

    Raises:
        PrototxtError: the prototxt cannot be read.
        TableError: files of another network; all that does not fit.
        CaffemodelError: the int8 model cannot be read.
        OptionError: names in `int8_layer` that cannot be; all of them.
    """
    _check_same_network(model, proto_path)
    layers = tuple(replace(layer, blobs=tuple(weights.get(layer.name, ()))) for layer in model.net.layers)
    bound = replace(model, net=replace(model.net, layers=layers, has_weights=True))
    plan = read_plan(_without_measures(bound), table, int8_model)
    for warning in plan.warnings:
        _log.warning("%s: %s", table, warning)
    setup = integer_setup(bound, plan, int8_layer, accumulator_bits=accumulator_bits)
    if plan.unexplained:
        _refuse_a_mix(plan, setup, int8_model)
    _log.info("%s: layers in FP32: %s", proto_path, ", ".join(fp32_layers(bound, setup)) or "none")
    shown = {blob: values[-1] for blob, values in model.net.values_of_blob.items()}
    thresholds = {blob: plan.thresholds[value] for blob, value in shown.items() if value in plan.thresholds}
    units = {blob: plan.channel_units[value] for blob, value in shown.items() if value in plan.channel_units}
    return Int8Mode(setup, thresholds, units)


def _refuse_a_mix(plan: QuantPlan, setup: IntegerSetup, int8_model: str | os.PathLike[str]) -> None:
    """Refuse INT8 beside FP32 where units of channels are not known; all in INT8 computes the right thing without."""
    if any(form is not None and name not in setup.int8_layers for name, form in plan.forms.items()):
        raise TableError(without_record(plan, int8_model))
    said = without_record(plan, int8_model)
    _log.warning("%s; the outputs are right, but blobs in between are not in real units", said)


def _without_measures(model: Model) -> Model:
    """Leave out layers that only measure, and what reads their tops: the model as it is calibrated."""
    gone: set[str] = set()
    kept: list[tuple[Layer, Op]] = []
    for layer, op in model.pairs:
        if only_measures(layer.type) or not gone.isdisjoint(layer.bottoms):
            gone.update(layer.tops)
        else:
            kept.append((layer, op))
    names = {layer.name for layer, _ in kept}
    left_out = tuple(layer.name for layer in model.net.layers if layer.name not in names)
    net = replace(model.net, layers=tuple(layer for layer, _ in kept), left_out=(*model.net.left_out, *left_out))
    return replace(model, net=net, ops=tuple(op for _, op in kept))


def _check_same_network(model: Model, proto_path: str | os.PathLike[str]) -> None:
    """Check that the prototxt that is named has the layers of the net, in whatever state, with whatever data layers."""
    theirs: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for p in read_prototxt(proto_path).net.layer:
        theirs.setdefault(p.name, []).append((p.type, tuple(p.bottom)))
    problems = []
    for layer, op in model.pairs:
        if op.kind == "source":
            continue
        if layer.name not in theirs:
            problems.append(f"layer {layer.name!r} ({layer.type}) is not in it")
        elif (layer.type, layer.bottom_blobs) not in theirs[layer.name]:
            kind, bottoms = theirs[layer.name][0]
            problems.append(
                f"layer {layer.name!r} is {kind} over {', '.join(bottoms) or 'nothing'}; in the net it is "
                f"{layer.type} over {', '.join(layer.bottom_blobs)}"
            )
    if problems:
        raise TableError(f"{proto_path} is not the network of {model.net.source}", problems)


def looks_real(values: NDArray[np.float32]) -> str:
    """Say why values of an input that should come quantised (x * 128 / threshold) seem to be real ones; "" if not.

    Codes are whole numbers within [-128, 127], or near them when the user did not round. Where he did not clip, a few
    lie beyond: those that the threshold clips. Zeros alone say nothing.
    """
    if not values.any():
        return ""
    largest = float(np.abs(values).max())
    if largest > _FAR:
        return f"values up to {largest:.6g} are far outside [-128, 127]"
    outside = float(np.mean((values < -INT8_LEVELS) | (values > INT8_LEVELS)))
    if outside > _FEW:
        return f"{outside:.0%} of the values are outside [-128, 127]"
    if largest <= 1 or (largest <= _SMALL and not _are_whole(values)):
        return f"no value is larger than {largest:.6g}"
    inside = float(np.mean((values >= 0) & (values < 1)))
    return f"{inside:.0%} of the values are in [0, 1)" if inside >= _MOSTLY and not _are_whole(values) else ""


def _are_whole(values: NDArray[np.float32]) -> bool:
    return bool((values == np.floor(values)).all())


def how_to_quantize(net: Net, name: str, threshold: float) -> str:
    """Say in a sentence what makes codes of the real values of an input."""
    layer = net.producer[net.values_of_blob[name][0]]
    if layer.type == "Input":
        return "Set enable_quantize: 1 in its Input layer, or quantise it"
    return (
        f"Multiply what layer {layer.name!r} ({layer.type}) gives by {INT8_LEVELS / threshold:.6g}, for instance in "
        "its transform_param.scale, or use an Input layer with enable_quantize: 1"
    )
