"""calib8: INT8 calibration for Caffe networks, without Caffe."""

from calib8.calibration import Calibration

__all__ = ["Calibration"]
