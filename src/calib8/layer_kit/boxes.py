"""Boxes of detectors: decoding against priors, overlaps. float32 in and out, rounded where Caffe rounds.

A box is (xmin, ymin, xmax, ymax), or (x, y, width, height) around its centre where a name says so.
Source: weiliu89/caffe (branch ssd), src/caffe/util/bbox_util.cpp, DecodeBBox, BBoxSize and JaccardOverlap; for the
overlaps of pixel boxes see each function.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def decode_boxes(code_type: str, priors: Floats, variances: Floats, codes: Floats) -> Floats:
    """Make boxes from a network's codes.

    Args:
        code_type: CORNER, CENTER_SIZE or CORNER_SIZE (PriorBoxParameter.CodeType).
        priors, variances: (P, 4), or (N, P, 4).
        codes: (..., P, 4); what the variances multiply.

    Returns:
        (..., P, 4).
    """
    scaled = variances * codes
    if code_type == "CORNER":
        moved: Floats = priors + scaled
        return moved
    sizes = priors[..., 2:] - priors[..., :2]
    if code_type == "CORNER_SIZE":
        moved = priors + scaled * np.concatenate([sizes, sizes], axis=-1)
        return moved
    centres = scaled[..., :2] * sizes + (priors[..., :2] + priors[..., 2:]) / np.float32(2)
    return from_centres(centres, exp(scaled[..., 2:]) * sizes)


def exp(x: Floats) -> Floats:
    """Compute C's expf, which is almost always the nearest float32; numpy's float32 exp often is its neighbour."""
    power: Floats = np.exp(x.astype(np.float64)).astype(np.float32)
    return power


def sums_in_order(powers: Floats) -> Floats:
    """Sum the last axis, one number after the other in float32, as loops do: numpy adds in pairs from eight numbers on.

    The last bit decides ties between boxes.
    """
    return np.add.accumulate(powers, axis=-1)[..., -1:]


def from_centres(centres: Floats, sizes: Floats) -> Floats:
    """Compute corners (..., 4) from centres and sizes (..., 2); C++ subtracts half a size in double precision."""
    centre, half = centres.astype(np.float64), sizes.astype(np.float64) / 2
    return np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)


def areas(boxes: Floats) -> Floats:
    """Compute each box's area (..., 4). BBoxSize gives inverted boxes 0; they never meet another, so that is moot."""
    area: Floats = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def jaccard(boxes: Floats, other: Floats) -> Floats:
    """Compute intersection over union of boxes (..., 4) with one box, or with boxes; 0 where they do not meet."""
    width, height = _common(boxes, other, 0), _common(boxes, other, 1)
    common = width * height
    union = areas(boxes) + areas(other) - common
    ratio: Floats = np.where((width > 0) & (height > 0), common / union, np.float32(0))
    return ratio


def pixel_jaccard(boxes: Floats, other: Floats) -> Floats:
    """Compute `jaccard` for boxes whose far corner is the last pixel inside, which makes every side one longer.

    Source: py-faster-rcnn's C++ forks, src/caffe/util/nms.cpp, iou.
    """
    width, height = _common(boxes, other, 0), _common(boxes, other, 1)
    common = np.maximum(width + 1, 0) * np.maximum(height + 1, 0)
    ratio: Floats = np.where(
        (width < 0) | (height < 0), np.float32(0), common / (pixel_areas(boxes) + pixel_areas(other) - common)
    )
    return ratio


def mixed_jaccard(boxes: Floats, other: Floats) -> Floats:
    """Compute `jaccard` for pixel boxes, counting areas with the last pixel, intersections without it.

    Source: sophgo/caffe, src/caffe/layers/frcn_detection_layer.cpp, nms; proposal_layer.cpp, apply_nms.
    """
    width, height = _common(boxes, other, 0), _common(boxes, other, 1)
    common = width * height
    union = pixel_areas(boxes) + pixel_areas(other) - common
    ratio: Floats = np.where((width > 0) & (height > 0), common / union, np.float32(0))
    return ratio


def centre_jaccard(boxes: Floats, other: Floats) -> Floats:
    """Compute `jaccard` for boxes (x, y, width, height) around their centres.

    Source: eric612/MobileNet-YOLO, src/caffe/layers/yolov3_detection_output_layer.cpp, box_iou.
    """
    # Boxes that lie apart have negative sides in common, and two of these would make a positive area.
    sides = []
    for i in (0, 1):
        low, low_other = boxes[..., i] - boxes[..., 2 + i] / 2, other[i] - other[2 + i] / 2
        high, high_other = boxes[..., i] + boxes[..., 2 + i] / 2, other[i] + other[2 + i] / 2
        sides.append(np.minimum(high, high_other) - np.maximum(low, low_other))
    common = np.where((sides[0] < 0) | (sides[1] < 0), np.float32(0), sides[0] * sides[1])
    ratio: Floats = common / (boxes[..., 2] * boxes[..., 3] + other[2] * other[3] - common)
    return ratio


def pixel_areas(boxes: Floats) -> Floats:
    """Count the pixels in boxes whose far corner is the last pixel inside."""
    area: Floats = (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)
    return area


def _common(boxes: Floats, other: Floats, side: int) -> Floats:
    """Length of the intersection along x (0) or y (1), negative where there is none.

    Not numpy's maximum and minimum: those hand a NaN on, C++'s ignore it.
    """
    low = np.where(boxes[..., side] < other[..., side], other[..., side], boxes[..., side])
    high = np.where(other[..., side + 2] < boxes[..., side + 2], other[..., side + 2], boxes[..., side + 2])
    length: Floats = high - low
    return length
