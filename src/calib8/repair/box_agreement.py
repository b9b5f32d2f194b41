"""How far a detector's decoded boxes are from FP32's.

Layers that decode (DetectionOutput, YoloDetectionOutput, Yolov3DetectionOutput) give rows of image, class, score and
corners. FP32's boxes, the surest first, each take the box of their class and image that overlaps them most, by half at
least, and that no other has taken. What two boxes have in common is the smaller score times the overlap; what all have
in common, over half the sum of all scores, is a soft F1: sure boxes count more than doubtful ones, and a box that moved
a little counts a little less. The noise is what is missing of 1.

Source: matching and overlaps are those of Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, 2010,
section 4.2; the soft counts are those of the Dice coefficient, over scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.layer_kit.boxes import jaccard
from calib8.layers.detection_output import DetectionOutput
from calib8.layers.yolo_detection_output import YoloDetectionOutput
from calib8.layers.yolov3_detection_output import Yolov3DetectionOutput
from calib8.lowering import Model

Array = NDArray[Any]

_DECODERS = (DetectionOutput, YoloDetectionOutput, Yolov3DetectionOutput)
_LEAST_OVERLAP = 0.5


def box_values(model: Model) -> tuple[str, ...]:
    """List the network's outputs that hold boxes."""
    producer = model.net.producer
    return tuple(v for v in model.net.outputs if isinstance(model.op_of[producer[v].name], _DECODERS))


def in_common(reference: Array, found: Array) -> tuple[float, float]:
    """Compare the boxes of one run, rows of (image, class, score, xmin, ymin, xmax, ymax).

    Returns:
        What they have in common, and half the sum of all scores; see the module's text.
    """
    reference, found = (_boxes(rows) for rows in (reference, found))
    left = np.ones(len(found), dtype=bool)
    rivals = (reference[:, None, :2] == found[:, :2]).all(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes without an area
        overlaps = np.where(rivals, jaccard(found[:, 3:], reference[:, None, 3:]), 0)
    common = 0.0
    for row in np.argsort(-reference[:, 2], kind="stable") if len(found) else ():
        free = overlaps[row] * left
        best = int(free.argmax())
        if free[best] >= _LEAST_OVERLAP:
            left[best] = False
            common += float(free[best]) * float(min(reference[row, 2], found[best, 2]))
    return common, float(reference[:, 2].sum(dtype=np.float64) + found[:, 2].sum(dtype=np.float64)) / 2


def _boxes(rows: Array) -> Array:
    """Rows that are boxes: where nothing was found there is one with class -1."""
    rows = np.nan_to_num(rows.reshape(-1, 7))
    return np.asarray(rows[(rows[:, 1] >= 0) & (rows[:, 2] > 0)])
