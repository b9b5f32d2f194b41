"""Non-maximum suppression as detectors do it: of boxes that overlap too much, one stays.

`overlap(boxes, other)` gives the overlaps (M) of boxes (M, 4) with one box (4); see boxes.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from calib8.layer_kit.boxes import Floats

Overlap = Callable[[Floats, Floats], Floats]


def greedy(boxes: Floats, overlap: Overlap, threshold: float, eta: float = 1.0) -> NDArray[np.intp]:
    """Keep a box when no kept one before it overlaps it by more than `threshold`.

    Args:
        boxes: (M, 4), best first.
        eta: below 1, every kept box lowers a threshold above 0.5 to `eta` times it.

    Returns:
        Indices of the kept boxes, in order. Source: weiliu89/caffe, src/caffe/util/bbox_util.cpp, ApplyNMSFast.
    """
    worst = np.full(len(boxes), -np.inf, dtype=np.float32)
    limit = np.float32(threshold)
    kept = []
    for i in range(len(boxes)):
        if not worst[i] <= limit:
            continue
        kept.append(i)
        later = overlap(boxes[i + 1 :], boxes[i])
        # A NaN is no overlap that may be borne: C++ asks whether it is at most the threshold.
        worst[i + 1 :] = np.maximum(worst[i + 1 :], np.where(np.isnan(later), np.float32(np.inf), later))
        if eta < 1 and limit > 0.5:
            limit *= np.float32(eta)
    return np.array(kept, dtype=np.intp)


def first_come(
    boxes: Floats, suppresses: Callable[[Floats, Floats], NDArray[np.bool_]], limit: int | None = None
) -> NDArray[np.intp]:
    """Keep the first box, strike out all that it suppresses, and so on with the next one left.

    Args:
        boxes: (M, 4), best first.
        suppresses: which of boxes (M, 4) one box (4) strikes out.
        limit: stop after so many.
    """
    alive = np.ones(len(boxes), dtype=np.bool_)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == limit:
            break
        alive[i + 1 :] &= ~suppresses(boxes[i + 1 :], boxes[i])
    return np.array(kept, dtype=np.intp)


def pairwise(
    boxes: Floats, scores: Floats, overlap: Overlap, threshold: float, classes: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Drop, of every two boxes of a class that overlap by more than `threshold`, the one with the lower score.

    Boxes need no order and keep it; the earlier one of two with the same score stays.
    Source: sophgo/caffe, src/caffe/layers/frcn_detection_layer.cpp, nms; proposal_layer.cpp, apply_nms.
    """
    alive = np.ones(len(boxes), dtype=np.bool_)
    limit = np.float32(threshold)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        later = slice(i + 1, None)
        meets = alive[later] & (overlap(boxes[later], boxes[i]) > limit)
        if classes is not None:
            meets &= classes[later] == classes[i]
        stronger = np.flatnonzero(meets & (scores[later] > scores[i]))
        if len(stronger):
            alive[i] = False
            meets[stronger[0] :] = False
        alive[later] &= ~meets
    return np.flatnonzero(alive)
