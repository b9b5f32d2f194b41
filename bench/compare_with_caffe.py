"""Every blob of a network beside the same blob in a real Caffe: the largest difference over the blob's largest number.

Twice: each layer alone, with what the real Caffe gave to it, and all of the network, from its inputs. The second adds
up the rounding of all layers, and where a layer picks one of almost equal numbers (ArgMax, a mask of Pooling, the order
and the suppression of detections), it may pick another.

python bench/compare_with_caffe.py MODEL... --caffe COMMAND [--images LIST and so on, as in calib8 calibrate]

MODEL is a folder with deploy.prototxt and custom.caffemodel, a folder of such folders, or a prototxt, which is run with
random weights. COMMAND starts a Python that can `import caffe`: a path, or a small script that sets the environment up
and ends with `exec python "$@"`. The real Caffe runs layer by layer in a process of its own, so that one that gives up
costs one row, and so that values which a later layer overwrites in place are compared, too. Input values are random,
or a batch of images.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib8.cli.arguments.image_options import add_image_options
from calib8.cli.images import images_of
from calib8.cli.table import aligned
from calib8.engine import EngineOptions, Executor
from calib8.errors import Calib8Error
from calib8.lowering import Model, build_model, lower_float
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import read_caffemodel, write_caffemodel
from calib8.proto.text import Prototxt, read_prototxt

RUNNER = Path(__file__).resolve().parent / "caffe_forward.py"
MAX_SECONDS = 900
Values = dict[str, np.ndarray]
# Types that a real Caffe knows under another name, and that mean the same there.
SYNONYMS = {"DepthwiseConvolution": "Convolution"}


@dataclass(frozen=True)
class Case:
    """A network to compare: its definition and, unless they are to be random, its weights."""

    name: str
    prototxt: Path
    caffemodel: Path | None


@dataclass(frozen=True)
class Result:
    """`alone` and `together` are the worst differences and the layers where they are.

    Detections are compared whatever their order.
    """

    values: int
    alone: tuple[float, str]
    together: tuple[float, str]
    our_seconds: float
    their_seconds: float
    slowest: str


class RefusedError(Exception):
    """Ours or theirs does not run the network."""


def cases(paths: list[Path]) -> Iterator[Case]:
    for path in paths:
        if path.is_file():
            yield Case(path.stem, path, None)
        elif (path / "deploy.prototxt").exists():
            yield Case(path.name, path / "deploy.prototxt", path / "custom.caffemodel")
        else:
            yield from cases(sorted(p for p in path.iterdir() if p.is_dir() or p.suffix == ".prototxt"))


def random_weights(model: Model, rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Weights that keep values at about their size through many layers; statistics of a BatchNorm as they can be."""
    found = {}
    for layer, op in model.pairs:
        shapes = op.blob_shapes([model.shapes[b] for b in layer.bottoms])
        if layer.type in ("BatchNorm", "BN", "Scale", "Normalize"):
            blobs = [rng.uniform(0.5, 1.5, shape) for shape in shapes]
        elif layer.type == "PReLU":
            blobs = [rng.uniform(0, 0.5, shape) for shape in shapes]
        else:
            blobs = [rng.standard_normal(s) * np.sqrt(2 / max(np.prod(s[1:]), 2)) for s in shapes]
        if layer.type == "BatchNorm":
            blobs[2] = np.ones(shapes[2])
        found[layer.name] = [b.astype(np.float32) for b in blobs]
    return found


def random_inputs(model: Model, rng: np.random.Generator) -> Values:
    """Standard normal; boxes that lie in an image where an input is called rois."""
    found = {}
    for value in model.inputs:
        shape = model.shapes[value]
        found[model.net.blob_of[value]] = (
            random_boxes(shape, rng) if value == "rois" else rng.standard_normal(shape, np.float32)
        )
        if value == "im_info":
            found[value] = np.resize(np.array([200, 200, 1], np.float32), shape)
    return found


def random_boxes(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    corners = np.sort(rng.uniform(0, 200, (shape[0], 2, 2)), axis=1).reshape(-1, 4)
    return np.concatenate([np.zeros((shape[0], 1)), corners], 1).astype(np.float32).reshape(shape)


def run_ours(model: Model, inputs: Values, threads: int) -> tuple[Values, float]:
    """Every value, and the seconds of a second pass that gives the outputs only."""
    values = [t for layer in model.net.layers for t in layer.tops if t not in model.inputs]
    feeds = {value: inputs[model.net.blob_of[value]] for value in model.inputs}
    found: Values = {}
    options = EngineOptions(threads=threads)
    Executor(lower_float(model, values), values, options).run(feeds, lambda n, a: found.__setitem__(n, a.copy()))
    outputs = model.net.outputs
    executor = Executor(lower_float(model, outputs), outputs, options)
    executor.run(feeds, lambda n, a: None)
    start = time.perf_counter()
    executor.run(feeds, lambda n, a: None)
    return found, time.perf_counter() - start


def run_theirs(caffe: list[str], case: Case, weights: Path, inputs: Values, folder: Path) -> Path:
    prototxt = folder / "deploy.prototxt"
    text = case.prototxt.read_text(encoding="utf-8", errors="replace")
    for ours, theirs in SYNONYMS.items():
        text = re.sub(rf"""(type\s*:\s*)["']{ours}["']""", rf'\1"{theirs}"', text)
    prototxt.write_text(text, encoding="utf-8")
    np.savez(folder / "inputs.npz", **inputs)
    outputs = folder / "outputs.npz"
    command = [*caffe, str(RUNNER), str(prototxt), str(weights), str(folder / "inputs.npz"), str(outputs)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(f"Caffe took more than {MAX_SECONDS} s") from None
    if done.returncode != 0:
        said = [
            line for line in done.stderr.splitlines() if "Check failed" in line or "Error" in line or "ERROR" in line
        ]
        raise RefusedError(f"Caffe ended with {done.returncode}: {(said or ['without a word'])[0].strip()[:150]}")
    return outputs


def compare(case: Case, caffe: list[str], options: argparse.Namespace) -> Result:
    rng = np.random.default_rng(0)
    prototxt = read_prototxt(case.prototxt)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = case.caffemodel or folder / "random.caffemodel"
        if case.caffemodel is None:
            write_random(prototxt, weights, rng)
        model = build_model(prototxt, read_caffemodel(weights))
        inputs = random_inputs(model, rng)
        images = images_of(options)
        if images is not None:
            source = images.source_for(prototxt)
            inputs.update({b: np.resize(a, inputs[b].shape) for b, a in next(source.batches()).items()})
        ours, seconds = run_ours(model, inputs, options.threads)
        with np.load(run_theirs(caffe, case, weights, inputs, folder)) as found:
            theirs = values_of(model, inputs, found)
            times, names = found["seconds"], json.loads(str(found["names"]))
    alone = run_alone(model, theirs, options.threads)
    slowest = names[int(times.argmax())][0]
    return Result(len(ours), worst(model, alone, theirs), worst(model, ours, theirs), seconds, times.sum(), slowest)


def write_random(prototxt: Prototxt, path: Path, rng: np.random.Generator) -> None:
    model = build_model(prototxt)
    weights = random_weights(model, rng)
    types = {x.name: SYNONYMS.get(x.type, x.type) for x in model.net.layers}
    layers = [(caffe_pb2.LayerParameter(name=n, type=types[n]), b) for n, b in weights.items()]
    write_caffemodel(path, prototxt.net.name, layers)


def values_of(model: Model, inputs: Values, found: np.lib.npyio.NpzFile) -> Values:
    """Theirs under our names; a layer that the real Caffe adds itself (a Split) has none."""
    theirs = {value: inputs[model.net.blob_of[value]] for value in model.inputs}
    for index, (name, tops) in enumerate(json.loads(str(found["names"]))):
        layer = model.net.layer_by_name.get(name)
        if layer is not None and list(layer.top_blobs) == tops:
            theirs.update({t: found[f"{index}/{place}"] for place, t in enumerate(layer.tops)})
    missing = [value for value in model.shapes if value not in theirs]
    if missing:
        raise RefusedError(f"{len(missing)} values have no counterpart: {missing[0]}")
    return theirs


def run_alone(model: Model, theirs: Values, threads: int) -> Values:
    """Every layer's tops from their bottoms."""
    found: Values = {}
    values = [value for value in model.shapes if value not in model.inputs]
    for step in lower_float(model, values, max_output_bytes=1):
        fits = all(theirs[b].shape == model.shapes[b] for b in step.inputs)
        executor = Executor([step], step.outputs, EngineOptions(threads=threads))
        if fits:
            executor.run({b: theirs[b] for b in step.inputs}, lambda n, a: found.__setitem__(n, a.copy()))
    return found


def worst(model: Model, ours: Values, theirs: Values) -> tuple[float, str]:
    """The largest difference, and the layer that has it."""
    found = [(gap(model.net.producer[v].type, array, theirs[v]), v) for v, array in ours.items()]
    largest, value = max(found, default=(0.0, ""))
    layer = model.net.producer.get(value)
    return largest, f"{layer.name} ({layer.type})" if layer else ""


def gap(layer_type: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    found = difference(ours, theirs)
    return min(found, difference_of_rows(ours, theirs)) if layer_type.endswith("DetectionOutput") else found


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Infinite for another shape, or where one has NaN and the other has not."""
    if ours.shape != theirs.shape or not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        return float("inf")
    equal = (ours == theirs) | np.isnan(ours)
    with np.errstate(invalid="ignore"):
        gaps = np.where(equal, 0, np.abs(ours.astype(np.float64) - theirs))
    finite = np.abs(theirs[np.isfinite(theirs)])
    return float(gaps.max(initial=0) / max(finite.max(initial=0), 1e-30))


def difference_of_rows(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Detections whatever their order: scores that differ in the last bit only may change places."""
    if ours.shape[3:] != theirs.shape[3:] or not (ours.size and theirs.size):
        return float("inf")
    ours, theirs = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, ours.shape[-1])
    with np.errstate(invalid="ignore"):
        gaps = np.abs(ours[:, None].astype(np.float64) - theirs[None])
    gaps = np.where(ours[:, None] == theirs[None], 0, np.nan_to_num(gaps, nan=np.inf)).max(-1)
    return float(max(gaps.min(0).max(), gaps.min(1).max()) / np.abs(theirs).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+")
    parser.add_argument("--caffe", metavar="COMMAND", required=True, help="starts a Python with a real caffe")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of ours (default: 2)")
    add_image_options(parser)
    options = parser.parse_args()
    rows = [("model", "values", "alone", "at", "together", "at", "ours ms", "caffe ms", "slowest in caffe")]
    for case in cases(options.models):
        try:
            r = compare(case, shlex.split(options.caffe), options)
            gaps = f"{r.alone[0]:.1e}", r.alone[1], f"{r.together[0]:.1e}", r.together[1]
            times = f"{1e3 * r.our_seconds:.1f}", f"{1e3 * r.their_seconds:.1f}"
            rows.append((case.name, str(r.values), *gaps, *times, r.slowest))
        except (Calib8Error, RefusedError) as why:
            problem = str(getattr(why, "problems", [why])[0]).removeprefix(str(case.prototxt))
            rows.append((case.name, "", "", problem[:100], "", "", "", "", ""))
        print(*rows[-1], sep="  ", flush=True)
    print()
    print(aligned(rows, right=(1, 2, 4, 6, 7)))


if __name__ == "__main__":
    main()
