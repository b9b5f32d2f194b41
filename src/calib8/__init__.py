"""calib8: INT8 calibration for Caffe networks, without Caffe.

    network = open_network("lenet/deploy.prototxt", "lenet/custom.caffemodel")
    result = calibrate(network, CalibrateOptions(iteration=100, method="mse"))
    write_calibration_files("lenet", "lenet", network.model, result.plan)

What is here is loaded when it is first asked for: a command says what is wrong before it loads anything large.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib8.calibration import Calibration
    from calib8.data import Preprocess
    from calib8.export import write_calibration_files, write_format
    from calib8.measure.thresholds import ThresholdOptions
    from calib8.workflow import (
        Arrays,
        CalibrateOptions,
        CalibrationResult,
        DropOptions,
        EvaluateOptions,
        Evaluation,
        Images,
        LayerDamage,
        Metric,
        MixedResult,
        Network,
        Progress,
        SensitivityOptions,
        TuneOptions,
        Tuner,
        TuneResult,
        calibrate,
        calibrate_given,
        change_thresholds,
        check,
        choose_thresholds,
        evaluate,
        open_network,
        read_calibration,
        sensitivity,
        tune,
    )

__version__ = "0.1.0"
"""The version of calib8; pyproject.toml and the package's metadata take it from here."""

__all__ = [
    "Arrays",
    "CalibrateOptions",
    "Calibration",
    "CalibrationResult",
    "DropOptions",
    "EvaluateOptions",
    "Evaluation",
    "Images",
    "LayerDamage",
    "Metric",
    "MixedResult",
    "Network",
    "Preprocess",
    "Progress",
    "SensitivityOptions",
    "ThresholdOptions",
    "TuneOptions",
    "TuneResult",
    "Tuner",
    "calibrate",
    "calibrate_given",
    "change_thresholds",
    "check",
    "choose_thresholds",
    "evaluate",
    "open_network",
    "read_calibration",
    "sensitivity",
    "tune",
    "write_calibration_files",
    "write_format",
]

_HOMES = {
    "Calibration": "calib8.calibration",
    "Preprocess": "calib8.data",
    "ThresholdOptions": "calib8.measure.thresholds",
    "write_calibration_files": "calib8.export",
    "write_format": "calib8.export",
}
"""Where names are at home that are not of `calib8.workflow`."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "calib8.workflow")), name)
