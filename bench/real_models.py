"""Public networks with their own preprocessing, samples and measure of quality, for benches that need real accuracy.

    network = find("squeezenet_v1.1", models, images)
    network.model                          # for one sample
    network.calibration(draw=1, count=100) # a draw of unlabelled samples; three draws are there
    network.evaluation                     # samples that no draw has

MODELS has a folder for each network (deploy.prototxt, custom.caffemodel). IMAGES has imagenet/calibration and
imagenet/evaluation (256x256 photographs, labels.txt), cifar10_1200.npz, mnist/ (t10k files) and coco64/ (photographs
with YOLO label files). Nothing of them is part of this project; `evaluation.py` measures, `accuracy.py` prints.

Calibration and evaluation never share an image. Where a method chooses between candidates, it holds back a part of its
calibration samples for that. Pools of calibration images: photographs that the network is not evaluated on.
"""

from __future__ import annotations

import functools
import gzip
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from boxes import (
    RETINAFACE_OUTPUTS,
    YOLO_ANCHORS,
    f1,
    mean_average_precision,
    retinaface_detections,
    ssd_detections,
    ultraface_detections,
    yolo_detections,
)
from figures import Figure, ratio

from calib8.engine import EngineOptions, Executor
from calib8.lowering import Model, build_model, lower_float
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt

Array = np.ndarray
Outputs = Mapping[str, Array]
DRAWS = 3
CALIBRATION_IMAGES = 100


class Samples(Sequence[Array]):
    """Arrays (1, C, H, W), float32, each made when it is asked for."""

    def __init__(self, items: Sequence[Any], prepare: Callable[[Any], Array]) -> None:
        self.items, self._prepare = items, prepare

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Samples(self.items[index], self._prepare)
        return self._prepare(self.items[index])

    def chosen(self, indices: Sequence[int]) -> Samples:
        """Some of them, in this order."""
        return Samples([self.items[i] for i in indices], self._prepare)


class Task:
    """What a network is for: what counts of its outputs, and how good it is."""

    outputs: tuple[str, ...]
    measure: str
    agreement: str
    centred = False
    """Whether each output's mean is taken off before signal and noise are measured: a Softmax does not see it."""

    def seen(self, outputs: Outputs) -> Any:
        """All that is kept of one sample."""
        raise NotImplementedError

    def quality(self, seen: Sequence[Any], reference: Sequence[Any]) -> Figure:
        """Against labels where there are any, else against FP32."""
        raise NotImplementedError

    def agrees(self, seen: Sequence[Any], reference: Sequence[Any]) -> Figure:
        """Against FP32."""
        raise NotImplementedError


class Classes(Task):
    """One class for each sample: that of the largest probability. Of equals, which INT8 often has, the first one is
    taken, as numpy's and Caffe's ArgMax do; `ties` counts them.
    """

    measure, agreement, centred = "top-1", "same class", True

    def __init__(self, output: str, labels: Callable[[], Array]) -> None:
        self.outputs, self._labels = (output,), functools.cache(labels)

    def seen(self, outputs: Outputs) -> tuple[int, int]:
        values = outputs[self.outputs[0]].reshape(-1)
        return int(values.argmax()), int((values == values.max()).sum())

    def quality(self, seen: Sequence[Any], reference: Sequence[Any]) -> Figure:
        return ratio(np.array([s[0] for s in seen]) == self._labels())

    def agrees(self, seen: Sequence[Any], reference: Sequence[Any]) -> Figure:
        return ratio([s[0] == r[0] for s, r in zip(seen, reference, strict=True)])

    @staticmethod
    def ties(seen: Sequence[Any]) -> int:
        """Samples with more than one largest value."""
        return sum(s[1] > 1 for s in seen)


class Boxes(Task):
    """Detections, against labels or against those of FP32 with a score above `least`."""

    agreement = "F1 to FP32"

    def __init__(
        self, outputs: tuple[str, ...], decode: Callable[[Outputs], Array], least: float,
        truth: Callable[[], list[Array]] | None = None,
    ) -> None:  # fmt: skip
        self.outputs, self.seen, self._least = outputs, decode, least  # type: ignore[method-assign]
        self._truth = None if truth is None else functools.cache(truth)
        self.measure = self.agreement if truth is None else "mAP50"

    def quality(self, seen: Sequence[Any], reference: Sequence[Any]) -> Figure:
        if self._truth is None:
            return self.agrees(seen, reference)
        return mean_average_precision(seen, self._truth())

    def agrees(self, seen: Sequence[Any], reference: Sequence[Any]) -> Figure:
        return f1(seen, reference, self._least)


class FaceOrNot(Task):
    """A crop is a face when its score is above `least`: F1 of these crops against FP32's."""

    measure = agreement = "F1 to FP32"

    def __init__(self, output: str, least: float) -> None:
        self.outputs, self._least = (output,), least

    def seen(self, outputs: Outputs) -> bool:
        return bool(outputs[self.outputs[0]].reshape(-1)[1] > self._least)

    def quality(self, seen: Sequence[Any], reference: Sequence[Any]) -> Figure:
        return self.agrees(seen, reference)

    def agrees(self, seen: Sequence[Any], reference: Sequence[Any]) -> Figure:
        a, b = np.array(seen, int), np.array(reference, int)
        return ratio(2 * (a & b), a + b)


@dataclass(frozen=True)
class Network:
    """A network with its samples.

    Attributes:
        blob: the input, of one sample's shape.
        pool: unlabelled samples to calibrate with.
        evaluation: samples that are not in the pool.
    """

    name: str
    folder: Path
    blob: str
    shape: tuple[int, ...]
    pool: Samples
    evaluation: Samples
    task: Task = field(repr=False)

    @functools.cached_property
    def model(self) -> Model:
        """In FP32, for one sample."""
        weights = read_caffemodel(self.folder / "custom.caffemodel")
        return build_model(read_prototxt(self.folder / "deploy.prototxt"), weights, {self.blob: self.shape})

    def calibration(self, draw: int = 0, count: int = CALIBRATION_IMAGES) -> Samples:
        """The first `count` samples of the pool for draw 0; for the others disjoint ones if there are enough, else
        random ones.
        """
        if not 0 <= draw < DRAWS or count > len(self.pool):
            raise ValueError(f"{self.name}: draws 0 to {DRAWS - 1} of up to {len(self.pool)} samples")
        if draw == 0 or (draw + 1) * count <= len(self.pool):
            return self.pool[draw * count : (draw + 1) * count]
        return self.pool.chosen(np.random.default_rng(draw).permutation(len(self.pool))[:count].tolist())

    def source(self, samples: Sequence[Array]) -> Source:
        """Samples as `Calibration` takes them."""
        return Source(self.blob, samples)


class Source:
    """Arrays as a sample source of calib8."""

    def __init__(self, blob: str, samples: Sequence[Array]) -> None:
        self._samples, self._blob = samples, blob
        self.shapes: Mapping[str, tuple[int, ...]] = {blob: samples[0].shape}
        self.size: int | None = len(samples)
        self.batch_size = 1
        self.notes: tuple[str, ...] = ()

    def batches(self) -> Iterator[dict[str, Array]]:
        """One sample a batch."""
        for sample in self._samples:
            yield {self._blob: sample}


def find(name: str, models: Path, images: Path) -> Network:
    """The network of that name."""
    return _NETWORKS[name](models / name, images)


def real_models(models: Path, images: Path) -> list[Network]:
    """Those of the known networks that are there."""
    return [find(name, models, images) for name in _NETWORKS if (models / name).is_dir()]


def _bgr(path: Path, size: tuple[int, int], interpolation: int) -> Array:
    image = cv2.imread(str(path))
    height, width = size
    return image if image.shape[:2] == size else cv2.resize(image, (width, height), interpolation=interpolation)


def _sample(image: Array, mean: Any, scale: float) -> Array:
    """(1, C, H, W) from pixels (H, W, C)."""
    pixels = (image.astype(np.float32) - np.float32(mean)) * np.float32(scale)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _photographs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"))


def _imagenet(images: Path) -> list[Path]:
    return [path for part in ("calibration", "evaluation") for path in _photographs(images / "imagenet" / part)]


def _squeezenet(folder: Path, images: Path) -> Network:
    def prepare(path: Path) -> Array:
        return _sample(_bgr(path, (256, 256), cv2.INTER_LINEAR)[14:241, 14:241], (104, 117, 123), 1)

    def labels() -> Array:
        lines = (images / "imagenet" / "evaluation" / "labels.txt").read_text().splitlines()
        return np.array([int(label) for _, label in sorted(line.split()[:2] for line in lines if line.strip())])

    pool = [*_photographs(images / "imagenet" / "calibration"), *_photographs(images / "coco64")]
    evaluation = _photographs(images / "imagenet" / "evaluation")
    return Network(
        folder.name, folder, "data", (1, 3, 227, 227), Samples(pool, prepare), Samples(evaluation, prepare),
        Classes("prob", labels),
    )  # fmt: skip


_CIFAR_POOL = MNIST_POOL = 300


def _cifar10(folder: Path, images: Path) -> Network:
    @functools.cache
    def data() -> tuple[Array, Array]:
        with np.load(images / "cifar10_1200.npz") as file:
            return file["rgb"].transpose(0, 2, 3, 1), file["label"]

    def prepare(index: int) -> Array:
        return _sample(data()[0][index], (125.3, 122.9, 113.8), 0.00390625)

    return Network(
        folder.name, folder, "data", (1, 3, 32, 32), Samples(range(_CIFAR_POOL), prepare),
        Samples(range(_CIFAR_POOL, 1200), prepare), Classes("prob", lambda: data()[1][_CIFAR_POOL:]),
    )  # fmt: skip


def _lenet(folder: Path, images: Path) -> Network:
    @functools.cache
    def read(name: str, header: int) -> Array:
        return np.frombuffer(gzip.decompress((images / "mnist" / name).read_bytes()), np.uint8, offset=header)

    def prepare(index: int) -> Array:
        return _sample(read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)[index], 0, 1 / 256)

    def labels() -> Array:
        return read("t10k-labels-idx1-ubyte.gz", 8)[MNIST_POOL:]

    return Network(
        folder.name, folder, "data", (1, 1, 28, 28), Samples(range(MNIST_POOL), prepare),
        Samples(range(MNIST_POOL, 10_000), prepare), Classes("prob", labels),
    )  # fmt: skip


def _yolo(folder: Path, images: Path) -> Network:
    def prepare(path: Path) -> Array:
        return _sample(_bgr(path, (320, 320), cv2.INTER_AREA)[:, :, ::-1], 0, 1 / 256)

    truth = lambda: [_truth(path.with_suffix(".txt")) for path in _photographs(images / "coco64")]  # noqa: E731
    return _detector(
        folder, images, (1, 3, 320, 320), prepare, Boxes(tuple(YOLO_ANCHORS), yolo_detections, 0.25, truth)
    )


def _ssd(folder: Path, images: Path) -> Network:
    def prepare(path: Path) -> Array:
        return _sample(_bgr(path, (300, 300), cv2.INTER_LINEAR), (104, 177, 123), 1)

    return _detector(folder, images, (1, 3, 300, 300), prepare, Boxes(("detection_out",), ssd_detections, 0.5))


def _retinaface(folder: Path, images: Path) -> Network:
    def prepare(path: Path) -> Array:
        return _sample(_bgr(path, (640, 640), cv2.INTER_LINEAR)[:, :, ::-1], 0, 1)

    return _detector(folder, images, (1, 3, 640, 640), prepare, Boxes(RETINAFACE_OUTPUTS, retinaface_detections, 0.5))


def _ultraface(folder: Path, images: Path) -> Network:
    def prepare(path: Path) -> Array:
        return _sample(_bgr(path, (240, 320), cv2.INTER_LINEAR)[:, :, ::-1], 127, 1 / 128)

    task = Boxes(("scores", "boxes"), ultraface_detections, 0.5)
    return _detector(folder, images, (1, 3, 240, 320), prepare, task, "input")


def _detector(
    folder: Path, images: Path, shape: tuple[int, ...], prepare: Callable[[Path], Array], task: Task, blob: str = "data"
) -> Network:
    pool, evaluation = Samples(_imagenet(images), prepare), Samples(_photographs(images / "coco64"), prepare)
    return Network(folder.name, folder, blob, shape, pool, evaluation, task)


def _mtcnn(folder: Path, images: Path) -> Network:
    """Its samples are what a stage before it proposes: squares of photographs, half of them those that look most like
    a face to the network itself, the others as they come.
    """
    crops = _Crops(folder)
    return Network(
        folder.name, folder, "data", (1, 3, 24, 24), Samples(_Squares(crops, _imagenet(images), 2), _as_is),
        Samples(_Squares(crops, _photographs(images / "coco64"), 16), _as_is), FaceOrNot("prob1", 0.6),
    )  # fmt: skip


def _as_is(sample: Array) -> Array:
    return sample


class _Squares(Sequence[Array]):
    """Squares of photographs, so many of each, cut when they are first asked for."""

    def __init__(self, crops: _Crops, photographs: Sequence[Path], each: int) -> None:
        self._crops, self._photographs, self._each = crops, photographs, each

    def __len__(self) -> int:
        return len(self._photographs) * self._each

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._crops.of(self._photographs[index // self._each], self._each)[index % self._each]


class _Crops:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._of_one = functools.cache(self._of)
        self._lock = threading.Lock()  # samples are asked for by several threads, and the executor is one

    def of(self, path: Path, count: int) -> list[Array]:
        with self._lock:
            return self._of_one(path, count)

    def _of(self, path: Path, count: int) -> list[Array]:
        image, random = cv2.imread(str(path))[:, :, ::-1], np.random.default_rng(zlib.crc32(path.name.encode()))
        squares = [_square(image, random) for _ in range(8 * count)]
        best = np.argsort([-self._score(square) for square in squares], kind="stable")[: count // 2]
        return [squares[i] for i in best] + squares[: count - len(best)]

    def _score(self, square: Array) -> float:
        found: dict[str, float] = {}
        self._executor.run({"data": square}, lambda name, array: found.__setitem__(name, float(array.reshape(-1)[1])))
        return found["prob1"]

    @functools.cached_property
    def _executor(self) -> Executor:
        prototxt = read_prototxt(self._folder / "deploy.prototxt")
        model = build_model(prototxt, read_caffemodel(self._folder / "custom.caffemodel"))
        return Executor(lower_float(model, ("prob1",)), ("prob1",), EngineOptions(threads=1))


def _square(image: Array, random: np.random.Generator) -> Array:
    side = int(np.exp(random.uniform(np.log(24), np.log(min(image.shape[:2])))))
    top, left = (int(random.integers(0, whole - side + 1)) for whole in image.shape[:2])
    cut = cv2.resize(image[top : top + side, left : left + side], (24, 24), interpolation=cv2.INTER_AREA)
    return _sample(cut, 127.5, 1 / 128)


# VOC's classes in COCO's numbers.
_VOC_OF_COCO = {
    4: 0, 1: 1, 14: 2, 8: 3, 39: 4, 5: 5, 2: 6, 15: 7, 56: 8, 19: 9, 60: 10, 16: 11, 17: 12, 3: 13, 0: 14, 58: 15,
    18: 16, 57: 17, 6: 18, 62: 19,
}  # fmt: skip


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


_NETWORKS: dict[str, Callable[[Path, Path], Network]] = {
    "squeezenet_v1.1": _squeezenet,
    "cifar10_resnet20": _cifar10,
    "mobilenetv2_yolov3_nano_voc": _yolo,
    "res10_ssd_face": _ssd,
    "retinaface_mnet25": _retinaface,
    "ultraface_rfb320": _ultraface,
    "mtcnn_det2": _mtcnn,
    "lenet_mnist": _lenet,
}
