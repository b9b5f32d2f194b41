"""YoloDetectionOutput: YOLO v2 feature maps to boxes, as eric612/MobileNet-YOLO does it.

A map holds for each of `num_box` boxes per cell x, y, w, h, an object score and C class scores. The score is
sigmoid(object) times the largest class probability (softmax); boxes below `confidence_threshold` go. The centre is
(cell + sigmoid(x)) / map width, the width exp(w) * bias / map width, likewise the height. Then see yolo_map:
suppression goes over all classes and images, and the image in every row is 0.

Shapes: one bottom or two (N, num_box * (5 + C), S, S); top (1, 1, rows, 7): 0, class + 1, score, xmin, ymin, xmax,
ymax. The shape says one row, as Caffe's Reshape does; a run gives as many as it finds.
Parameters: num_classes; num_box 5, confidence_threshold 0.01, nms_threshold 0.45, biases (width, height of each box).
Source: eric612/MobileNet-YOLO, src/caffe/layers/yolo_detection_output_layer.cpp, lines 130-330.
Known deviations: maps that are not square are refused; it reads them wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.boxes import Floats, exp, sums_in_order
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.yolo_map import check_maps, detection_rows, sigmoid


class YoloDetectionOutput(Op):
    """Runs in Python."""

    types = ("YoloDetectionOutput",)
    bottoms = (1, 2)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("yolo_detection_output_param")
        if not group.has("num_classes") or group.num_classes < 1:
            raise RefusedError("has no yolo_detection_output_param.num_classes")
        # The fork takes the map's size from the bottom, knows four coordinates only, and prints labels to its log.
        group.ignore("side", "coords", "label_map_file")
        self.classes: int = group.num_classes
        self.boxes: int = group.num_box
        self.min_score: float = group.confidence_threshold
        self.overlap: float = group.nms_threshold
        if self.boxes < 1 or len(group.biases) < 2 * self.boxes:
            raise RefusedError(f"has {len(group.biases)} biases for num_box {self.boxes}; expected two for each box")
        self.anchors: Floats = np.array(group.biases[: 2 * self.boxes], dtype=np.float32).reshape(-1, 2)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_maps(bottoms, self.boxes, self.classes, square=True)
        return [(1, 1, 1, 7)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        with np.errstate(all="ignore"):
            boxes = np.concatenate([self._detections(values) for values in bottoms])
            return [detection_rows(boxes, self.overlap, len(bottoms[0]))]

    def _detections(self, values: Floats) -> Floats:
        """Boxes of one map (N, B * (5 + C), S, S) above the threshold, (D, 6), by image, cell and box."""
        images, side = len(values), values.shape[2]
        cells = values.reshape(images, self.boxes, 5 + self.classes, -1).transpose(0, 3, 1, 2)
        # The largest goes first, as Caffe's softmax does it: no power overflows.
        powers = exp(cells[..., 5:] - cells[..., 5:].max(axis=-1, keepdims=True))
        probabilities = powers / sums_in_order(powers)
        scores = sigmoid(cells[..., 4]) * probabilities.max(axis=-1)
        image, cell, box = np.nonzero(scores >= np.float32(self.min_score))
        codes, label = cells[image, cell, box], probabilities[image, cell, box].argmax(axis=-1)
        corner = np.column_stack([cell % side, cell // side]).astype(np.float32)
        centres = (corner + sigmoid(codes[:, :2])) / np.float32(side)
        sizes = exp(codes[:, 2:4]) * self.anchors[box] / np.float32(side)
        return np.column_stack([centres, sizes, label.astype(np.float32), scores[image, cell, box]])


register(YoloDetectionOutput)
