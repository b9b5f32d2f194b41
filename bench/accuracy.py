"""FP32 and INT8 side by side on real models: python bench/accuracy.py MODELS IMAGES

MODELS and IMAGES are the folders that real_models.py describes. Thresholds come from 100 calibration images, by each of
the methods; all layers that can run in INT8. SNR is that of the measured outputs against FP32.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
from real_models import CALIBRATION_IMAGES, Outputs, RealModel, Samples, real_models

from calib8.calibrate.thresholds import ThresholdOptions
from calib8.calibration import Calibration
from calib8.engine import Executor
from calib8.lowering import lower_float
from calib8.lowering.batch import batch_of_one
from calib8.lowering.integer import IntegerSetup, lower_int8
from calib8.lowering.model import Model
from calib8.proto.text import read_prototxt
from calib8.quantize import integer_setup

METHODS = {
    "kl": ("kl", ThresholdOptions()),
    "kl, no zeros": ("kl", ThresholdOptions(ignore_zeros=True)),
    "mse": ("mse", ThresholdOptions()),
    "max": ("max", ThresholdOptions()),
}


def run(executor: Executor, blob: str, model: RealModel) -> Outputs:
    """The measured outputs of all evaluation samples."""
    found: Outputs = []
    for sample in model.evaluation():
        outputs: dict[str, np.ndarray] = {}
        executor.run({blob: sample}, lambda name, array, outputs=outputs: outputs.__setitem__(name, array.copy()))
        found.append(outputs)
    return found


def snr_db(reference: Outputs, outputs: Outputs) -> float:
    """Signal to noise over all outputs of the same shape."""
    pairs = [(r[n], o[n]) for r, o in zip(reference, outputs, strict=True) for n in r if r[n].shape == o[n].shape]
    signal = sum(float((r.astype(np.float64) ** 2).sum()) for r, _ in pairs)
    noise = sum(float(((r.astype(np.float64) - o) ** 2).sum()) for r, o in pairs)
    return 10 * np.log10(signal / noise) if noise else float("inf")


def real_inputs(model: Model, calibration: Calibration) -> IntegerSetup:
    """All layers that can, over real-valued input."""
    setup = integer_setup(model, calibration.plan)
    return IntegerSetup(setup.int8_layers, setup.plans, setup.thresholds)


def rows(model: RealModel) -> list[str]:
    """One line for each method."""
    prototxt = read_prototxt(model.folder / "deploy.prototxt")
    blob = next(layer.top[0] for layer in prototxt.net.layer if layer.type == "Input")
    info = {
        "model_name": model.name,
        "in_prototxt": model.folder / "deploy.prototxt",
        "in_caffemodel": model.folder / "custom.caffemodel",
        "iteration": CALIBRATION_IMAGES,
    }
    calibration = Calibration(info, source=Samples(blob, model.calibration, CALIBRATION_IMAGES))
    calibration.calc_tables()
    single = batch_of_one(prototxt, calibration.model) or calibration.model
    reference = run(Executor(lower_float(single, model.outputs), model.outputs), blob, model)
    fp32 = model.quality(reference, reference)
    lines = []
    for name, (method, options) in METHODS.items():
        calibration.find_tables(method, options)
        steps = lower_int8(single, real_inputs(single, calibration), model.outputs)
        outputs = run(Executor(steps, model.outputs), blob, model)
        int8 = model.quality(outputs, reference)
        line = f"{model.name:<30}{model.measure:<12}{name:<14}{fp32:>8.4f}{int8:>8.4f}{int8 - fp32:>+9.4f}"
        lines.append(f"{line}{snr_db(reference, outputs):>9.1f}")
    return lines


def main() -> None:
    if len(sys.argv) != 3:
        print("needs the folders MODELS and IMAGES")
        return
    logging.basicConfig(level=logging.ERROR)
    print(f"{'model':<30}{'measure':<12}{'thresholds':<14}{'FP32':>8}{'INT8':>8}{'change':>9}{'SNR dB':>9}")
    for model in real_models(Path(sys.argv[1]), Path(sys.argv[2])):
        print("\n".join(rows(model)), flush=True)


if __name__ == "__main__":
    main()
