"""The messages of the calibration table."""

from calib8.proto.calibration_pb2 import *  # noqa: F403
