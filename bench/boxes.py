"""Detections from the raw outputs of four detectors, and how two sets of detections compare.

Detections are rows of class, score, x0, y0, x1, y1, in parts of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from figures import Figure, ratio

from calib8.analyze.yolo import decode

Array = np.ndarray
Outputs = Mapping[str, Array]
YOLO_ANCHORS = {
    "layer79-conv": ((26.0, 48.0), (67.0, 84.0), (72.0, 175.0)),
    "layer69-conv": ((189.0, 126.0), (137.0, 236.0), (265.0, 259.0)),
}
YOLO_SIDE, RETINAFACE_SIDE = 320, 640
RETINAFACE_LEVELS = ((32, (32, 16)), (16, (8, 4)), (8, (2, 1)))  # stride, scales of its anchors
RETINAFACE_OUTPUTS = tuple(
    f"face_rpn_{what}_stride{stride}" for stride, _ in RETINAFACE_LEVELS for what in ("cls_prob_reshape", "bbox_pred")
)
# width and height of a level's map, and the sides of its anchors in pixels; the image is 320 x 240
ULTRAFACE_LEVELS = (
    (40, 30, (10, 16, 24)),
    (20, 15, (32, 48)),
    (10, 8, (64, 96)),
    (5, 4, (128, 192, 256)),
)
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_LARGEST_EXPONENT = 20.0


def yolo_detections(outputs: Outputs, least: float = 0.005, overlap: float = 0.45) -> Array:
    """Of MobileNetV2-YOLOv3."""
    parts = []
    for name, anchors in YOLO_ANCHORS.items():
        found = decode(outputs[name], anchors, (YOLO_SIDE, YOLO_SIDE))
        boxes, scores = found.boxes.reshape(-1, 4), found.scores.reshape(-1, found.scores.shape[-1])
        index, kind = np.nonzero(scores > least)
        parts.append(_rows(kind, scores[index, kind], boxes[index, :2], boxes[index, 2:]))
    rows = np.concatenate(parts)
    return _joined([suppressed(rows[rows[:, 0] == kind], overlap) for kind in np.unique(rows[:, 0])])


def ssd_detections(outputs: Outputs, least: float = 0.5) -> Array:
    """Of an SSD with a DetectionOutput: rows of image, class, score and corners."""
    rows = outputs["detection_out"].reshape(-1, 7)
    return rows[rows[:, 2] > least, 1:].astype(np.float64)


def retinaface_detections(outputs: Outputs, least: float = 0.5, overlap: float = 0.4) -> Array:
    """Of RetinaFace with a MobileNet-0.25: anchors of 16 pixels times the scale, centred 7.5 pixels into each cell."""
    parts = []
    for stride, scales in RETINAFACE_LEVELS:
        scores = outputs[f"face_rpn_cls_prob_reshape_stride{stride}"][0, len(scales) :]
        moves = outputs[f"face_rpn_bbox_pred_stride{stride}"].astype(np.float64)
        moves = moves.reshape(len(scales), 4, *scores.shape[1:])
        anchor, row, column = np.nonzero(scores > least)
        sides = 16.0 * np.array(scales)[anchor, None]
        move = moves[anchor, :, row, column]
        centre = np.stack([column, row], axis=1) * stride + 7.5 + move[:, :2] * sides
        size = np.exp(np.minimum(move[:, 2:], _LARGEST_EXPONENT)) * sides
        score = scores[anchor, row, column]
        parts.append(_rows(np.zeros(len(score)), score, centre / RETINAFACE_SIDE, size / RETINAFACE_SIDE))
    return suppressed(np.concatenate(parts), overlap)


def ultraface_detections(outputs: Outputs, least: float = 0.5, overlap: float = 0.4) -> Array:
    """Of Ultra-Light-Fast-Generic-Face-Detector."""
    priors = np.concatenate([_ultraface_priors(*level) for level in ULTRAFACE_LEVELS])
    codes = outputs["boxes"].reshape(-1, 4).astype(np.float64)
    scores = outputs["scores"].reshape(-1, 2)[:, 1]
    (index,) = np.nonzero(scores > least)
    prior, code = priors[index], codes[index]
    centre = prior[:, :2] + code[:, :2] * _CENTRE_VARIANCE * prior[:, 2:]
    size = prior[:, 2:] * np.exp(np.minimum(code[:, 2:] * _SIZE_VARIANCE, _LARGEST_EXPONENT))
    return suppressed(_rows(np.zeros(len(index)), scores[index], centre, size), overlap)


def _ultraface_priors(width: int, height: int, sides: tuple[int, ...]) -> Array:
    row, column, side = np.meshgrid(np.arange(height), np.arange(width), np.array(sides), indexing="ij")
    parts = ((column + 0.5) / width, (row + 0.5) / height, side / 320, side / 240)
    return np.clip(np.stack(parts, axis=-1).reshape(-1, 4), 0, 1)


def _rows(kinds: Array, scores: Array, centres: Array, sizes: Array) -> Array:
    return np.column_stack([kinds, scores, centres - sizes / 2, centres + sizes / 2])


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty((0, 6))


def suppressed(rows: Array, overlap: float) -> Array:
    """The best detections, without those that share more than `overlap` with a better one."""
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    kept: list[Array] = []
    while len(rows):
        kept.append(rows[0])
        rows = rows[1:][overlaps(rows[0, 2:], rows[1:, 2:]) <= overlap]
    return np.array(kept).reshape(-1, 6)


def overlaps(box: Array, boxes: Array) -> Array:
    """Intersection over union of one box and others; x0, y0, x1, y1."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inner = np.prod(np.clip(high - low, 0, None), axis=1)
    return inner / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - inner + 1e-12)


def matches(rows: Array, wanted: Array, overlap: float = 0.5) -> Array:
    """For each detection, best score first, whether it takes a box of its class that no better one has taken.

    Args:
        rows: detections in the order of their scores.
        wanted: rows of class, x0, y0, x1, y1.
    """
    free = np.ones(len(wanted), bool)
    hits = np.zeros(len(rows), bool)
    for index, row in enumerate(rows):
        shared = np.where(wanted[:, 0] == row[0], overlaps(row[2:], wanted[:, 1:]), 0)
        best = int(shared.argmax()) if len(shared) else 0
        hits[index] = len(shared) > 0 and shared[best] >= overlap and free[best]
        if hits[index]:
            free[best] = False
    return hits


def f1(found: Sequence[Array], reference: Sequence[Array], least: float) -> Figure:
    """F1 of the detections with a score above `least`, against those of another network, at IoU 0.5."""
    both, all_boxes = [], []
    for ours, theirs in zip(found, reference, strict=True):
        a, b = (rows[rows[:, 1] > least] for rows in (ours, theirs))
        a = a[np.argsort(-a[:, 1], kind="stable")]
        both.append(2 * int(matches(a, b[:, [0, 2, 3, 4, 5]]).sum()))
        all_boxes.append(len(a) + len(b))
    return ratio(both, all_boxes)


def mean_average_precision(found: Sequence[Array], truth: Sequence[Array]) -> Figure:
    """The mean over classes of the average precision at IoU 0.5, sampled at 101 recalls.

    A detection may take the box that it shares most with, if that one is free; the classes are those of the truth.
    """
    classes = np.unique(np.concatenate([boxes[:, 0] for boxes in truth]))
    parts = [_average_precision(kind, found, truth) for kind in classes]

    def figure(weights: Array) -> float:
        values = [part(weights) for part in parts]
        there = [value for value in values if value is not None]
        return float(np.mean(there)) if there else 0.0

    return figure


def _average_precision(kind: float, found: Sequence[Array], truth: Sequence[Array]) -> Figure:
    """None where no sample that counts has a box of the class."""
    wanted = [boxes[boxes[:, 0] == kind] for boxes in truth]
    own = [rows[rows[:, 0] == kind] for rows in found]
    own = [rows[np.argsort(-rows[:, 1], kind="stable")] for rows in own]
    image = np.repeat(np.arange(len(own)), [len(rows) for rows in own])
    order = np.argsort(-np.concatenate([rows[:, 1] for rows in own]), kind="stable")
    hits = np.concatenate([matches(rows, boxes) for rows, boxes in zip(own, wanted, strict=True)])[order]
    image, boxes_of = image[order], np.array([len(boxes) for boxes in wanted], np.float64)

    def figure(weights: Array) -> float | None:
        total = float(weights @ boxes_of)
        if total == 0:
            return None
        each = weights[image]
        right, all_found = np.cumsum(each * hits), np.cumsum(each)
        precision = np.append(right / np.maximum(all_found, 1e-12), 0)
        best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a larger one
        at = np.searchsorted(right / total, np.linspace(0, 1, 101) - 1e-12)
        return float(best[at].mean())

    return figure
