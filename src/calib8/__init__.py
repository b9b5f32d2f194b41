"""calib8: INT8 calibration for Caffe networks, without Caffe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib8.calibration import Calibration

__all__ = ["Calibration"]


def __getattr__(name: str) -> Any:
    """Import `Calibration` when it is asked for: the commands say what is wrong before they load anything large."""
    if name != "Calibration":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from calib8.calibration import Calibration as found  # noqa: PLC0415, N813

    return found
