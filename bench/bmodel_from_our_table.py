"""A bmodel from our calibration table, built and run with the vendor's current toolchain (tpu-mlir), and compared.

    python bench/bmodel_from_our_table.py MODEL_FOLDER --peer ENV_SH --evaluation LIST --images LIST [options]

MODEL_FOLDER holds deploy.prototxt, with one plain Input, and custom.caffemodel. ENV_SH is sourced in a shell of its
own; then model_transform.py, run_calibration.py, model_deploy.py and model_runner.py of the toolchain are on the PATH.
The options of `calib8 calibrate` say what images are calibrated with and how they are prepared; --evaluation is a list
of other images, `path label` a line.

What happens: calib8 calibrates and exports its table; the toolchain transforms the same prototxt and caffemodel, makes
a table of its own from the same samples, and builds a bmodel from each; both run in its simulator. Every name in its
.mlir must be in our table, but for the reshapes that it inserts and calibrates by itself. The results are compared with
FP32, which calib8 computes.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from toolchain import NAME, Toolchain, ToolchainError

from calib8.cli.images import images_of
from calib8.cli.main import build_parser
from calib8.cli.main import main as calib8
from calib8.data import ImagesSource
from calib8.data.image_list import find_images
from calib8.engine import run_float
from calib8.lowering import build_model
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt

OUR_TABLE, OUR_QTABLE = f"{NAME}_cali_table", f"{NAME}_qtable"
INSERTED = re.compile(r".*_reshape$")
RUN_BMODEL = """
import sys
import numpy as np
from tools.model_runner import model_inference
model, inputs, output = sys.argv[1:]
samples = np.load(inputs)
(name,) = samples.files
rows = [next(iter(model_inference({name: x[None]}, model, dump_all=False).values())).reshape(-1) for x in samples[name]]
np.save(output, np.stack(rows))
"""


def samples_of(source: ImagesSource, count: int) -> np.ndarray:
    """The first images, prepared."""
    found = []
    for batch in source.batches():
        found.extend(next(iter(batch.values())))
        if len(found) >= count:
            break
    return np.stack(found[:count])


def missing_names(mlir: Path, table: Path) -> list[str]:
    """What the toolchain's network has and the table has not."""
    text = mlir.read_text()
    names = dict(re.findall(r'^(#loc\d+) = loc\("([^"]+)"\)', text, re.MULTILINE))
    used = re.findall(r'^ *%\S+ = "top\.(\w+)".*loc\((#loc\d+)\)$', text, re.MULTILINE)
    known = {line.split()[0] for line in table.read_text().splitlines() if not line.startswith("#")}
    wanted = [names[place] for kind, place in used if kind not in ("Weight", "None") and place in names]
    if not wanted:
        sys.exit(f"{mlir}: no names found")
    return [name for name in wanted if name not in known and not INSERTED.match(name)]


def float_scores(folder: Path, samples: np.ndarray) -> np.ndarray:
    prototxt, weights = read_prototxt(folder / "deploy.prototxt"), read_caffemodel(folder / "custom.caffemodel")
    (blob,) = build_model(prototxt).inputs
    model = build_model(prototxt, weights, {blob: (1, *samples.shape[1:])})
    (output,) = model.net.outputs
    return np.stack([run_float(model, {blob: x[None]})[output].reshape(-1) for x in samples])


def build(tools: Toolchain, table: Path, chip: str) -> Path:
    model = f"{table.name}_int8.bmodel"
    own = table.name == OUR_TABLE and (table.parent / OUR_QTABLE).exists()
    tools.run(
        "model_deploy.py", "--mlir", f"{NAME}.mlir", "--chip", chip, "--quantize", "INT8",
        "--calibration_table", table.name, *(["--quantize_table", OUR_QTABLE] if own else []),
        "--skip_validation", "--model", model,
    )  # fmt: skip
    return table.parent / model


def options_of(arguments: list[str]) -> tuple[argparse.Namespace, argparse.Namespace, list[str]]:
    """Our own options, and those of `calib8 calibrate`, parsed and as they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("--peer", type=Path, required=True, metavar="ENV_SH")
    parser.add_argument("--evaluation", type=Path, required=True, metavar="LIST")
    parser.add_argument("--count", type=int, default=50, help="images to evaluate (default: %(default)s)")
    parser.add_argument("--chip", default="bm1684x")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it")
    own, rest = parser.parse_known_args(arguments)
    return own, build_parser().parse_args(["calibrate", NAME, str(own.folder), *rest]), rest


def our_table(folder: Path, arguments: list[str]) -> Path:
    if calib8(["calibrate", NAME, str(folder), *arguments]):
        sys.exit(1)
    if calib8(["export", NAME, str(folder), "--format", "tpu-mlir"]):
        sys.exit(1)
    return folder / OUR_TABLE


def their_table(tools: Toolchain, folder: Path, blob: str, samples: np.ndarray) -> Path:
    data = folder / "calibration"
    data.mkdir()
    for number, sample in enumerate(samples):
        np.savez(data / f"{number:05}.npz", **{blob: sample[None]})
    table = folder / "vendor_cali_table"
    tools.run(
        "run_calibration.py", f"{NAME}.mlir", "--dataset", data.name, "--input_num", len(samples),
        "--cali_method", "use_kl", "-o", table.name,
    )  # fmt: skip
    return table


def scores_of(tools: Toolchain, folder: Path, model: Path) -> np.ndarray:
    (folder / "run_bmodel.py").write_text(RUN_BMODEL)
    tools.run("python", "run_bmodel.py", model.name, "evaluation.npz", f"{model.stem}.npy")
    return np.load(folder / f"{model.stem}.npy")


def report(name: str, scores: np.ndarray, real: np.ndarray, labels: np.ndarray) -> None:
    best = scores.argmax(axis=1)
    same, right = np.mean(best == real.argmax(axis=1)), np.mean(best == labels)
    print(f"{name:30} top-1 {right:7.2%}   as FP32 {same:7.2%}   mean |difference| {np.abs(scores - real).mean():.2e}")


def work(own: argparse.Namespace, calibrate: argparse.Namespace, arguments: list[str], folder: Path) -> None:
    for name in ("deploy.prototxt", "custom.caffemodel"):
        shutil.copy(own.folder / name, folder)
    prototxt, tools = read_prototxt(folder / "deploy.prototxt"), Toolchain(own.peer, folder)
    images = images_of(calibrate)
    if images is None:
        sys.exit("--images is missing: the images to calibrate with")
    source = images.placed_in(prototxt)[1]
    (blob,) = source.shapes
    calibrated = samples_of(source, calibrate.iteration)
    samples = samples_of(replace(images, images=own.evaluation).placed_in(prototxt)[1], own.count)
    np.savez(folder / "evaluation.npz", **{blob: samples})
    labels = np.array([image.label for image in find_images(own.evaluation, "evaluation")][: len(samples)])

    ours = our_table(folder, arguments)
    shape = ",".join(map(str, (1, *samples.shape[1:])))
    tools.run(
        "model_transform.py", "--model_name", NAME, "--model_def", "deploy.prototxt",
        "--model_data", "custom.caffemodel", "--input_shapes", f"[[{shape}]]", "--mlir", f"{NAME}.mlir",
    )  # fmt: skip
    missing = missing_names(folder / f"{NAME}.mlir", ours)
    if missing:
        sys.exit(f"not in our table: {', '.join(missing)}")
    theirs = their_table(tools, folder, blob, calibrated)
    real = float_scores(folder, samples)
    print(f"\n{own.folder.name}, {own.chip}, {len(samples)} images")
    report("FP32", real, real, labels)
    for name, table in (("INT8 bmodel, our table", ours), ("INT8 bmodel, vendor's table", theirs)):
        report(name, scores_of(tools, folder, build(tools, table, own.chip)), real, labels)


def main() -> None:
    arguments = sys.argv[1:]
    own, calibrate, rest = options_of(arguments)
    with contextlib.ExitStack() as stack:
        folder = own.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=own.keep is None)
        try:
            work(own, calibrate, rest, folder)
        except ToolchainError as why:
            sys.exit(str(why))


if __name__ == "__main__":
    main()
