"""The calibration table that the BM1880 compiler reads: a NetCalibrationParameter, one row per layer.

`.pb2` is its binary form, `.prototxt` its text form. The schema is `proto/calibration.proto`.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import text_format

from calib8.errors import OptionError
from calib8.graph import Layer
from calib8.layers import LayerPlan
from calib8.lowering import Model
from calib8.proto import calibration_pb2
from calib8.quantize import QuantPlan

Message = Any
"""A NetCalibrationParameter."""


def table_message(name: str, model: Model, plan: QuantPlan) -> Message:
    """The table of a quantised network that is called `name`.

    Raises:
        OptionError: the name is no text.
    """
    try:
        message = calibration_pb2.NetCalibrationParameter(name=name)
    except ValueError:
        raise OptionError(f"the model's name {name!r} is not valid Unicode; choose another one") from None
    for layer in model.net.layers:
        _fill_row(message.layer.add(), layer, [plan.thresholds[t] for t in layer.tops], plan.plans[layer.name])
    return message


def table_bytes(message: Message) -> bytes:
    """The binary form."""
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def table_text(message: Message) -> bytes:
    """The text form; floats in the fewest digits that read back the same."""
    text: str = text_format.MessageToString(message, as_utf8=True)
    return text.encode()


def _fill_row(row: Any, layer: Layer, thresholds: list[float], plan: LayerPlan | None) -> None:
    row.name = layer.name
    row.threshold_y.extend(thresholds)
    for blob, threshold in zip(layer.top_blobs, thresholds, strict=True):
        row.blob_param.add(name=blob, threshold_y=threshold)
    row.bottom_unsigned.extend([False] * len(layer.bottoms))
    row.top_unsigned.extend([False] * len(layer.tops))
    if plan is not None:
        _fill_integers(row, plan)


def _fill_integers(row: Any, plan: LayerPlan) -> None:
    if plan.rshift is not None:
        row.right_shift_width = plan.rshift
    row.threshold_x_quantized.extend(plan.multipliers)
    if plan.fusion_skipped:
        row.fusion_skipped = 1
    if plan.leaky is not None:
        x = plan.leaky
        row.relu_param.gt_scale, row.relu_param.gt_right_shift_width = x.gt_scale, x.gt_rshift
        row.relu_param.le_scale, row.relu_param.le_right_shift_width = x.le_scale, x.le_rshift
    if plan.prelu is not None:
        p = plan.prelu
        row.prelu_param.gt_scale, row.prelu_param.gt_right_shift_width = p.gt_scale, p.gt_rshift
        row.prelu_param.le_right_shift_width = p.le_rshift
    if plan.concat is not None:
        row.concat_param.right_shift_width.extend(plan.concat.rshifts)
        row.concat_param.threshold_x_quantized.extend(plan.concat.multipliers)
        row.concat_param.need_quantize_num = len(plan.concat.rshifts)
