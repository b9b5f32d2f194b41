"""The main job on a small network: digits in, thresholds and integers out, FP32 and INT8 side by side.

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

from calib8 import Calibration
from calib8.cli.main import main as calib8
from calib8.data import open_source, takes
from calib8.engine import run_float, run_int8
from calib8.errors import Calib8Error
from calib8.export import read_plan
from calib8.lowering import Model, build_model
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.quantize import QuantPlan, integer_setup

DIGITS = Path(__file__).resolve().parent / "digits"
CALIBRATION_IMAGES = 150
EVALUATION_IMAGES = 300

Array = NDArray[Any]


def main(arguments: Sequence[str]) -> int:
    """Calibrate, then measure what the files are worth."""
    folder = Path(arguments[0] if arguments else "build/demo") / "digits"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DIGITS, folder)
    command = ["calibrate", "digits", str(folder), "--iteration", str(CALIBRATION_IMAGES)]
    print("$ calib8", " ".join(command), flush=True)
    code = calib8(command)
    if code == 0:
        report_accuracy(folder)
    return code


def report_accuracy(folder: Path) -> None:
    """FP32, INT8 as the files describe it, and INT8 with another way to find thresholds."""
    images, labels = evaluation_set(folder)
    model = build_model(
        read_prototxt(folder / "deploy.prototxt"),
        read_caffemodel(folder / "custom.caffemodel"),
        {"data": images.shape},
    )
    written = read_plan(model, folder / "bmnet_digits_calibration_table.pb2", folder / "bmnet_digits_int8.caffemodel")
    answers = {
        "FP32": run_float(model, {"data": images}, ["prob"])["prob"].argmax(1),
        "INT8, these files": in_int8(model, written, images).argmax(1),
        "INT8, --original": in_int8(model, original_plan(folder), images).argmax(1),
    }
    print(f"\nright of {EVALUATION_IMAGES} images that were neither trained nor calibrated on:")
    for name, answer in answers.items():
        print(f"  {name:<20}{np.mean(answer == labels):7.2%}")
    print("--original does what the original tool does, and nothing else; the default repairs.")


def original_plan(folder: Path) -> QuantPlan:
    """The same calibration from Python, as the original tool does it."""
    info = {
        "model_name": "digits",
        "in_prototxt": folder / "deploy.prototxt",
        "in_caffemodel": folder / "custom.caffemodel",
        "iteration": CALIBRATION_IMAGES,
    }
    calibration = Calibration(info, original=True)
    calibration.calc_tables()
    return calibration.plan


def evaluation_set(folder: Path) -> tuple[Array, Array]:
    """Images, prepared as the network's data layer says, and their labels; all in one batch."""
    data = read_prototxt(folder / "deploy.prototxt").net.layer[0]
    data.top.append("label")
    data.data_param.source = "evaluation_lmdb"
    data.data_param.batch_size = EVALUATION_IMAGES
    (batch,) = takes(open_source(data, folder), EVALUATION_IMAGES)
    return batch["data"], batch["label"].astype(int)


def in_int8(model: Model, plan: QuantPlan, images: Array) -> Array:
    """The probabilities with all layers in INT8 that have an integer rule."""
    # Codes are what an INT8 layer reads of a data layer, as the guide says: x * 128 / threshold.
    codes = images * np.float32(128 / plan.thresholds["data"])
    return run_int8(model, integer_setup(model, plan), {"data": codes}, ["prob"])["prob"]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Calib8Error as why:
        sys.exit(f"demo: error: {why}")
