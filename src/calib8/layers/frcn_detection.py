"""FrcnDetection: Faster R-CNN's last layer, from regions and their codes to boxes.

For every region and every class but 0 whose score is above `obj_threshold`: the box is the region (of width w and
height h, its last pixel counted) moved by (dx * w, dy * h) and stretched by exp(dw), exp(dh). Of two boxes of a class
that overlap by more than `nms_threshold`, the one with the lower score goes. The first `keep_topk` boxes in the order
of the regions remain; the rows after the last one are zeros.

Shapes: bottoms codes (N * R, classes * 4), scores (N * R, classes), regions (N, 1, R, 5); top (N, 1, keep_topk, 6):
x1, y1, x2, y2, class, score. Parameters: class_num, keep_topk, nms_threshold, obj_threshold.
Source: sophgo/caffe, src/caffe/layers/frcn_detection_layer.cpp.
Known deviations: `keep_topk` shrinks there to the fewest boxes of an image so far, here within one pass only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.boxes import Floats, exp, mixed_jaccard
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.suppression import pairwise


class FrcnDetection(Op):
    """Runs in Python."""

    types = ("FrcnDetection",)
    bottoms = (3, 3)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("frcn_detection_param")
        self.classes: int = group.class_num
        self.keep_topk: int = group.keep_topk
        self.overlap: float = group.nms_threshold
        self.min_score: float = group.obj_threshold
        if self.classes < 1 or self.keep_topk < 1:
            raise RefusedError(f"class_num is {self.classes} and keep_topk {self.keep_topk}; expected at least 1")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        codes, scores, regions = bottoms
        if len(regions) != 4 or (regions[1], regions[3]) != (1, 5):
            raise RefusedError(f"the regions have the shape {'x'.join(map(str, regions))}, expected N x 1 x R x 5")
        rows = regions[0] * regions[2]
        if count(codes) != rows * self.classes * 4 or count(scores) != rows * self.classes:
            raise RefusedError(
                f"has {count(codes)} codes and {count(scores)} scores for {rows} regions and {self.classes} classes; "
                f"expected {rows * self.classes * 4} and {rows * self.classes}"
            )
        return [(regions[0], 1, self.keep_topk, 6)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        regions = bottoms[2][:, 0]
        images, number = regions.shape[:2]
        codes = bottoms[0].reshape(images, number, self.classes, 4)
        scores = bottoms[1].reshape(images, number, self.classes)
        top = np.zeros((images, 1, self.keep_topk, 6), dtype=np.float32)
        limit = self.keep_topk
        for i in range(images):
            with np.errstate(all="ignore"):
                rows = self._rows(codes[i], scores[i], regions[i])
            limit = min(limit, len(rows))
            top[i, 0, :limit] = rows[:limit]
        return [top]

    def _rows(self, codes: Floats, scores: Floats, regions: Floats) -> Floats:
        """All detections (D, 6) of one image."""
        above = scores > np.float32(self.min_score)
        above[:, 0] = False
        region, label = np.nonzero(above)
        boxes = _move(regions[region, 1:], codes[region, label])
        confidence = scores[region, label]
        kept = pairwise(boxes, confidence, mixed_jaccard, self.overlap, label)
        rows = np.column_stack([boxes, label.astype(np.float32), confidence])[kept]
        positive: Floats = rows[rows[:, 5] > 0]
        return positive


def _move(regions: Floats, codes: Floats) -> Floats:
    sizes = regions[:, 2:] - regions[:, :2] + 1
    centres = codes[:, :2] * sizes + (regions[:, :2] + sizes * np.float32(0.5))
    half = exp(codes[:, 2:]) * sizes / 2
    return np.concatenate([centres - half, centres + half], axis=1)


register(FrcnDetection)
