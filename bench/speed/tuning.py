"""The original tool's search, its way and ours: seconds a trial over the same trials with the same results, in one run.

python bench/speed/tuning.py [MODEL_FOLDER [LAYERS]] [-- options of `calib8 calibrate` for the images]

MODEL_FOLDER holds deploy.prototxt and custom.caffemodel (default: examples/digits). Tunes LAYERS layers, spread over
the network (default 4), on 10 images. The original's way, for every trial: all layers are quantised anew, the four
files are written, and read back with the FP32 network that caffe.Net takes before int8_init, the INT8 network is built
and run over all images. The whole search is extrapolated: the trials of a whole search of ours, times the seconds that
a trial takes the original's way. Trials are judged at the layer's own top and, in a second round, at the outputs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calib8.analyze.candidates import original_targets
from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.analyze.judges import SquaredDifference, compared_values
from calib8.analyze.search import Accept, Trial, original_search
from calib8.analyze.trials import Trials
from calib8.analyze.units import units_of
from calib8.cli import main as cli
from calib8.cli.images import images_of
from calib8.data import takes
from calib8.engine import EngineOptions, Executor
from calib8.export import read_plan, write_calibration_files
from calib8.lowering import Model, build_model, lower_float
from calib8.lowering.integer import lower_int8
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.quantize import QuantPlan, make_plan, setup_of
from calib8.workflow import CalibrateOptions, calibrate, open_network

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
THREADS = 2
ENGINE = EngineOptions(THREADS, repack_weights=True)  # last bits as in our experiments
IMAGES = 10


class Original:
    """Answers trials the original's way, in a folder of its own."""

    def __init__(self, folder: Path, trials: Trials, *, at_layer: bool) -> None:
        self._folder, self._at_layer = folder, at_layer
        self._experiment = trials.experiment
        self._groups = {name: touched.group for name, touched in trials.touched.items()}
        self._thresholds = dict(trials.plan.thresholds)
        self._results = tempfile.TemporaryDirectory()
        self._references: dict[tuple[str, ...], list] = {}

    def accept(self, decided: Accept) -> None:
        ((group, threshold),) = decided.thresholds.items()
        self._thresholds = self._with(group, threshold)

    def losses(self, asked: Sequence[Trial]) -> list[float]:
        return [self._loss(trial) for trial in asked]

    def _with(self, group: str, threshold: float | None) -> dict[str, float]:
        changed = {} if threshold is None else dict.fromkeys(self._groups[group].members, threshold)
        return {**self._thresholds, **changed}

    def _loss(self, trial: Trial) -> float:
        model = read_model(self._folder, self._experiment.model)
        written = make_plan(model, self._with(trial.group, trial.threshold))
        weights, table, *_ = write_calibration_files(self._results.name, "bench", model, written)
        plan = read_plan(model, f"{table}.pb2", weights)
        stop = self._experiment.position(trial.target) + 1
        chosen = [n for u in units_of(model, plan, self._experiment.needed) if u.stop <= stop for n in u.layers]
        tops, outputs = model.net.layer_by_name[trial.target].tops, self._experiment.outputs
        names = tuple(dict.fromkeys((*tops, *outputs)))
        executor = Executor(lower_int8(model, setup_of(plan, chosen), names), names, ENGINE)
        judged = tops if self._at_layer else outputs
        judge = SquaredDifference(judged)
        if judged not in self._references:
            self._references[judged] = self._fp32(judged)
        parts = []
        for sample, reference in zip(self._experiment.samples, self._references[judged], strict=True):
            found = {}
            executor.run(sample, found.__setitem__)
            parts.append(judge.part(reference, found))
        return judge.loss(range(len(parts)), parts)

    def _fp32(self, names: tuple[str, ...]) -> list:
        executor = Executor(lower_float(self._experiment.model, names), names, ENGINE)
        found = [{} for _ in self._experiment.samples]
        for sample, values in zip(self._experiment.samples, found, strict=True):
            executor.run(sample, lambda name, array, own=values: own.__setitem__(name, array.copy()))
        return found


def read_model(folder: Path, like: Model) -> Model:
    """The network of a folder, its inputs in the shapes of another one."""
    prototxt = read_prototxt(folder / "deploy.prototxt")
    shapes = {like.net.blob_of[value]: like.shapes[value] for value in like.inputs}
    return build_model(prototxt, read_caffemodel(folder / "custom.caffemodel"), shapes)


def timed(answers: Trials | Original, targets: list, thresholds: dict[str, float]) -> tuple[list[float], float]:
    """All losses of a search, and its seconds."""
    losses, start = [], time.perf_counter()
    search = original_search(targets, thresholds)
    answer = None
    try:
        while True:
            event = search.send(answer)
            answer = None
            if isinstance(event, Accept):
                answers.accept(event)
            elif isinstance(event, tuple):
                answer = answers.losses(event)
                losses += answer
    except StopIteration:
        return losses, time.perf_counter() - start


def compare(folder: Path, experiment: Experiment, plan: QuantPlan, layers: int, *, at_layer: bool) -> None:
    thresholds = dict(plan.thresholds)

    def ours() -> Trials:
        return Trials(experiment, plan, SquaredDifference(experiment.outputs), range(IMAGES), at_layer=at_layer)

    trials = ours()
    targets = original_targets(trials)
    some = [targets[i] for i in np.linspace(0, len(targets) - 1, layers).astype(int)]
    mine, seconds = timed(trials, some, thresholds)
    theirs, their_seconds = timed(Original(folder, ours(), at_layer=at_layer), some, thresholds)
    whole, whole_seconds = timed(ours(), targets, thresholds)
    where = "the layer's own top" if at_layer else "the network's outputs"
    each, their_each = seconds / len(mine), their_seconds / len(theirs)
    print(f"judged at {where}: {len(mine)} trials of the layers {', '.join(name for name, _ in some)}")
    print(f"  the same results: {'yes, bit for bit' if mine == theirs else f'NO: {mine} {theirs}'}")
    print(f"  original's way  {their_each * 1e3:8.1f} ms a trial")
    print(f"  ours            {each * 1e3:8.1f} ms a trial   {their_each / each:.1f} times as fast")
    extrapolated = len(whole) * their_each
    print(f"  whole search, {len(targets)} layers, {len(whole)} trials: ours {whole_seconds:.1f} s, measured;")
    print(f"  original's way {extrapolated:.1f} s, extrapolated: {extrapolated / whole_seconds:.1f} times", flush=True)


def main() -> None:
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    extra = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    folder = Path(own[0]) if own else DIGITS
    options = cli.build_parser().parse_args(["calibrate", "bench", str(folder), *extra])
    network = open_network(folder / "deploy.prototxt", folder / "custom.caffemodel", images_of(options))
    calibration = calibrate(network, CalibrateOptions(iteration=IMAGES, method=options.method, threads=THREADS))
    model = network.of_one_sample
    assert model.shapes[model.inputs[0]][0] == 1, "the images of a batch depend on each other in this network"
    (value,) = model.inputs
    images = np.concatenate([batch[model.net.blob_of[value]] for batch in takes(network.samples, IMAGES)])
    samples = [{value: image[np.newaxis]} for image in images]
    experiment = Experiment(model, samples, compared_values(model), ExperimentOptions(threads=THREADS))
    plan = make_plan(model, calibration.thresholds)
    print(f"{folder.name}, {IMAGES} images, {THREADS} threads, thresholds by {options.method}")
    for at_layer in (True, False):
        compare(folder, experiment, plan, int(own[1]) if len(own) > 1 else 4, at_layer=at_layer)


if __name__ == "__main__":
    main()
