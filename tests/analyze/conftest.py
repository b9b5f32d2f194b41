"""A network whose INT8 form can be run in parts: the digits, calibrated, with samples and labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib8.calibration import Calibration
from calib8.data import open_source, takes
from calib8.lowering import Model
from calib8.proto.text import read_prototxt
from calib8.quantize import QuantPlan, make_plan
from calib8.workflow import data_layer

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@dataclass(frozen=True)
class Digits:
    """One image a run."""

    model: Model
    plan: QuantPlan
    samples: list[dict[str, Any]]
    labels: Any
    histograms: Any


@pytest.fixture(scope="session")
def digits() -> Digits:
    prototxt = read_prototxt(DIGITS / "deploy.prototxt")
    files = {"in_prototxt": DIGITS / "deploy.prototxt", "in_caffemodel": DIGITS / "custom.caffemodel"}
    calibration = Calibration({"model_name": "digits", "iteration": 40, **files}, method="kl", repair="none", threads=1)
    calibration.calc_tables()
    thresholds = calibration.thresholds
    calibration.find_tables("mse")  # measures what the other methods look at, too
    model = calibration.model.batch_of_one()
    data = data_layer(prototxt)
    data.top.append("label")
    data.data_param.source = "evaluation_lmdb"
    batches = list(takes(open_source(data, DIGITS), 60))
    images = np.concatenate([batch["data"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches]).astype(int)
    samples = [{"data": image[np.newaxis]} for image in images]
    return Digits(model, make_plan(model, thresholds), samples, labels, calibration.histograms)
