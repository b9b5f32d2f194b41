"""The main job on a small network: digits in, thresholds and integers out.

make demo                            works in build/demo
python examples/demo.py FOLDER       works in FOLDER
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.cli.main import main as calib8
from calib8.data import open_source, takes
from calib8.engine import run_float
from calib8.errors import Calib8Error
from calib8.lowering import build_model
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt

DIGITS = Path(__file__).resolve().parent / "digits"
CALIBRATION_IMAGES = 150
EVALUATION_IMAGES = 300

Array = NDArray[Any]


def main(arguments: Sequence[str]) -> int:
    """Calibrate, then measure the network."""
    folder = Path(arguments[0] if arguments else "build/demo")
    shutil.rmtree(folder / "digits", ignore_errors=True)
    shutil.copytree(DIGITS, folder / "digits")
    model_folder = folder / "digits"
    command = ["calibrate", "digits", str(model_folder), "--iteration", str(CALIBRATION_IMAGES)]
    print("$ calib8", " ".join(command), flush=True)
    code = calib8(command)
    if code == 0:
        print(f"\n{EVALUATION_IMAGES} images that were neither trained nor calibrated on:")
        report_accuracy(model_folder)
    return code


def report_accuracy(folder: Path) -> None:
    """Run the evaluation images through the FP32 network."""
    images, labels = evaluation_set(folder)
    prototxt = read_prototxt(folder / "deploy.prototxt")
    model = build_model(prototxt, read_caffemodel(folder / "custom.caffemodel"), {"data": images.shape})
    fp32 = run_float(model, {"data": images}, ["prob"])["prob"].argmax(1)
    print(f"  FP32: {np.mean(fp32 == labels):7.2%} right")


def evaluation_set(folder: Path) -> tuple[Array, Array]:
    """Images, prepared as the network's data layer says, and their labels; all in one batch."""
    data = read_prototxt(folder / "deploy.prototxt").net.layer[0]
    data.top.append("label")
    data.data_param.source = "evaluation_lmdb"
    data.data_param.batch_size = EVALUATION_IMAGES
    (batch,) = takes(open_source(data, folder), EVALUATION_IMAGES)
    return batch["data"], batch["label"].astype(int)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Calib8Error as why:
        sys.exit(f"demo: error: {why}")
