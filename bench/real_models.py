"""Public models with their own preprocessing and measure of quality, for benches that need real accuracy.

The folder of models has one folder each with deploy.prototxt and custom.caffemodel; the folder of images has
imagenet/calibration and imagenet/evaluation (256x256 photographs, labels.txt), cifar10_1200.npz, mnist/ (t10k files)
and coco64/ (photographs with YOLO label files). Nothing of them is part of this project.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calib8.analyze.yolo import decode

Array = np.ndarray
Outputs = list[dict[str, Array]]
CALIBRATION_IMAGES = 100
# VOC's classes in COCO's numbers.
_VOC_OF_COCO = {
    4: 0, 1: 1, 14: 2, 8: 3, 39: 4, 5: 5, 2: 6, 15: 7, 56: 8, 19: 9, 60: 10, 16: 11, 17: 12, 3: 13, 0: 14, 58: 15,
    18: 16, 57: 17, 6: 18, 62: 19,
}  # fmt: skip
_YOLO_ANCHORS = {
    "layer79-conv": ((26.0, 48.0), (67.0, 84.0), (72.0, 175.0)),
    "layer69-conv": ((189.0, 126.0), (137.0, 236.0), (265.0, 259.0)),
}


@dataclass(frozen=True)
class RealModel:
    """A model with its data.

    Attributes:
        calibration, evaluation: samples (1, C, H, W), float32.
        outputs: the blobs that quality is measured on.
        quality: a number between 0 and 1 from all outputs, and from the FP32 outputs where there are no labels.
        measure: what that number is.
    """

    name: str
    folder: Path
    calibration: Callable[[], Iterator[Array]]
    evaluation: Callable[[], Iterator[Array]]
    outputs: tuple[str, ...]
    quality: Callable[[Outputs, Outputs], float]
    measure: str


class Samples:
    """Arrays as a sample source of calib8."""

    def __init__(self, blob: str, samples: Callable[[], Iterator[Array]], size: int) -> None:
        self._samples, self._blob = samples, blob
        self.shapes: Mapping[str, tuple[int, ...]] = {blob: next(samples()).shape}
        self.size: int | None = size
        self.batch_size = 1
        self.notes: tuple[str, ...] = ()

    def batches(self) -> Iterator[dict[str, Array]]:
        """One sample a batch."""
        for sample in self._samples():
            yield {self._blob: sample}


def real_models(models: Path, images: Path) -> list[RealModel]:
    """Those of the known models that are there."""
    known = [_squeezenet, _cifar10, _lenet, _yolo, _face]
    found = [make(models, images) for make in known]
    return [model for model in found if model.folder.is_dir()]


def _bgr(path: Path, size: tuple[int, int], interpolation: int) -> Array:
    image = cv2.imread(str(path))
    height, width = size
    return image if image.shape[:2] == size else cv2.resize(image, (width, height), interpolation=interpolation)


def _sample(image: Array, mean: Any, scale: float) -> Array:
    """(1, C, H, W) from pixels (H, W, C)."""
    return np.ascontiguousarray(
        ((image.astype(np.float32) - np.float32(mean)) * np.float32(scale)).transpose(2, 0, 1)[None]
    )


def _photographs(folder: Path, prepare: Callable[[Path], Array]) -> Callable[[], Iterator[Array]]:
    paths = sorted(folder.glob("*.jpg"))
    return lambda: (prepare(path) for path in paths)


def _top1(labels: Callable[[], Array], blob: str) -> Callable[[Outputs, Outputs], float]:
    return lambda outputs, _: float(np.mean([o[blob].argmax() for o in outputs] == labels()))


def _squeezenet(models: Path, images: Path) -> RealModel:
    def prepare(path: Path) -> Array:
        return _sample(_bgr(path, (256, 256), cv2.INTER_LINEAR)[14:241, 14:241], (104, 117, 123), 1)

    def labels() -> Array:
        lines = (images / "imagenet" / "evaluation" / "labels.txt").read_text().splitlines()
        return np.array([int(label) for _, label in sorted(line.split()[:2] for line in lines)])

    folder = images / "imagenet"
    return RealModel(
        "squeezenet_v1.1", models / "squeezenet_v1.1", _photographs(folder / "calibration", prepare),
        _photographs(folder / "evaluation", prepare), ("prob",), _top1(labels, "prob"), "top-1",
    )  # fmt: skip


def _cifar10(models: Path, images: Path) -> RealModel:
    def samples(first: int, last: int) -> Iterator[Array]:
        with np.load(images / "cifar10_1200.npz") as file:
            rgb = file["rgb"]
        for index in range(first, last):
            yield _sample(rgb[index].transpose(1, 2, 0), (125.3, 122.9, 113.8), 0.00390625)

    def labels() -> Array:
        with np.load(images / "cifar10_1200.npz") as file:
            return file["label"][CALIBRATION_IMAGES:]

    return RealModel(
        "cifar10_resnet20", models / "cifar10_resnet20", lambda: samples(0, CALIBRATION_IMAGES),
        lambda: samples(CALIBRATION_IMAGES, 1200), ("prob",), _top1(labels, "prob"), "top-1",
    )  # fmt: skip


def _lenet(models: Path, images: Path) -> RealModel:
    def read(name: str, header: int) -> Array:
        return np.frombuffer(gzip.decompress((images / "mnist" / name).read_bytes()), np.uint8, offset=header)

    def samples(first: int, last: int) -> Iterator[Array]:
        digits = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
        for index in range(first, last):
            yield _sample(digits[index], 0, 1 / 256)

    def labels() -> Array:
        return read("t10k-labels-idx1-ubyte.gz", 8)[CALIBRATION_IMAGES:]

    return RealModel(
        "lenet_mnist", models / "lenet_mnist", lambda: samples(0, CALIBRATION_IMAGES),
        lambda: samples(CALIBRATION_IMAGES, 10_000), ("prob",), _top1(labels, "prob"), "top-1",
    )  # fmt: skip


def _yolo(models: Path, images: Path) -> RealModel:
    def prepare(path: Path) -> Array:
        return _sample(_bgr(path, (320, 320), cv2.INTER_AREA)[:, :, ::-1], 0, 1 / 256)

    def quality(outputs: Outputs, _: Outputs) -> float:
        truth = [_truth(path.with_suffix(".txt")) for path in sorted((images / "coco64").glob("*.jpg"))]
        return mean_average_precision([yolo_detections(o) for o in outputs], truth)

    return RealModel(
        "mobilenetv2_yolov3_nano_voc", models / "mobilenetv2_yolov3_nano_voc",
        _photographs(images / "imagenet" / "calibration", prepare), _photographs(images / "coco64", prepare),
        tuple(_YOLO_ANCHORS), quality, "mAP50",
    )  # fmt: skip


def _face(models: Path, images: Path) -> RealModel:
    def prepare(path: Path) -> Array:
        return _sample(_bgr(path, (300, 300), cv2.INTER_LINEAR), (104, 177, 123), 1)

    return RealModel(
        "res10_ssd_face", models / "res10_ssd_face", _photographs(images / "imagenet" / "calibration", prepare),
        _photographs(images / "coco64", prepare), ("detection_out",), _matching_faces, "F1 to FP32",
    )  # fmt: skip


def _truth(path: Path) -> Array:
    """Rows class, x0, y0, x1, y1 of the classes that VOC has."""
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    boxes = [
        (_VOC_OF_COCO[int(c)], *_corners(float(x), float(y), float(w), float(h)))
        for c, x, y, w, h in rows
        if int(c) in _VOC_OF_COCO
    ]
    return np.array(boxes, np.float64).reshape(-1, 5)


def _corners(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def yolo_detections(outputs: Mapping[str, Array], least: float = 0.005, overlap: float = 0.45) -> Array:
    """Rows class, score, x0, y0, x1, y1 after non-maximum suppression for each class."""
    parts = []
    for name, anchors in _YOLO_ANCHORS.items():
        found = decode(outputs[name], anchors, (320, 320))
        boxes, scores = found.boxes.reshape(-1, 4), found.scores.reshape(-1, found.scores.shape[-1])
        index, kind = np.nonzero(scores > least)
        centre, size = boxes[index, :2], boxes[index, 2:]
        parts.append(np.column_stack([kind, scores[index, kind], centre - size / 2, centre + size / 2]))
    rows = np.concatenate(parts)
    kept = [_suppressed(rows[rows[:, 0] == kind], overlap) for kind in np.unique(rows[:, 0])]
    return np.concatenate(kept) if kept else np.empty((0, 6))


def _suppressed(rows: Array, overlap: float) -> Array:
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    kept: list[Array] = []
    while len(rows):
        kept.append(rows[0])
        rows = rows[1:][overlaps(rows[0, 2:], rows[1:, 2:]) <= overlap]
    return np.array(kept)


def overlaps(box: Array, boxes: Array) -> Array:
    """Intersection over union of one box and others; x0, y0, x1, y1."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inner = np.prod(np.clip(high - low, 0, None), axis=1)
    return inner / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - inner + 1e-12)


def mean_average_precision(detections: list[Array], truth: list[Array], overlap: float = 0.5) -> float:
    """The mean over classes of the average precision, sampled at 101 recalls."""
    classes = np.unique(np.concatenate([t[:, 0] for t in truth]))
    return float(np.mean([_average_precision(int(c), detections, truth, overlap) for c in classes]))


def _average_precision(kind: int, detections: list[Array], truth: list[Array], overlap: float) -> float:
    wanted = [t[t[:, 0] == kind, 1:] for t in truth]
    found = [(row[1], image, row[2:]) for image, rows in enumerate(detections) for row in rows[rows[:, 0] == kind]]
    taken = [np.zeros(len(t), bool) for t in wanted]
    hits = []
    for _, image, box in sorted(found, key=lambda item: -item[0]):
        shared = overlaps(box, wanted[image]) if len(wanted[image]) else np.zeros(0)
        best = int(shared.argmax()) if len(shared) else -1
        hit = best >= 0 and shared[best] >= overlap and not taken[image][best]
        if hit:
            taken[image][best] = True
        hits.append(hit)
    right = np.cumsum(hits)
    recall = right / max(sum(len(t) for t in wanted), 1)
    precision = right / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]))


def _matching_faces(outputs: Outputs, reference: Outputs, least: float = 0.5, overlap: float = 0.5) -> float:
    """F1 of detections with a score over 0.5, against those of FP32."""
    both = found = wanted = 0
    for ours, theirs in zip(outputs, reference, strict=True):
        a, b = (_faces(o["detection_out"], least) for o in (ours, theirs))
        free = np.ones(len(b), bool)
        for box in a:
            shared = np.where(free, overlaps(box, b), 0) if len(b) else np.zeros(0)
            if len(shared) and shared.max() >= overlap:
                free[shared.argmax()] = False
                both += 1
        found, wanted = found + len(a), wanted + len(b)
    return 2 * both / max(found + wanted, 1)


def _faces(rows: Array, least: float) -> Array:
    rows = rows.reshape(-1, 7)
    return rows[rows[:, 2] > least, 3:]
