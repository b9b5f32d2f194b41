"""The work itself, as functions: open a network with its samples, calibrate it, look where INT8 hurts, repair, judge.

Nothing here reads a command line or prints. Options are frozen dataclasses, results are frozen dataclasses that a face
(`calib8.cli`, `calib8.Calibration`) prints or writes; whoever waits is told of progress through a callback.

- `network`: a network and its samples, read once
- `images`: images for networks with a plain Input layer
- `calibrating`: thresholds from samples, integers from thresholds
- `progress`: what a callback is told

Messages of errors name the parameters of these functions between backticks, as in `samples`; a command puts its
options in their place.
"""

from calib8.workflow.calibrating import (
    CalibrateOptions,
    CalibrationResult,
    MeasureOptions,
    calibrate,
    change_thresholds,
    choose_thresholds,
    measure_histograms,
    read_calibration,
    read_thresholds,
)
from calib8.workflow.images import Images
from calib8.workflow.network import Network, data_layer, open_network
from calib8.workflow.progress import Progress, ProgressCallback

__all__ = [
    "CalibrateOptions",
    "CalibrationResult",
    "Images",
    "MeasureOptions",
    "Network",
    "Progress",
    "ProgressCallback",
    "calibrate",
    "change_thresholds",
    "choose_thresholds",
    "data_layer",
    "measure_histograms",
    "open_network",
    "read_calibration",
    "read_thresholds",
]
