"""All files of a calibration under the guide's names, and back into a `QuantPlan`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.atomic import write_atomically, write_together
from calib8.boundary import closed
from calib8.errors import TableError
from calib8.export.calibration_table import Message, table_bytes, table_message, table_text
from calib8.export.int8_caffemodel import read_int8_model, write_int8_model
from calib8.export.plain_table import plain_shifts, plain_table, read_plain_table
from calib8.export.record import ENDING, check_same_run, record_path, run_of, told_of_run, write_record
from calib8.export.table_reader import (
    parse_binary_table,
    parse_text_table,
    row_thresholds,
    unequal,
    unread,
    with_row_integers,
)
from calib8.export.unit_records import KEY as UNITS
from calib8.export.unit_records import units_from_json, units_to_json
from calib8.graph import Layer
from calib8.layers import IntegerForm, Op
from calib8.lowering import Model
from calib8.proto import calibration_pb2
from calib8.quantize import QuantPlan, fold_thresholds, make_plan, with_given
from calib8.quantize.channel_units import recovered_units
from calib8.quantize.unexplained import unexplained_layers
from calib8.reading import read_file

MAX_TABLE_BYTES = 64 * 2**20
"""Largest calibration table that is read: a network with 100,000 layers has less."""

_PLAIN_LINE = re.compile(r"\s*\S.* [-+.0-9a-zA-Z]+ -?\d+\s*$", re.MULTILINE)


def write_files(folder: str | os.PathLike[str], files: Iterable[tuple[str, bytes]]) -> tuple[Path, ...]:
    """Write files, names and contents one after another: all of them or none; returns their paths.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    paths = []
    with write_together():
        for name, data in files:
            paths.append(Path(folder) / name)
            with write_atomically(paths[-1]) as file:
                file.write(data)
    return tuple(paths)


def write_set(
    folder: str | os.PathLike[str], base: str, files: Iterable[tuple[str, bytes]], name: str, run: str
) -> tuple[Path, ...]:
    """Write files of one run, and the record `BASE.calib8.json` that says so: all of them or none.

    Args:
        name: the network's.
        run: its identity, see `run_of`.

    Returns:
        The paths of the files.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    with write_together():
        paths = write_files(folder, files)
        write_record(paths, name, run, path=Path(folder) / f"{base}{ENDING}")
    return paths


def write_weights(path: str | os.PathLike[str], name: str, model: Model, plan: QuantPlan) -> None:
    """Write the int8 caffemodel, and the record of its run beside it.

    Args:
        name: the model's name, which stands in the record.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    with write_together():
        write_int8_model(path, model, plan)
        write_record([path], name, run_of(name, model, plan), always=_units(model, plan))


def write_calibration_table(path: str | os.PathLike[str], name: str, model: Model, plan: QuantPlan) -> None:
    """Write `path` (plain), `path`.pb2 and `path`.prototxt, and the record of their run: all of them or none.

    Args:
        name: the model's name, which stands in the table.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    with write_together():
        tables = _write_tables(path, name, model, plan)
        write_record(tables, name, run_of(name, model, plan), always=_units(model, plan))


@closed
def write_calibration_files(
    folder: str | os.PathLike[str],
    name: str,
    model: Model,
    plan: QuantPlan,
    further: Mapping[str, Any] = MappingProxyType({}),
    beside: Iterable[tuple[str, bytes]] = (),
) -> tuple[Path, ...]:
    """Write `bmnet_NAME_int8.caffemodel` and the three `bmnet_NAME_calibration_table` files: all of them or none.

    Beside them goes `bmnet_NAME.calib8.json`, the record of their run.

    Args:
        further: keys of the record.
        beside: further files of the run, names and contents.

    Returns:
        The paths of the four, and of those beside them.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    weights = Path(folder) / f"bmnet_{name}_int8.caffemodel"
    with write_together():
        write_int8_model(weights, model, plan)
        tables = _write_tables(Path(folder) / f"bmnet_{name}_calibration_table", name, model, plan)
        paths = weights, *tables, *write_files(folder, beside)
        write_record(paths, name, run_of(name, model, plan), further, always=_units(model, plan))
    return paths


def _units(model: Model, plan: QuantPlan) -> dict[str, Any]:
    """What a record says of units of channels."""
    return {UNITS: units_to_json(model, plan.channel_units)} if plan.channel_units else {}


def _write_tables(path: str | os.PathLike[str], name: str, model: Model, plan: QuantPlan) -> tuple[Path, ...]:
    message = table_message(name, model, plan)
    path = Path(path)
    contents = {"": plain_table(model, plan), ".pb2": table_bytes(message), ".prototxt": table_text(message)}
    return write_files(path.parent, ((f"{path.name}{suffix}", data) for suffix, data in contents.items()))


def read_plan(
    model: Model, table: str | os.PathLike[str], int8_model: str | os.PathLike[str] | None = None
) -> QuantPlan:
    """Read the plan that files of a calibration hold, ours or the original's.

    Args:
        model: the FP32 network.
        table: a calibration table in any of its three forms. The plain one has no multipliers; they are computed.
        int8_model: the integer weights; None computes them from the table's thresholds.

    Raises:
        TableError: a file cannot be read, or belongs to another network; all names that do not fit. The int8 model is
            of another run than the table.
        CaffemodelError: the int8 model cannot be read.
        QuantizationError: thresholds that the integer contract cannot express.
    """
    source, given = str(table), model
    parsed = _parse(_read(table), source)
    if isinstance(parsed, str):
        thresholds: Mapping[str, float] = read_plain_table(parsed, model, source)
    else:
        thresholds = row_thresholds(parsed, model, source)
    if int8_model is not None and not isinstance(parsed, str):
        model = _with_neutral_weights(model)  # all integers come from the files
    # The table's thresholds are folded already; those of a Concat's bottoms are to stay as they are.
    plan = make_plan(model, thresholds, enable_concat_quantize=True)
    plan = replace(
        plan,
        warnings=plan.warnings + unequal(thresholds, plan, model),
        enable_concat_quantize=fold_thresholds(model, plan.thresholds) != plan.thresholds,
    )
    computed = plan
    if not isinstance(parsed, str):
        plan = with_row_integers(plan, parsed, model, source)
        plan = replace(plan, warnings=plan.warnings + unread(parsed))
    if int8_model is None:
        _check_shifts(computed, plan, source)
        return plan
    check_same_run(table, int8_model)
    plan = read_int8_model(int8_model, model, plan)
    if isinstance(parsed, str):
        plan = _with_plain_shifts(plan, parsed, source)
    told = told_of_run(table, UNITS, unsaid=())
    if told is not None:
        return replace(plan, channel_units=units_from_json(told, given, str(record_path(table))))
    plan = replace(plan, channel_units=recovered_units(given, plan.thresholds, plan.forms))
    return replace(plan, unexplained=unexplained_layers(given, plan))


def without_record(plan: QuantPlan, weights: str | os.PathLike[str]) -> str:
    """Say what is missing where a plan has `unexplained` layers."""
    layers = ", ".join(map(repr, plan.unexplained[:3])) + (", .." if len(plan.unexplained) > 3 else "")
    return (
        f"{os.fspath(weights)}: channels of {layers} count in units of their own, which only the record of the run "
        f"tells; put {record_path(weights).name} of that calibration beside it, or calibrate again, perhaps with "
        "`without=equalised-channels`"
    )


def _check_shifts(computed: QuantPlan, plan: QuantPlan, source: str) -> None:
    """Refuse to compute weights for a table whose shifts are not those that the weights would have."""
    names = [name for name, form in _shifted(plan) if form.accumulator_shift != _shift(computed.forms[name])]
    if names:
        raise TableError(
            f"{source}: the integers of this table do not follow from its thresholds; give the int8 caffemodel of its "
            "run, too",
            [f"layer {name!r} has a right shift of its own" for name in names],
        )


def _shift(form: IntegerForm | None) -> int | None:
    return None if form is None else form.accumulator_shift


def _shifted(plan: QuantPlan) -> Iterator[tuple[str, IntegerForm]]:
    """List the layers with weights and a right shift."""
    return ((n, form) for n, form in plan.forms.items() if form and form.blobs and form.accumulator_shift is not None)


def _with_plain_shifts(plan: QuantPlan, text: str, source: str) -> QuantPlan:
    """Give layers with weights the shifts of a plain table; multipliers, which it has not, stay as computed."""
    shifts = plain_shifts(text)
    forms: dict[str, IntegerForm] = {}
    for name, form in _shifted(plan):
        row = calibration_pb2.LayerCalibrationParameter(name=name, right_shift_width=shifts[name])
        try:
            forms[name] = form.from_row(row, 1)
        except TableError as why:
            raise TableError(f"{source}: layer {name!r} {why}") from None
    return with_given(plan, forms, source)


def _with_neutral_weights(model: Model) -> Model:
    """Give the network weights that fit any thresholds, whatever its own are."""
    layers = tuple(
        replace(layer, blobs=tuple(np.full(b.shape, neutral, np.float32) for b, neutral in _neutral(layer, op)))
        for layer, op in model.pairs
    )
    return replace(model, net=replace(model.net, layers=layers))


def _neutral(layer: Layer, op: Op) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Fill every blob of a layer with one value for all its numbers."""
    for index, blob in enumerate(layer.blobs):
        yield blob, op.neutral_blobs[index] if index < len(op.neutral_blobs) else 0.0


def table_name(table: str | os.PathLike[str]) -> str:
    """Read the network's name in a calibration table, binary or text.

    Raises:
        TableError: the file cannot be read, is none, or is a plain one, which has no name.
    """
    parsed = _parse(_read(table), str(table))
    if isinstance(parsed, str) or not parsed.name:
        raise TableError(f"{table}: no network's name in it; give the .pb2 or the .prototxt file")
    return str(parsed.name)


def _parse(data: bytes, source: str) -> Message | str:
    """Parse a table: its message, or the text of a plain one."""
    if any(byte < 0x20 and byte not in b"\t\r\n" for byte in data[:4096]):
        return parse_binary_table(data, source)
    text = data.decode("utf-8", "replace")
    return text if _PLAIN_LINE.match(text) else parse_text_table(text, source)


def _read(path: str | os.PathLike[str]) -> bytes:
    return read_file(path, MAX_TABLE_BYTES, TableError)
