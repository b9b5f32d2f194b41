"""Accuracy before and after `calib8 tune`, on images that neither calibration nor tuning has seen, over several seeds.

python bench/accuracy_after_tuning.py MODELS IMAGES [--network NAME]... [--method METHOD]... [--seeds N]

MODELS holds a folder each for squeezenet_v1.1, cifar10_resnet20 and mobilenetv2_yolov3_nano_voc (deploy.prototxt,
custom.caffemodel). IMAGES holds imagenet/calibration, imagenet/evaluation with labels.txt, cifar10_1200.npz (rgb,
label) and coco64 (photographs with YOLO boxes beside them). A seed draws 10 images to tune on and up to 30 to hold out
from those that are not evaluated. Calibration takes all of them, as a user would. mAP is at IoU 0.5, 101-point AP, over
the VOC classes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from calib8.analyze.candidates import candidates_of, method_thresholds
from calib8.analyze.experiment import Experiment
from calib8.analyze.judges import compared_values, score_difference
from calib8.analyze.search import SearchOptions, candidate_search
from calib8.analyze.trials import Trials
from calib8.analyze.tuning import run_search
from calib8.analyze.units import setup_of
from calib8.calibrate.collect import CollectOptions, collect_histograms
from calib8.calibrate.thresholds import find_threshold
from calib8.data import ImagesSource, Preprocess
from calib8.errors import QuantizationError
from calib8.lowering import Model, build_model
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.quantize import QuantPlan, make_plan, observed_values

TUNED, HELD_OUT = 10, 30


@dataclass
class Case:
    """A network with its images: those to calibrate and tune on, those to evaluate, and what accuracy means."""

    model: Model
    output: tuple[str, ...]
    known: np.ndarray
    unseen: np.ndarray
    accuracy: Callable[[list[dict[str, np.ndarray]]], float]


def read_network(folder: Path, shape: tuple[int, ...]) -> Model:
    return build_model(
        read_prototxt(folder / "deploy.prototxt"), read_caffemodel(folder / "custom.caffemodel"), {"data": shape}
    )


def images_of(listing: Path, size: int, preprocess: Preprocess) -> tuple[np.ndarray, list[str]]:
    source = ImagesSource(listing, "data", (1, 3, size, size), preprocess)
    return np.concatenate([batch["data"] for batch in source.batches()]), list(source.names)


def top1(output: str, labels: np.ndarray) -> Callable[[list[dict[str, np.ndarray]]], float]:
    return lambda found: float(
        np.mean([o[output].reshape(-1).argmax() == y for o, y in zip(found, labels, strict=True)])
    )


def squeezenet(models: Path, images: Path) -> Case:
    model = read_network(models / "squeezenet_v1.1", (1, 3, 227, 227))
    preprocess = Preprocess(resize="crop", short_side=256, mean=(104.0, 117.0, 123.0))
    known, _ = images_of(images / "imagenet" / "calibration", 227, preprocess)
    unseen, names = images_of(images / "imagenet" / "evaluation", 227, preprocess)
    lines = (images / "imagenet" / "evaluation" / "labels.txt").read_text().splitlines()
    label_of = {line.split()[0]: int(line.split()[1]) for line in lines if line.strip()}
    return Case(model, ("prob",), known, unseen, top1("prob", np.array([label_of[n] for n in names])))


def resnet(models: Path, images: Path) -> Case:
    model = read_network(models / "cifar10_resnet20", (1, 3, 32, 32))
    data = np.load(images / "cifar10_1200.npz")
    mean = np.array([125.3, 122.9, 113.8], np.float32)[:, None, None]
    pixels = (data["rgb"].astype(np.float32) - mean) * np.float32(0.00390625)
    return Case(model, model.net.outputs, pixels[:100], pixels[100:], top1(model.net.outputs[0], data["label"][100:]))


VOC_OF_COCO = {
    4: 0, 1: 1, 14: 2, 8: 3, 39: 4, 5: 5, 2: 6, 15: 7, 56: 8, 19: 9,
    60: 10, 16: 11, 17: 12, 3: 13, 0: 14, 58: 15, 18: 16, 57: 17, 6: 18, 62: 19,
}  # fmt: skip
"""VOC's classes in alphabetical order, by COCO's numbers."""
ANCHORS = {
    "layer79-conv": ((26, 48), (67, 84), (72, 175)),
    "layer69-conv": ((189, 126), (137, 236), (265, 259)),
}
YOLO_SIZE = 320


def yolo(models: Path, images: Path) -> Case:
    model = read_network(models / "mobilenetv2_yolov3_nano_voc", (1, 3, YOLO_SIZE, YOLO_SIZE))
    paths = sorted((images / "coco64").glob("*.jpg"))
    pixels = np.stack([yolo_input(path) for path in paths])
    truth = [boxes_of(path.with_suffix(".txt")) for path in paths]
    return Case(
        model,
        tuple(ANCHORS),
        pixels[:24],
        pixels[24:],
        lambda found: mean_average_precision(found, truth[24:]),
    )


def yolo_input(path: Path) -> np.ndarray:
    image = cv2.resize(cv2.imread(str(path)), (YOLO_SIZE, YOLO_SIZE), interpolation=cv2.INTER_AREA)
    return image[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 256


def boxes_of(path: Path) -> np.ndarray:
    """Rows of VOC class, xmin, ymin, xmax, ymax, relative to the image."""
    rows = [list(map(float, line.split())) for line in path.read_text().splitlines()] if path.exists() else []
    kept = [
        (VOC_OF_COCO[int(c)], x - w / 2, y - h / 2, x + w / 2, y + h / 2) for c, x, y, w, h in rows if c in VOC_OF_COCO
    ]
    return np.array(kept).reshape(-1, 5)


def detections(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of class, score, xmin, ymin, xmax, ymax."""
    found = []
    for name, anchors in ANCHORS.items():
        _, _, height, width = outputs[name].shape
        maps = outputs[name].astype(np.float64).reshape(len(anchors), 25, height, width).transpose(0, 2, 3, 1)
        cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        centres = (cells + sigmoid(maps[..., :2])) / (width, height)
        sizes = np.exp(maps[..., 2:4]) * np.array(anchors)[:, None, None] / YOLO_SIZE
        scores = sigmoid(maps[..., 4:5]) * sigmoid(maps[..., 5:])
        boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1)
        for index in np.argwhere(scores > 0.005):
            found.append((index[-1], scores[tuple(index)], *boxes[tuple(index[:-1])]))
    rows = np.array(found).reshape(-1, 6)
    kept = [suppressed(rows[rows[:, 0] == label]) for label in np.unique(rows[:, 0])]
    return np.concatenate([rows[:0], *kept])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    return common / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common)


def suppressed(rows: np.ndarray) -> np.ndarray:
    rows, kept = rows[np.argsort(-rows[:, 1], kind="stable")], []
    while len(rows):
        kept.append(rows[0])
        rows = rows[1:][overlaps(rows[0, 2:], rows[1:, 2:]) < 0.45]
    return np.array(kept)


def mean_average_precision(found: list[dict[str, np.ndarray]], truth: list[np.ndarray]) -> float:
    rows = [detections(outputs) for outputs in found]
    classes = sorted({int(label) for boxes in truth for label in boxes[:, 0]})
    return float(np.mean([average_precision(rows, truth, label) for label in classes]))


def average_precision(rows: list[np.ndarray], truth: list[np.ndarray], label: int) -> float:
    scored = [(row[1], image, row[2:]) for image, own in enumerate(rows) for row in own[own[:, 0] == label]]
    boxes = [own[own[:, 0] == label, 1:] for own in truth]
    taken = [np.zeros(len(own), bool) for own in boxes]
    hits = []
    for _, image, box in sorted(scored, key=lambda one: -one[0]):
        ratios = overlaps(box, boxes[image]) if len(boxes[image]) else np.zeros(0)
        best = int(ratios.argmax()) if len(ratios) else -1
        hit = best >= 0 and ratios[best] >= 0.5 and not taken[image][best]
        hits.append(hit)
        if hit:
            taken[image][best] = True
    right = np.cumsum(hits) if hits else np.zeros(0)
    recall = right / sum(map(len, boxes))
    precision = right / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= level].max(initial=0) for level in np.linspace(0, 1, 101)]))


CASES = {"squeezenet_v1.1": squeezenet, "cifar10_resnet20": resnet, "mobilenetv2_yolov3_nano_voc": yolo}


def evaluated(case: Case, plan: QuantPlan | None) -> tuple[float, float]:
    """Accuracy over the unseen images, and the signal to noise ratio against FP32 in dB."""
    compared = compared_values(case.model, before_softmax=True)
    samples = [{case.model.inputs[0]: image[None]} for image in case.unseen]
    experiment = Experiment(case.model, samples, tuple(dict.fromkeys((*case.output, *compared))))
    found = experiment.references
    if plan is not None:
        variant = experiment.variant(setup_of(plan))
        run = lambda lane, i: {n: a.copy() for n, a in lane.run(i, variant, experiment.outputs).items()}  # noqa: E731
        found = experiment.each(run, range(len(samples)))
    noise = sum(((a[n] - b[n]) ** 2).sum() for a, b in zip(experiment.references, found, strict=True) for n in compared)
    signal = sum((a[n] ** 2).sum() for a in experiment.references for n in compared)
    return case.accuracy(found), 10 * float(np.log10(signal / noise)) if noise else np.inf


def tuned(case: Case, method: str, seed: int) -> tuple[QuantPlan, QuantPlan, str]:
    """The plan before and after, and what the search says."""
    value = case.model.inputs[0]
    chosen = np.random.default_rng(seed).permutation(len(case.known))[: TUNED + HELD_OUT]
    observed = observed_values(case.model)
    batches = lambda: iter([{"data": case.known}])  # noqa: E731
    histograms = collect_histograms(case.model, batches, observed, CollectOptions())
    dead = [v for v, h in histograms.items() if h.dead]
    plan = make_plan(case.model, {v: find_threshold(h, method) for v, h in histograms.items()}, dead=dead)
    judge = score_difference(case.model)
    samples = [{value: case.known[i][None]} for i in chosen]
    experiment = Experiment(case.model, samples, judge.values)
    trials = Trials(experiment, plan, judge, range(TUNED), range(TUNED, len(chosen)))
    methods = method_thresholds(trials, histograms)
    search = candidate_search(candidates_of(methods), trials.thresholds, SearchOptions(), methods)
    start = time.perf_counter()
    found = run_search(search, trials)
    seconds = time.perf_counter() - start
    change = [
        b / a - 1 for a, b in ((found.before.tuned, found.after.tuned), (found.before.held_out, found.after.held_out))
    ]
    said = f"{found.trials} trials, {seconds:.0f} s, difference {change[0]:+.0%} tuned, {change[1]:+.0%} held out"
    return plan, found.plan, said


def report(case: Case, method: str, seeds: int) -> None:
    gains, ratios, before = [], [], None
    for seed in range(seeds):
        try:
            start, end, said = tuned(case, method, seed)
        except QuantizationError as why:
            print(f"  {method}: cannot be expressed: {why.problems[0]}")
            return
        if before is None:
            before = evaluated(case, start)
            print(f"  {method}: before {before[0]:.4f}, {before[1]:.1f} dB", flush=True)
        after = evaluated(case, end)
        gains.append(100 * (after[0] - before[0]))
        ratios.append(after[1] - before[1])
        print(f"    seed {seed}: after {after[0]:.4f} ({gains[-1]:+.2f} points), {after[1]:.1f} dB; {said}", flush=True)
    spread = (
        f"{np.mean(gains):+.2f} points, {min(gains):+.2f} to {max(gains):+.2f}, standard deviation {np.std(gains):.2f}"
    )
    print(f"    {spread}; {np.mean(ratios):+.1f} dB, {min(ratios):+.1f} to {max(ratios):+.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--network", action="append", choices=CASES)
    parser.add_argument("--method", action="append")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for name in options.network or CASES:
        case = CASES[name](options.models, options.images)
        print(f"{name}: FP32 {evaluated(case, None)[0]:.4f} on {len(case.unseen)} unseen images", flush=True)
        for method in options.method or ("kl", "mse"):
            report(case, method, options.seeds)


if __name__ == "__main__":
    main()
