"""Milliseconds of one forward pass in FP32 and in INT8, taking turns in one run; time of choosing other INT8 layers.

python bench/speed/int8.py [MODEL_FOLDER ...] [-- SECONDS [THREADS]]

MODEL_FOLDER holds deploy.prototxt and custom.caffemodel (default: examples/digits). Batch 1, random input, only the
outputs asked for. Thresholds are the largest values of three random inputs: they do not change what has to be computed.
`int8_init` is lowering and opening the INT8 network, which a new list of layers costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from calib8.data import open_source
from calib8.engine import EngineOptions, Executor
from calib8.lowering import Model, build_model, lower_float
from calib8.lowering.integer import lower_int8
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.quantize import QuantPlan, integer_setup, make_plan, observed_values
from calib8.workflow import data_layer

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


def load(folder: Path) -> Model:
    prototxt = read_prototxt(folder / "deploy.prototxt")
    own = data_layer(prototxt)
    shapes = open_source(own, folder).shapes if own is not None else {}
    model = build_model(prototxt, read_caffemodel(folder / "custom.caffemodel"), shapes)
    return model.batch_of_one() or model


def random_input(model: Model, seed: int) -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {v: 50 * rng.standard_normal(model.shapes[v], np.float32) for v in model.inputs}


def quantized(model: Model, options: EngineOptions) -> QuantPlan:
    observed, largest = observed_values(model), {}
    executor = Executor(lower_float(model, observed), observed, options)
    for seed in range(3):
        executor.run(
            random_input(model, seed),
            lambda name, x: largest.__setitem__(name, max(largest.get(name, 1e-3), float(np.abs(x).max()))),
        )
    return make_plan(model, largest)


def compare(folder: Path, seconds: float, options: EngineOptions) -> None:
    model = load(folder)
    plan, outputs = quantized(model, options), model.net.outputs
    start = time.perf_counter()
    in_int8 = Executor(lower_int8(model, integer_setup(model, plan), outputs), outputs, options)
    opening = time.perf_counter() - start
    executors = {"FP32": Executor(lower_float(model, outputs), outputs, options), "INT8": in_int8}
    times: dict[str, list[float]] = {name: [] for name in executors}
    inputs, end = random_input(model, 3), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, executor in executors.items():
            for _ in range(3):
                start = time.perf_counter()
                executor.run(inputs, lambda name, x: None)
                times[name].append(time.perf_counter() - start)
    least, median = ({n: f(t) * 1e3 for n, t in times.items()} for f in (min, np.median))
    ratio, usual = least["INT8"] / least["FP32"], median["INT8"] / median["FP32"]
    print(
        f"{folder.name:30} FP32 {least['FP32']:8.3f}  INT8 {least['INT8']:8.3f} ms, {ratio:.2f} times as long "
        f"(medians {usual:.2f})   int8_init {opening * 1e3:.0f} ms"
    )


def main() -> None:
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    folders, further = sys.argv[1:at], sys.argv[at + 1 :]
    seconds, threads = float(further[0]) if further else 5.0, int(further[1]) if further[1:] else 2
    print(f"{threads} threads, batch 1, least of {seconds:g} s")
    for folder in folders or [DIGITS]:
        compare(Path(folder), seconds, EngineOptions(threads=threads))


if __name__ == "__main__":
    main()
