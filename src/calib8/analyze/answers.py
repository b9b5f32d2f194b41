"""What an output of a network says: classes, boxes, a map of classes, a picture, or just numbers.

Nobody declares it, so it is told from the layer that writes the output and from its shape:

- `Classes`: scores (N, C) of a Softmax, or the only output of a network with that shape
- `Boxes`: rows (image, class, score, x0, y0, x1, y1) of a DetectionOutput, or the maps of a YOLO network, decoded
- `ClassMap`: scores (N, C, H, W) of a Softmax or with many channels, or an ArgMax's classes (N, 1, H, W)
- `Picture`: (N, 1 or 3, H, W), at least half as large as the input
- `Numbers`: everything else
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calib8.analyze.yolo import YOLOV3_ANCHORS, Anchors, decode
from calib8.graph import Array, Shape
from calib8.layer_kit.yolo_map import are_maps
from calib8.layers.arg_max import ArgMax
from calib8.layers.detection_output import DetectionOutput
from calib8.layers.softmax import Softmax
from calib8.lowering import Model

Outputs = Mapping[str, Array]
_FEW_CLASSES = 5
"""Fewer numbers without a Softmax may be anything: the corners of a box, an angle."""
_MOST_CLASSES_OF_A_MAP = 512
_YOLO_LEAST, _YOLO_OVERLAP = 0.005, 0.45
SHOWN_SCORE = 0.3
"""Boxes below this score are no answers: detectors give hundreds of them."""
_KNOWN_SCORE = 0.2
MATCHED = 0.5
"""Boxes of one class match if they overlap by this (intersection over union)."""


@dataclass(frozen=True)
class Detection:
    """A box: class, score, and corners as parts of the image's width and height."""

    label: int
    score: float
    box: tuple[float, float, float, float]


class Answer(ABC):
    """What one or several outputs say.

    Attributes:
        kind: "classes", "boxes", "map", "picture" or "numbers".
        values: the outputs that it is read from.
    """

    kind: str
    values: tuple[str, ...]

    @abstractmethod
    def agreement(self, reference: Outputs, result: Outputs) -> tuple[int, int]:
        """Count how many answers of one run agree, and of how many; (0, 0) where the question makes no sense."""


@dataclass(frozen=True)
class Classes(Answer):
    """One class for each image: that of the largest score."""

    values: tuple[str, ...]
    kind = "classes"

    def agreement(self, reference: Outputs, result: Outputs) -> tuple[int, int]:
        """Count images whose best class is the same."""
        best = [self.scores(outputs).argmax(axis=1) for outputs in (reference, result)]
        return int(np.count_nonzero(best[0] == best[1])), len(best[0])

    def scores(self, outputs: Outputs) -> Array:
        """Return the scores, (N, C)."""
        array = outputs[self.values[0]]
        return array.reshape(len(array), -1)


@dataclass(frozen=True)
class ClassMap(Answer):
    """A class for each pixel."""

    values: tuple[str, ...]
    chosen: bool = False
    kind = "map"

    def agreement(self, reference: Outputs, result: Outputs) -> tuple[int, int]:
        """Count the pixels with the same class."""
        x, y = self.classes(reference), self.classes(result)
        return int(np.count_nonzero(x == y)), x.size

    def classes(self, outputs: Outputs) -> Array:
        """Return (N, H, W), whole numbers; `chosen` where the output holds classes already."""
        array = outputs[self.values[0]]
        return array[:, 0].astype(np.int64) if self.chosen else array.argmax(axis=1)


@dataclass(frozen=True)
class Picture(Answer):
    """A picture that the network makes."""

    values: tuple[str, ...]
    kind = "picture"

    def agreement(self, reference: Outputs, result: Outputs) -> tuple[int, int]:
        """Count nothing: pictures do not agree or disagree."""
        return 0, 0


@dataclass(frozen=True)
class Numbers(Answer):
    """Outputs of whose meaning nothing is known."""

    values: tuple[str, ...]
    kind = "numbers"

    def agreement(self, reference: Outputs, result: Outputs) -> tuple[int, int]:
        """Count nothing: there is nothing to agree on."""
        return 0, 0


class Boxes(Answer):
    """Detections."""

    kind = "boxes"

    @abstractmethod
    def detections(self, outputs: Outputs, least: float) -> list[Detection]:
        """Return those of one run with a score of at least `least`, the best first."""

    def agreement(self, reference: Outputs, result: Outputs) -> tuple[int, int]:
        """Count the boxes of either that the other has, too, if with a slightly lower score, and all boxes of both.

        Their ratio is an F1 score that no box leaves because its score was just above the limit.
        """
        sides = [self.detections(outputs, _KNOWN_SCORE) for outputs in (reference, result)]
        shown = [[one for one in side if one.score >= SHOWN_SCORE] for side in sides]
        both = len(matched(shown[0], sides[1])) + len(matched(shown[1], sides[0]))
        return both, len(shown[0]) + len(shown[1])


@dataclass(frozen=True)
class DetectionRows(Boxes):
    """Rows of a DetectionOutput."""

    values: tuple[str, ...]

    def detections(self, outputs: Outputs, least: float) -> list[Detection]:
        """Return those of all images of a run together; there is one in each."""
        rows = outputs[self.values[0]].reshape(-1, 7)
        boxes = [_of_row(row) for row in rows if row[0] >= 0 and row[1] >= 0 and row[2] >= least]
        return sorted(boxes, key=lambda d: -d.score)


@dataclass(frozen=True)
class YoloMaps(Boxes):
    """The maps of a YOLO network, decoded; overlapping boxes of a class are suppressed."""

    values: tuple[str, ...]
    anchors: tuple[Anchors, ...]
    input_size: tuple[int, int]

    def detections(self, outputs: Outputs, least: float) -> list[Detection]:
        """Return those of the first image."""
        detections: list[Detection] = []
        for value, own in zip(self.values, self.anchors, strict=True):
            maps = decode(outputs[value][:1], own, self.input_size)
            boxes, scores = maps.boxes.reshape(-1, 4), maps.scores.reshape(-1, maps.scores.shape[-1])
            for place, label in np.argwhere(scores >= max(least, _YOLO_LEAST)):
                x, y, w, h = boxes[place]
                corners = (float(x - w / 2), float(y - h / 2), float(x + w / 2), float(y + h / 2))
                detections.append(Detection(int(label), float(scores[place, label]), corners))
        return _suppressed(sorted(detections, key=lambda d: -d.score))


def _of_row(row: Array) -> Detection:
    return Detection(int(row[1]), float(row[2]), (float(row[3]), float(row[4]), float(row[5]), float(row[6])))


def _suppressed(ranked: Sequence[Detection]) -> list[Detection]:
    kept: list[Detection] = []
    for one in ranked:
        if not any(one.label == other.label and overlap(one.box, other.box) > _YOLO_OVERLAP for other in kept):
            kept.append(one)
    return kept


def matched(detections: Sequence[Detection], wanted: Sequence[Detection]) -> list[tuple[int, int]]:
    """Pair boxes that match, by their indices: the first detection chooses first, each wanted one is taken once."""
    pairs: list[tuple[int, int]] = []
    free = set(range(len(wanted)))
    for index, one in enumerate(detections):
        near = [(overlap(one.box, wanted[w].box), w) for w in free if wanted[w].label == one.label]
        if near and max(near)[0] >= MATCHED:
            pairs.append((index, max(near)[1]))
            free.remove(max(near)[1])
    return pairs


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def answers_of(model: Model, anchors: Anchors = ()) -> tuple[Answer, ...]:
    """Tell what the outputs of a network say; every output is in one answer.

    Args:
        anchors: of YOLO maps, from the finest to the coarsest; () for those of YOLOv3.
    """
    outputs = [v for v in model.net.outputs if v not in model.inputs and model.shapes[v]]
    yolo = _yolo(model, outputs, anchors)
    if yolo is not None:
        return (yolo,)
    return tuple(_answer(model, value, alone=len(outputs) == 1) for value in outputs)


def values_of_classes(model: Model) -> tuple[str, ...]:
    """List the outputs that hold classes, of an image or of each pixel: those whose largest channel says something."""
    return tuple(v for answer in answers_of(model) if isinstance(answer, Classes | ClassMap) for v in answer.values)


def _answer(model: Model, value: str, *, alone: bool) -> Answer:
    op, shape = model.op_of[model.net.producer[value].name], model.shapes[value]
    pixels = int(np.prod(shape[2:])) if len(shape) > 2 else 1
    classes = shape[1] if len(shape) > 1 else 0
    # Detectors in Python write the rows of a DetectionOutput, too: 7 numbers.
    if isinstance(op, DetectionOutput) or (op.kind == "host" and shape[-1:] == (7,)):
        return DetectionRows((value,))
    is_softmax = isinstance(op, Softmax) and op.axis % len(shape) == 1
    if pixels == 1 and classes > 1 and (is_softmax or (alone and classes >= _FEW_CLASSES)):
        return Classes((value,))
    if len(shape) == 4 and pixels > 1:
        return _of_map(model, value, op, is_softmax=is_softmax)
    return Numbers((value,))


def _of_map(model: Model, value: str, op: object, *, is_softmax: bool) -> Answer:
    shape = model.shapes[value]
    large = _is_large(model, shape)
    if isinstance(op, ArgMax) and shape[1] == 1:
        return ClassMap((value,), chosen=True)
    if is_softmax and 1 < shape[1] <= _MOST_CLASSES_OF_A_MAP:
        return ClassMap((value,))
    if large and shape[1] in (1, 3):
        return Picture((value,))
    return ClassMap((value,)) if large and 1 < shape[1] <= _MOST_CLASSES_OF_A_MAP else Numbers((value,))


def _is_large(model: Model, shape: Shape) -> bool:
    sizes = [model.shapes[v][2:] for v in model.inputs if len(model.shapes[v]) == 4]
    return any(shape[2] * 2 >= height and shape[3] * 2 >= width for height, width in sizes)


def _yolo(model: Model, outputs: Sequence[str], anchors: Anchors) -> YoloMaps | None:
    """Where all outputs look like maps of one: three anchors or so each, at strides of 8 to 64, no Softmax."""
    inputs = [model.shapes[v] for v in model.inputs if len(model.shapes[v]) == 4]
    shapes = {v: model.shapes[v] for v in outputs}
    if not inputs or not shapes or any(len(s) != 4 for s in shapes.values()):
        return None
    maps = sorted(outputs, key=lambda v: -shapes[v][2] * shapes[v][3])
    # A network with fewer maps than YOLOv3 has the coarser ones, whose anchors come last.
    own = anchors or YOLOV3_ANCHORS[-3 * len(maps) :]
    each, rest = divmod(len(own), len(maps))
    height, width = inputs[0][2:]
    if rest or not are_maps([shapes[v] for v in maps], inputs[0], each):
        return None
    return YoloMaps(tuple(maps), tuple(own[i * each : (i + 1) * each] for i in range(len(maps))), (height, width))
