"""Reading the row of a layer in a calibration table: what is missing, and what no layer can have, is refused by name.

Source: the fields of LayerCalibrationParameter, `proto/calibration.proto`.
"""

from __future__ import annotations

from calib8.arithmetic import MAX_RSHIFT
from calib8.errors import TableError
from calib8.proto import calibration_pb2

TableRow = calibration_pb2.LayerCalibrationParameter
TwoSidedParameter = (
    calibration_pb2.ReLUCalibrationParameter
    | calibration_pb2.LeakyReLUCalibrationParameter
    | calibration_pb2.PReLUCalibrationParameter
)
"""Messages with `gt_scale` and a right shift for either side."""
MAX_MULTIPLIER = 255


def right_shift(row: TableRow) -> int:
    """Read `right_shift_width`, which must be there.

    Raises:
        TableError: it is missing, or outside [0, MAX_RSHIFT].
    """
    require(row, "right_shift_width")
    return in_range(row.right_shift_width, "right_shift_width", MAX_RSHIFT)


def multipliers(row: TableRow, expected: int) -> tuple[int, ...]:
    """Read `threshold_x_quantized`, so many numbers of 8 bits without a sign.

    Raises:
        TableError: another number of them, or one outside [0, 255].
    """
    if len(row.threshold_x_quantized) != expected:
        raise TableError(f"has {len(row.threshold_x_quantized)} threshold_x_quantized, expected {expected}")
    return tuple(in_range(m, "threshold_x_quantized", MAX_MULTIPLIER) for m in row.threshold_x_quantized)


def side(constants: TwoSidedParameter, name: str) -> tuple[int, int]:
    """Read scale and shift of the positive ("gt") or the negative ("le") side."""
    scale = f"{name}_scale"
    return in_range(getattr(constants, scale), scale, 127, least=-128), side_shift(constants, name)


def side_shift(constants: TwoSidedParameter, name: str) -> int:
    """Read the shift of one side."""
    field = f"{name}_right_shift_width"
    return in_range(getattr(constants, field), field, MAX_RSHIFT)


def require(row: TableRow, field: str) -> None:
    """Refuse a row without this field. Raises TableError."""
    if not row.HasField(field):
        raise TableError(f"has no {field}")


def in_range(value: int, field: str, most: int, least: int = 0) -> int:
    """Give a value back if it lies in [least, most]. Raises TableError that names the field."""
    if not least <= value <= most:
        raise TableError(f"has {field} {value}, expected {least} to {most}")
    return value
