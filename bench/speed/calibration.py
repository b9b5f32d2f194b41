"""Seconds per image of a whole calibration over seconds per image of the plain float forward pass, in one run.

python bench/speed/calibration.py [MODEL_FOLDER [N]] [-- further options of `calib8 calibrate`, such as --images]

MODEL_FOLDER holds deploy.prototxt and custom.caffemodel (default: examples/digits), N is the number of images. The
forward pass is ONNX Runtime's over the same network with only its outputs asked for, batch 1, the same number of
threads. The calibration is what `Calibration.calc_tables` does after loading: reading images, running, counting,
searching, quantising; `process` is the whole command in a process of its own, start and loading included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from calib8.calibration import Calibration
from calib8.cli import main as cli
from calib8.cli.images import images_of
from calib8.data import open_source
from calib8.engine import EngineOptions, Executor
from calib8.lowering import build_model, lower_float
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.workflow import data_layer

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
THREADS = 2
ROUNDS = 5


def plain_forward(folder: Path, images: int) -> float:
    """Seconds per image of as many forward passes, one after another."""
    prototxt = read_prototxt(folder / "deploy.prototxt")
    own = data_layer(prototxt)
    shapes = open_source(own, folder).shapes if own is not None else {}
    model = build_model(prototxt, read_caffemodel(folder / "custom.caffemodel"), shapes)
    model = model.batch_of_one() or model
    inputs = {v: np.random.default_rng(0).standard_normal(model.shapes[v], np.float32) for v in model.inputs}
    executor = Executor(lower_float(model, model.net.outputs), model.net.outputs, EngineOptions(threads=THREADS))
    executor.run(inputs, lambda name, array: None)  # opened and warm, as what calc_tables is given is loaded
    start = time.perf_counter()
    for _ in range(images):
        executor.run(inputs, lambda name, array: None)
    return (time.perf_counter() - start) / images


def calibration(folder: Path, arguments: list[str], images: int) -> float:
    """Seconds per image of calc_tables."""
    options = cli.build_parser().parse_args(["calibrate", "bench", str(folder), "-n", str(images), *arguments])
    info = {
        "model_name": "bench",
        "in_prototxt": folder / "deploy.prototxt",
        "in_caffemodel": folder / "custom.caffemodel",
        "iteration": images,
    }
    source = images_of(options)
    tool = Calibration(info, source=source, method=options.method, repair="none", threads=THREADS)
    assert tool.model.net.layers  # loaded
    start = time.perf_counter()
    tool.calc_tables()
    return (time.perf_counter() - start) / images


def process(folder: Path, arguments: list[str], images: int) -> tuple[float, float]:
    """Seconds and peak MB of the command."""
    script = (
        "import json, resource, sys, time; start = time.perf_counter(); from calib8.cli.main import main; "
        "main(sys.argv[1:]); print(json.dumps([time.perf_counter() - start, "
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))"
    )
    with tempfile.TemporaryDirectory() as output:
        command = ["calibrate", "bench", str(folder), "-n", str(images), "--threads", str(THREADS), "--output", output]
        text = subprocess.run(
            [sys.executable, "-c", script, *command, *arguments], check=True, capture_output=True, text=True
        ).stdout
    seconds, peak = json.loads(text.splitlines()[-1])
    return seconds, peak


def main() -> None:
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    extra = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    folder = Path(own[0]) if own else DIGITS
    images = int(own[1]) if len(own) > 1 else 100
    rounds = [(plain_forward(folder, images), calibration(folder, extra, images)) for _ in range(ROUNDS)]
    forward, calibrated = (min(r[i] for r in rounds) for i in (0, 1))
    print(f"{folder.name}, {images} images, {THREADS} threads, best of {ROUNDS}")
    print(f"plain forward pass  {forward * 1e3:8.2f} ms an image")
    print(
        f"calibration         {calibrated * 1e3:8.2f} ms an image   {calibrated / forward:.2f} times the forward pass"
    )
    seconds, peak = process(folder, extra, images)
    print(f"whole process       {seconds:8.2f} s, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
