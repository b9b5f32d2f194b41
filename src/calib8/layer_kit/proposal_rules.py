"""How the forks' Proposal layers choose regions; see proposal.py for what each does and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from calib8.layer_kit.boxes import Floats, exp, mixed_jaccard, pixel_jaccard
from calib8.layer_kit.fields import RefusedError
from calib8.layer_kit.suppression import first_come, pairwise


@dataclass(frozen=True)
class Thresholded:
    """Anchors above a score; sophgo/caffe and synopsys-caffe.

    Attributes:
        image_size: height and width; None takes them from the third bottom.
        keep: the number of rows for each image.
    """

    base_size: int
    ratios: Sequence[float]
    scales: Sequence[float]
    stride: int
    min_score: float
    overlap: float
    keep: int
    image_size: tuple[int, int] | None

    @property
    def image_numbers(self) -> int:
        """What the third bottom has to hold."""
        return 0 if self.image_size else 2

    @cached_property
    def anchors(self) -> Floats:
        """(A, 4), by ratio, then scale."""
        centre = (self.base_size - 1) / 2
        anchors = []
        for ratio in self.ratios:
            width = _round(np.sqrt(self.base_size**2 / ratio))
            height = _round(width * ratio)
            for scale in self.scales:
                half = (width * scale - 1) / 2, (height * scale - 1) / 2
                anchors.append([centre - half[0], centre - half[1], centre + half[0], centre + half[1]])
        return np.array(anchors, dtype=np.float32)

    def propose(self, scores: Floats, codes: Floats, info: Floats) -> Floats:
        """Choose the regions of one image and their scores, (R, 5).

        Args:
            scores: (A, H, W).
            codes: (A, 4, H, W).
            info: the image's numbers of the third bottom, of which height and width count; empty without one.
        """
        anchor, row, column = np.nonzero(scores >= np.float32(self.min_score))
        confidence = scores[anchor, row, column]
        # An anchor's far corner is its last pixel, hence + 1 and - 1; a region's is its centre and half a side.
        sizes = self.anchors[:, 2:] - self.anchors[:, :2] + 1
        middle = self.anchors[:, :2] + np.float32(0.5) * (sizes - 1)
        start = np.column_stack([column, row]).astype(np.float32) * np.float32(self.stride) + middle[anchor]
        deltas = codes[anchor, :, row, column]
        centres = start + sizes[anchor] * deltas[:, :2]
        half = (sizes[anchor] * exp(deltas[:, 2:])).astype(np.float64) / 2
        # The third bottom holds floats; an image counts in whole pixels.
        height, width = self.image_size or np.trunc(info[:2])
        corners = np.concatenate([centres - half, centres + half], axis=1)
        boxes = np.clip(corners, 0, np.array([width, height, width, height]) - 1).astype(np.float32)
        kept = pairwise(boxes, confidence, mixed_jaccard, self.overlap)[: self.keep]
        return np.column_stack([boxes, confidence])[kept]


@dataclass(frozen=True)
class BestFirst:
    """The best of all anchors; py-faster-rcnn's C++ forks.

    Attributes:
        best: how many anchors take part in the suppression.
        keep: the largest number of regions for each image.
    """

    anchors: Floats
    stride: int
    min_size: float
    best: int
    overlap: float
    keep: int
    image_size: ClassVar[None] = None
    image_numbers: ClassVar[int] = 4

    def propose(self, scores: Floats, codes: Floats, info: Floats) -> Floats:
        """See Thresholded.propose; `info` has height and width of the image and by how much each was scaled."""
        rows, columns = scores.shape[1:]
        cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).astype(np.float32) * self.stride
        boxes = np.tile(cells, 2)[:, :, None] + self.anchors  # (H, W, A, 4)
        boxes = _transform(boxes, codes.transpose(2, 3, 0, 1), info).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        # Too small a box scores 0 and stays, so that it can still fill up `best`.
        large = (sides >= np.float32(self.min_size) * info[[3, 2]]).all(axis=1)
        confidence = large.astype(np.float32) * scores.transpose(1, 2, 0).reshape(-1)
        order = np.argsort(-confidence, kind="stable")[: self.best]
        limit = np.float32(self.overlap)
        kept = first_come(boxes[order], lambda others, box: pixel_jaccard(others, box) > limit, self.keep)
        return np.column_stack([boxes, confidence])[order[kept]]


def _transform(boxes: Floats, codes: Floats, info: Floats) -> Floats:
    """Boxes (..., 4) moved, stretched and clipped to the image."""
    sizes = boxes[..., 2:] - boxes[..., :2] + 1
    centres = codes[..., :2] * sizes + (boxes[..., :2] + np.float32(0.5) * sizes)
    half = np.float32(0.5) * (exp(codes[..., 2:]) * sizes)
    corners = np.concatenate([centres - half, centres + half], axis=-1)
    clipped: Floats = np.maximum(np.minimum(corners, info[[1, 0, 1, 0]] - 1), np.float32(0))
    return clipped


def py_faster_rcnn_anchors(base_size: float, ratios: Sequence[float], scales: Sequence[float]) -> Floats:
    """Make anchors (A, 4), by ratio, then scale. Raise RefusedError without a ratio or a scale, or a ratio <= 0."""
    if not ratios or not scales or min(ratios) <= 0:
        raise RefusedError(f"has the ratios {ratios} and scales {scales}; expected at least one of each, above 0")
    size = int(base_size)
    centre = np.float32(0.5) * np.float32(size - 1)
    anchors = []
    for ratio in np.array(ratios, dtype=np.float32):
        width = np.float32(int(np.sqrt(np.float32(size * size) / ratio) + np.float32(0.5)))
        height = np.float32(int(width * ratio + np.float32(0.5)))
        for scale in np.array(scales, dtype=np.float32):
            half_width, half_height = np.float32(0.5) * (width * scale - 1), np.float32(0.5) * (height * scale - 1)
            anchors.append([centre - half_width, centre - half_height, centre + half_width, centre + half_height])
    return np.array(anchors, dtype=np.float32)


def _round(x: float) -> int:
    """C's round for positive numbers."""
    return int(np.floor(x + 0.5))
