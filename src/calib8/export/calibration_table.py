"""The calibration table that the BM1880 compiler reads: a NetCalibrationParameter, one row per layer.

`.pb2` is its binary form, `.prototxt` its text form. The schema is `proto/calibration.proto`.
"""

from __future__ import annotations

from google.protobuf import text_format

from calib8.errors import OptionError
from calib8.graph import Layer
from calib8.layers import IntegerForm
from calib8.lowering import Model
from calib8.proto import calibration_pb2
from calib8.quantize import QuantPlan

Message = calibration_pb2.NetCalibrationParameter


def table_message(name: str, model: Model, plan: QuantPlan) -> Message:
    """Make the table of a quantised network that is called `name`.

    Raises:
        OptionError: the name is no text.
    """
    try:
        message = calibration_pb2.NetCalibrationParameter(name=name)
    except ValueError:
        raise OptionError(f"the model's name {name!r} is not valid Unicode; choose another one") from None
    for layer in model.net.layers:
        _fill_row(message.layer.add(), layer, [plan.thresholds[t] for t in layer.tops], plan.forms[layer.name])
    return message


def table_bytes(message: Message) -> bytes:
    """Write a table in its binary form."""
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def table_text(message: Message) -> bytes:
    """Write a table in its text form; floats in the fewest digits that read back the same."""
    text: str = text_format.MessageToString(message, as_utf8=True)
    return text.encode()


def _fill_row(
    row: calibration_pb2.LayerCalibrationParameter, layer: Layer, thresholds: list[float], form: IntegerForm | None
) -> None:
    row.name = layer.name
    row.threshold_y.extend(thresholds)
    for blob, threshold in zip(layer.top_blobs, thresholds, strict=True):
        row.blob_param.add(name=blob, threshold_y=threshold)
    row.bottom_unsigned.extend([False] * len(layer.bottoms))
    row.top_unsigned.extend([False] * len(layer.tops))
    if form is not None:
        form.fill_row(row)
