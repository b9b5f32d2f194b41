"""A calibration table read back: thresholds of values, and the integers of its rows in the place of computed ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from google.protobuf.message import DecodeError

from calib8.errors import ModelError, TableError
from calib8.export.calibration_table import Message
from calib8.graph import Layer
from calib8.layer_kit.table_row import TableRow
from calib8.layers import IntegerForm
from calib8.lowering import Model
from calib8.proto import calibration_pb2
from calib8.proto.textformat import read_text
from calib8.quantize import QuantPlan, with_given


def parse_binary_table(data: bytes, source: str) -> Message:
    """Parse a table in its binary form.

    Raises:
        TableError: it is none.
    """
    message = calibration_pb2.NetCalibrationParameter()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise TableError(f"{source}: not a calibration table, or a damaged one") from None
    return _checked(message, source)


def parse_text_table(text: str, source: str) -> Message:
    """Parse a table in its text form.

    Raises:
        TableError: it is none; with line numbers.
    """
    message = calibration_pb2.NetCalibrationParameter()
    try:
        unknown = read_text(text, message, source, ModelError).unknown_fields
    except ModelError as why:
        raise TableError(f"{source}: not a calibration table", why.problems) from None
    if unknown:
        raise TableError(f"{source}: fields that a calibration table does not have", unknown)
    return _checked(message, source)


def _checked(message: Message, source: str) -> Message:
    if not message.layer or not message.IsInitialized():
        raise TableError(f"{source}: not a calibration table: it has no layers, or some that lack a required field")
    twice = [name for name, rows in Counter(row.name for row in message.layer).items() if rows > 1]
    if twice:
        raise TableError(f"{source}: layers with more than one row", [f"layer {name!r}" for name in twice])
    unsigned = [
        f"layer {row.name!r} has {field} true; expected false"
        for row in message.layer
        for field in ("bottom_unsigned", "top_unsigned")
        if any(getattr(row, field))
    ]
    if unsigned:
        raise TableError(f"{source}: unsigned codes, which calib8 does not compute", unsigned)
    return message


def row_thresholds(message: Message, model: Model, source: str) -> dict[str, float]:
    """Read the thresholds of all values of the network.

    A layer's row has its name and gives a threshold for each top, by blob name or else by place. The data layers may
    have been others when the table was made (an LMDB's, where now there are Input layers): what the row of one does
    not name is looked for in the rows of the others, and in rows that fit no layer.

    Raises:
        TableError: layers without a row, rows without a layer, tops without a threshold; all of them.
    """
    rows = {row.name: row for row in message.layer}
    data_layers = {x.name: x for x, op in model.pairs if op.kind == "source"}
    strangers = [n for n in rows if n not in model.net.layer_by_name and n not in model.net.left_out]
    inputs = _blobs_of(rows[n] for n in (*strangers, *data_layers) if n in rows)
    thresholds: dict[str, float] = {}
    problems: list[str] = []
    for layer in model.net.layers:
        elsewhere = inputs if layer.name in data_layers else {}
        row = rows.get(layer.name)
        if row is None and not any(blob in elsewhere for blob in layer.top_blobs):
            problems.append(f"no row for layer {layer.name!r} ({layer.type})")
            continue
        for top, threshold in zip(layer.tops, _top_thresholds(row, layer, elsewhere), strict=True):
            if threshold is None:
                problems.append(f"no threshold for top {model.net.blob_of[top]!r} of layer {layer.name!r}")
            else:
                thresholds[top] = threshold
    tops = {blob for layer in data_layers.values() for blob in layer.top_blobs}
    unread = (name for name in strangers if tops.isdisjoint(_blobs_of([rows[name]])))
    problems += [f"the network has no layer {name!r}" for name in unread]
    if problems:
        raise TableError(f"{source} is not the calibration table of {model.net.source}", problems)
    return thresholds


def _blobs_of(rows: Iterable[TableRow]) -> dict[str, float]:
    """List thresholds by the names of the rows' blobs."""
    return {blob.name: float(blob.threshold_y) for row in rows for blob in row.blob_param}


def _top_thresholds(row: TableRow | None, layer: Layer, elsewhere: Mapping[str, float]) -> list[float | None]:
    named = {**elsewhere, **(_blobs_of([row]) if row is not None else {})}
    placed = [float(t) for t in row.threshold_y] if row is not None else []
    return [named.get(b, placed[i] if i < len(placed) else None) for i, b in enumerate(layer.top_blobs)]


def with_row_integers(plan: QuantPlan, message: Message, model: Model, source: str) -> QuantPlan:
    """Give `plan` the shifts and multipliers of the table instead of its own.

    Raises:
        TableError: rows that lack what their layers need, or hold what no layer can have; all of them.
    """
    rows = {row.name: row for row in message.layer}
    read: dict[str, IntegerForm] = {}
    problems: list[str] = []
    for name, own in plan.forms.items():
        if own is not None and name in rows:
            try:
                read[name] = _from_row(own, rows[name], len(model.net.layer_by_name[name].bottoms))
            except TableError as why:
                problems.append(f"layer {name!r} {why}")
    if problems:
        raise TableError(f"{source}: rows that do not fit their layers", problems)
    return with_given(plan, read, source)


def _from_row(own: IntegerForm, row: TableRow, bottoms: int) -> IntegerForm:
    if row.fusion_skipped and not own.hands_on:
        raise TableError("has fusion_skipped, but no BatchNorm does its work in this network")
    return own.from_row(row, bottoms)


def unread(message: Message) -> tuple[str, ...]:
    """Warn of each row with parameters of layers that were fused into its own; in a prototxt they are layers."""
    return tuple(
        f"layer {row.name!r}: its {field} in the table is not read"
        for row in message.layer
        for field in ("convolution_param", "inner_product_param")
        if row.HasField(field) and getattr(row, field).ListFields()
    )


def unequal(thresholds: Mapping[str, float], plan: QuantPlan, model: Model) -> tuple[str, ...]:
    """Warn of each layer that hands its bottom's codes on, whose top has another threshold in the table."""
    return tuple(
        f"layer {layer.name!r}: the table has {thresholds[top]:g} for its top, which holds its bottom's codes; "
        f"{plan.thresholds[top]:g} is used"
        for layer, op in model.pairs
        if op.passive
        for top in layer.tops
        if np.float32(thresholds[top]) != plan.thresholds[top]  # a plan has them in float32
    )
