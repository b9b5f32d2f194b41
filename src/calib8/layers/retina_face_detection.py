"""RetinaFaceDetection: RetinaFace's three feature levels to faces with five landmarks.

Per level of stride 32, 16 and 8, cell and one of two anchors: where the face's score is at least
`confidence_threshold`, the box is the anchor (width w, height h) moved by (dx * w, dy * h) and stretched by exp(dw),
exp(dh); landmarks are the anchor's centre moved by (dx * w, dy * h). Faces are sorted by score and suppressed.

Shapes: nine bottoms, per level of stride 8, 16 and 32 scores (1, 4, H, W) of which the last two are faces, codes
(1, 8, H, W), landmarks (1, 20, H, W); top (1, 1, keep_topk, 15): x1, y1, x2, y2, score, then x and y of the landmarks.
Rows after the last face are zeros. Parameters: nms_threshold, confidence_threshold, keep_topk.
Source: sophgo/caffe, src/caffe/layers/retinaface_detection_layer.cpp, and the header of that name.
Its suppression is repeated as it is: the kept face gives its area, the next in order its corners.
Known deviations: with fewer than `keep_topk` faces the fork reads beyond its list.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.boxes import Floats, exp, pixel_areas
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.std_sort import std_sort_descending

_LEVELS = ((32, (32, 16)), (16, (8, 4)), (8, (2, 1)))  # stride, scales of the anchors
_BASE = 17  # side of the anchor of scale 1: the fork makes 16 pixels one longer
_ANCHORS = 2
_LANDMARKS = 5


class RetinaFaceDetection(Op):
    """Runs in Python."""

    types = ("RetinaFaceDetection",)
    bottoms = (9, 9)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("retinaface_detection_param")
        self.overlap: float = group.nms_threshold
        self.min_score: float = group.confidence_threshold
        self.keep_topk: int = group.keep_topk
        if self.keep_topk < 1:
            raise RefusedError("has no retinaface_detection_param.keep_topk; expected at least 1")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for i, shape in enumerate(bottoms):
            sides = bottoms[i - i % 3][2:]
            channels = _ANCHORS * (2, 4, 2 * _LANDMARKS)[i % 3]
            if len(shape) != 4 or shape != (1, channels, *sides):
                raise RefusedError(
                    f"bottom {i} has the shape {'x'.join(map(str, shape))}, expected 1 x {channels} x H x W with H "
                    "and W as its level's scores"
                )
        return [(1, 1, self.keep_topk, 15)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        with np.errstate(all="ignore"):
            levels = [self._faces(bottoms[6 - 3 * i : 9 - 3 * i], *level) for i, level in enumerate(_LEVELS)]
            faces = np.concatenate(levels)
            faces = faces[std_sort_descending(faces[:, 4])]
            kept = faces[_suppress(faces[:, :4], np.float32(self.overlap))][: self.keep_topk]
        top = np.zeros((1, 1, self.keep_topk, 15), dtype=np.float32)
        top[0, 0, : len(kept)] = kept
        return [top]

    def _faces(self, bottoms: Sequence[Floats], stride: int, scales: tuple[int, ...]) -> Floats:
        """The faces (F, 15) of one level, by anchor and cell."""
        height, width = bottoms[0].shape[2:]
        # The first half of the channels is the background's. A score that is NaN stays: C++ drops what is smaller.
        scores = bottoms[0].reshape(2, _ANCHORS, height, width)[1]
        anchor, row, column = np.nonzero(~(scores < np.float32(self.min_score)))
        codes = bottoms[1].reshape(_ANCHORS, 4, height, width)[anchor, :, row, column]
        marks = bottoms[2].reshape(_ANCHORS, _LANDMARKS, 2, height, width)[anchor, :, :, row, column]
        # Corners are pixels: a side is their distance and 1 more, half of it from the centre 0.5 less.
        corners = np.array([_anchor(s) for s in scales], dtype=np.float32).reshape(-1, 4)[anchor]
        corners = corners + np.column_stack([column, row, column, row]).astype(np.float32) * np.float32(stride)
        sizes = corners[:, 2:] - corners[:, :2] + 1
        centres = corners[:, :2] + np.float32(0.5) * (sizes - 1)
        half = np.float32(0.5) * (exp(codes[:, 2:]) * sizes - 1)
        middle = codes[:, :2] * sizes + centres
        points = centres[:, None] + marks * sizes[:, None]
        columns = [middle - half, middle + half, scores[anchor, row, column], points.reshape(-1, 2 * _LANDMARKS)]
        return np.column_stack(columns)


def _anchor(scale: int) -> tuple[float, float, float, float]:
    """Corners of an anchor at the first cell."""
    low, high = 8 - 0.5 * (_BASE * scale - 1), 8 + 0.5 * (_BASE * scale + 1)
    return low, low, high, high


def _suppress(boxes: Floats, threshold: np.float32) -> NDArray[np.intp]:
    alive = np.ones(len(boxes), dtype=np.bool_)
    kept: list[int] = []
    areas = pixel_areas(boxes)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        rest = boxes[i + 1 :]
        if len(rest) == 0:
            break
        sides = np.minimum(rest[0, 2:], rest[:, 2:]) - np.maximum(rest[0, :2], rest[:, :2]) + 1
        common = sides[:, 0] * sides[:, 1]
        overlap = common / (areas[i] + areas[i + 1 :] - common)
        alive[i + 1 :] &= ~((sides > 0).all(axis=1) & (overlap > threshold))
    return np.array(kept, dtype=np.intp)


register(RetinaFaceDetection)
