"""A report of the digits, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib8.report import report_html
from calib8.report.gather import ReportOptions, gather
from calib8.workflow import CalibrateOptions, DiagnoseOptions, SensitivityOptions, calibrate, open_network

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.fixture(scope="session")
def report():
    network = open_network(DIGITS / "deploy.prototxt", DIGITS / "custom.caffemodel")
    calibration = calibrate(network, CalibrateOptions(iteration=20, threads=1))
    options = ReportOptions(
        DiagnoseOptions(iteration=20, threads=1), SensitivityOptions(samples=2, threads=1), 20, judged=4, shown=2,
        classes=tuple(f"digit <{n}>" for n in range(10)),
    )  # fmt: skip
    return gather(network, "digits & more", calibration, options)


@pytest.fixture(scope="session")
def page(report):
    return report_html(report).decode()
