"""Yolov3DetectionOutput: YOLO v3 feature maps to boxes, as eric612/MobileNet-YOLO does it.

A map holds for each of `num_box` boxes per cell x, y, w, h, an object score and C class scores; every class whose
sigmoid(class) * sigmoid(object) is above `confidence_threshold` makes a box of its own. The centre is
(cell + sigmoid(x)) / map width, the width exp(w) * bias / (map width * anchors_scale), likewise the height. Then see
yolo_map: suppression goes over all classes and images, and the image in every row is 0.

Shapes: bottoms (N, num_box * (5 + C), S, S), one per map; top (1, 1, rows, 7): 0, class + 1, score, xmin, ymin, xmax,
ymax. The shape says one row, as Caffe's Reshape does; a run gives as many as it finds.
Parameters: num_classes; num_box 3, confidence_threshold 0.01, nms_threshold 0.45, biases (width, height of each
anchor), mask (the anchors of all maps in turn), mask_group_num 2 (number of maps), anchors_scale (stride of each map).
Source: eric612/MobileNet-YOLO, src/caffe/layers/yolov3_detection_output_layer.cpp, lines 150-330.
Known deviations: maps that are not square are refused (it indexes them wrongly), `gaussian_box` too (its code writes
class scores over the object score).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, register
from calib8.layer_kit.boxes import Floats, exp
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.yolo_map import check_maps, detection_rows, sigmoid


class Yolov3DetectionOutput(Op):
    """Runs in Python."""

    types = ("Yolov3DetectionOutput",)
    bottoms = (1, UNLIMITED)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("yolov3_detection_output_param")
        if not group.has("num_classes") or group.num_classes < 1:
            raise RefusedError("has no yolov3_detection_output_param.num_classes")
        if group.gaussian_box:
            raise RefusedError("sets gaussian_box, which calib8 does not implement")
        self.classes: int = group.num_classes
        self.boxes: int = group.num_box
        self.min_score: float = group.confidence_threshold
        self.overlap: float = group.nms_threshold
        maps = len(fields.param.bottom)
        self.anchors = _read_anchors(group, maps)
        self.strides: tuple[int, ...] = group.anchors_scale
        if len(self.strides) < maps:
            raise RefusedError(f"has {len(self.strides)} anchors_scale for {maps} bottoms; expected one for each")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_maps(bottoms, self.boxes, self.classes, square=True)
        return [(1, 1, 1, 7)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        with np.errstate(all="ignore"):
            boxes = np.concatenate([self._detections(m, values) for m, values in enumerate(bottoms)])
            return [detection_rows(boxes, self.overlap, len(bottoms[-1]))]

    def _detections(self, number: int, values: Floats) -> Floats:
        """Boxes of one map (N, B * (5 + C), S, S) above the threshold, (D, 6), by image, cell, box and class."""
        images, side = len(values), values.shape[2]
        cells = values.reshape(images, self.boxes, 5 + self.classes, -1).transpose(0, 3, 1, 2)
        scores = sigmoid(cells[..., 5:]) * sigmoid(cells[..., 4:5])
        image, cell, box, label = np.nonzero(scores > np.float32(self.min_score))
        codes = cells[image, cell, box]
        corner = np.column_stack([cell % side, cell // side]).astype(np.float32)
        centres = (corner + sigmoid(codes[:, :2])) / np.float32(side)
        sizes = exp(codes[:, 2:4]) * self.anchors[number][box] / np.float32(side * self.strides[number])
        return np.column_stack([centres, sizes, label.astype(np.float32), scores[image, cell, box, label]])


def _read_anchors(group: Group, maps: int) -> list[Floats]:
    """Widths and heights (num_box, 2) of each map."""
    biases, mask = group.biases, group.mask
    if group.mask_group_num != maps:
        raise RefusedError(f"mask_group_num is {group.mask_group_num} for {maps} bottoms; expected their number")
    per_map = len(mask) // maps
    if per_map * (maps - 1) + group.num_box > len(mask):
        raise RefusedError(f"has {len(mask)} numbers in mask; {maps} maps of {group.num_box} boxes need more")
    if len(biases) < 2 * (max(mask, default=-1) + 1):
        raise RefusedError(f"has {len(biases)} biases, and mask names anchor {max(mask)}; it has no width and height")
    anchors = np.array(biases[: len(biases) // 2 * 2], dtype=np.float32).reshape(-1, 2)
    return [anchors[list(mask[m * per_map : m * per_map + group.num_box])] for m in range(maps)]


register(Yolov3DetectionOutput)
