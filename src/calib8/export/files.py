"""All files of a calibration under the guide's names, and back into a `QuantPlan`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib8.atomic import write_atomically, write_together
from calib8.errors import TableError
from calib8.export.calibration_table import Message, table_bytes, table_message, table_text
from calib8.export.int8_caffemodel import read_int8_model, write_int8_model
from calib8.export.plain_table import plain_table, read_plain_table
from calib8.export.table_reader import (
    parse_binary_table,
    parse_text_table,
    row_thresholds,
    unequal,
    unread,
    with_row_integers,
)
from calib8.graph import Layer
from calib8.layers import Op
from calib8.lowering import Model
from calib8.quantize import QuantPlan, fold_thresholds, make_plan

MAX_TABLE_BYTES = 64 * 2**20
"""Largest calibration table that is read: a network with 100,000 layers has less."""

_PLAIN_LINE = re.compile(r"\s*\S.* [-+.0-9a-zA-Z]+ -?\d+\s*$", re.MULTILINE)


def write_files(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write files of these names with these bytes: all of them or none; returns their paths.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    paths = tuple(Path(folder) / name for name in contents)
    with write_together():
        for path, data in zip(paths, contents.values(), strict=True):
            with write_atomically(path) as file:
                file.write(data)
    return paths


def write_calibration_table(path: str | os.PathLike[str], name: str, model: Model, plan: QuantPlan) -> None:
    """Write `path` (plain), `path`.pb2 and `path`.prototxt: all of them or none.

    Args:
        name: the model's name, which stands in the table.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    message = table_message(name, model, plan)
    contents = {"": plain_table(model, plan), ".pb2": table_bytes(message), ".prototxt": table_text(message)}
    with write_together():
        for suffix, data in contents.items():
            with write_atomically(f"{os.fspath(path)}{suffix}") as file:
                file.write(data)


def write_calibration_files(
    folder: str | os.PathLike[str], name: str, model: Model, plan: QuantPlan
) -> tuple[Path, ...]:
    """Write `bmnet_NAME_int8.caffemodel` and the three `bmnet_NAME_calibration_table` files: all of them or none.

    Raises:
        OptionError: the folder does not exist or cannot be written.
    """
    table = Path(folder) / f"bmnet_{name}_calibration_table"
    weights = Path(folder) / f"bmnet_{name}_int8.caffemodel"
    with write_together():
        write_int8_model(weights, model, plan)
        write_calibration_table(table, name, model, plan)
    return weights, table, Path(f"{table}.pb2"), Path(f"{table}.prototxt")


def read_plan(
    model: Model, table: str | os.PathLike[str], int8_model: str | os.PathLike[str] | None = None
) -> QuantPlan:
    """The plan that files of a calibration hold, ours or the original's.

    Args:
        model: the FP32 network.
        table: a calibration table in any of its three forms. The plain one has no multipliers; they are computed.
        int8_model: the integer weights; None computes them from the table's thresholds.

    Raises:
        TableError: a file cannot be read, or belongs to another network; all names that do not fit.
        CaffemodelError: the int8 model cannot be read.
        QuantizationError: thresholds that the integer contract cannot express.
    """
    source = str(table)
    found = _parse(_read(table), source)
    if isinstance(found, str):
        thresholds: Mapping[str, float] = read_plain_table(found, model, source)
    else:
        thresholds = row_thresholds(found, model, source)
    if int8_model is not None and not isinstance(found, str):
        model = _with_neutral_weights(model)  # all integers come from the files
    # The table's thresholds are folded already; those of a Concat's bottoms are to stay as they are.
    plan = make_plan(model, thresholds, enable_concat_quantize=True)
    plan = replace(
        plan,
        warnings=plan.warnings + unequal(thresholds, plan, model),
        enable_concat_quantize=fold_thresholds(model, plan.thresholds) != plan.thresholds,
    )
    if not isinstance(found, str):
        plan = with_row_integers(plan, found, model, source)
        plan = replace(plan, warnings=plan.warnings + unread(found))
    return plan if int8_model is None else read_int8_model(int8_model, model, plan)


def _with_neutral_weights(model: Model) -> Model:
    """The network with weights that fit any thresholds, whatever its own are."""
    layers = tuple(
        replace(layer, blobs=tuple(np.full(b.shape, neutral, np.float32) for b, neutral in _neutral(layer, op)))
        for layer, op in zip(model.net.layers, model.ops, strict=True)
    )
    return replace(model, net=replace(model.net, layers=layers))


def _neutral(layer: Layer, op: Op) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Every blob of a layer with a value for all its numbers."""
    for index, blob in enumerate(layer.blobs):
        yield blob, op.neutral_blobs[index] if index < len(op.neutral_blobs) else 0.0


def table_name(table: str | os.PathLike[str]) -> str:
    """The network's name in a calibration table, binary or text.

    Raises:
        TableError: the file cannot be read, is none, or is a plain one, which has no name.
    """
    found = _parse(_read(table), str(table))
    if isinstance(found, str) or not found.name:
        raise TableError(f"{table}: no network's name in it; give the .pb2 or the .prototxt file")
    return str(found.name)


def _parse(data: bytes, source: str) -> Message | str:
    """A table's message, or the text of a plain table."""
    if any(byte < 0x20 and byte not in b"\t\r\n" for byte in data[:4096]):
        return parse_binary_table(data, source)
    text = data.decode("utf-8", "replace")
    return text if _PLAIN_LINE.match(text) else parse_text_table(text, source)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        # A pipe or a device would block, or never end.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise TableError(f"{path}: not a regular file")
        with Path(path).open("rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
    except (OSError, ValueError) as why:
        raise TableError(f"{path}: cannot be read: {getattr(why, 'strerror', None) or why}") from None
    if len(data) > MAX_TABLE_BYTES:
        raise TableError(f"{path}: more than {MAX_TABLE_BYTES} bytes, the most that is read of a calibration table")
    return data
