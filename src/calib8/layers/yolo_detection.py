"""YoloDetection: YOLO v3 and v4 feature maps to boxes, as sophgo/caffe does it.

A map holds for each of three boxes per cell x, y, w, h, an object score and C class scores. The score is
sigmoid(object) times the largest class probability (softmax); boxes below `obj_threshold` go. The centre is
((cell + sigmoid(x)) / map width), the width exp(w) * anchor / `net_input_w`, likewise the height: parts of the image.
Of two boxes of a class that overlap by more than `nms_threshold`, the one with the lower score goes. The first
`keep_topk` in the order map, cell, box remain; the rows after the last one are zeros.

Shapes: bottoms (N, 3 * (5 + C), H, W), one per map; top (N, 1, keep_topk, 6): x, y, width, height, class, score.
Parameters: net_input_h, net_input_w, obj_threshold, nms_threshold, keep_topk; class_num 80; anchors, "w,h,w,h, .." for
all maps in the order of the bottoms (default: Darknet's of YOLO v3, with `tiny` or `yolo_v4` theirs).
Source: sophgo/caffe, src/caffe/layers/yolo_detection_layer.cpp.
Known deviations: `keep_topk` shrinks there to the fewest boxes of an image so far, here within one pass only; more
than 200 boxes overrun an array there. A logit below -100 bends the softmax there, and here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, register
from calib8.layer_kit.boxes import Floats, centre_jaccard, exp, sums_in_order
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.suppression import pairwise
from calib8.layer_kit.yolo_map import check_maps, sigmoid

_BOXES = 3
_BENT = np.float32(-100)
_ANCHORS = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
_ANCHORS_V4 = (142, 110, 192, 243, 459, 401, 36, 75, 76, 55, 72, 146, 12, 16, 19, 36, 40, 28)
_ANCHORS_TINY = (10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319)


class YoloDetection(Op):
    """Runs in Python."""

    types = ("YoloDetection",)
    bottoms = (1, UNLIMITED)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("yolo_detection_param")
        group.ignore("spp_net")  # the layer does not read it: YOLO v3 SPP has the anchors of YOLO v3
        self.input_size: tuple[int, int] = (group.net_input_w, group.net_input_h)
        self.min_score: float = group.obj_threshold
        self.overlap: float = group.nms_threshold
        self.keep_topk: int = group.keep_topk
        self.classes: int = group.class_num
        self.anchors = _read_anchors(group, len(fields.param.bottom))
        if min(self.input_size) < 1 or self.keep_topk < 1 or self.classes < 1:
            raise RefusedError(
                f"net_input_h is {group.net_input_h}, net_input_w {group.net_input_w}, keep_topk {self.keep_topk} and "
                f"class_num {self.classes}; expected at least 1"
            )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_maps(bottoms, _BOXES, self.classes, square=False)
        return [(bottoms[0][0], 1, self.keep_topk, 6)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        images = len(bottoms[0])
        top = np.zeros((images, 1, self.keep_topk, 6), dtype=np.float32)
        limit = self.keep_topk
        for i in range(images):
            with np.errstate(all="ignore"):
                boxes = np.concatenate([self._detections(b[i], self.anchors[m]) for m, b in enumerate(bottoms)])
                kept = pairwise(boxes[:, :4], boxes[:, 5], centre_jaccard, self.overlap, boxes[:, 4].astype(np.intp))
            rows = boxes[kept][boxes[kept, 5] > 0]
            limit = min(limit, len(rows))
            top[i, 0, :limit] = rows[:limit]
        return [top]

    def _detections(self, values: Floats, anchors: Floats) -> Floats:
        """Boxes of one map (3 * (5 + C), H, W) above the threshold, (D, 6)."""
        height, width = values.shape[1:]
        cells = values.reshape(_BOXES, 5 + self.classes, height * width).transpose(2, 0, 1)
        objects, least = sigmoid(cells[:, :, 4]), np.float32(self.min_score)
        cell, box = np.nonzero(objects >= least)
        label, probability = _best_class(cells[cell, box, 5:])
        scores = objects[cell, box] * probability
        above = scores >= least
        cell, box, label, scores = cell[above], box[above], label[above], scores[above]
        codes = cells[cell, box]
        corner = np.column_stack([cell % width, cell // width]).astype(np.float32)
        centres = (sigmoid(codes[:, :2]) + corner) / np.array([width, height], dtype=np.float32)
        sizes = exp(codes[:, 2:4]) * anchors[box] / np.array(self.input_size, dtype=np.float32)
        return np.column_stack([centres, sizes, label.astype(np.float32), scores])


def _best_class(logits: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The class with the largest softmax probability, and that; logits (D, C)."""
    lowest = logits.min(axis=1, keepdims=True)
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = exp(np.where(lowest < _BENT, shifted / lowest * _BENT, shifted))
    probabilities = powers / sums_in_order(powers)
    label = probabilities.argmax(axis=1)
    return label, probabilities[np.arange(len(label)), label]


def _read_anchors(group: Group, maps: int) -> Floats:
    """Widths and heights (maps, 3, 2)."""
    tiny, version_4 = group.tiny, group.yolo_v4
    defaults = _ANCHORS_TINY if tiny else _ANCHORS_V4 if version_4 else _ANCHORS
    try:
        numbers = [float(number) for number in group.anchors.split(",")] if group.anchors else list(defaults)
    except ValueError:
        raise RefusedError(f"anchors is {group.anchors!r}; expected numbers with commas between them") from None
    if len(numbers) < maps * _BOXES * 2:
        raise RefusedError(f"has {len(numbers)} numbers for anchors; {maps} maps need {maps * _BOXES * 2}")
    return np.array(numbers[: maps * _BOXES * 2], dtype=np.float32).reshape(maps, _BOXES, 2)


register(YoloDetection)
