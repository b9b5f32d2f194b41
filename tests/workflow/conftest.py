"""The digits, opened and calibrated once."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib8 import CalibrateOptions, open_network
from calib8.workflow import calibrate

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
FILES = DIGITS / "deploy.prototxt", DIGITS / "custom.caffemodel"


@pytest.fixture(scope="session")
def network():
    return open_network(*FILES)


@pytest.fixture(scope="session")
def result(network):
    return calibrate(network, CalibrateOptions(iteration=20, method="mse", repair="none"))
