"""DetectionOutput: SSD's last layer. Codes and priors become boxes; per class and image, overlapping ones go.

Per class but the background: the boxes above `confidence_threshold`, the best `nms_param.top_k` of them, of those
the ones that no better one overlaps by more than `nms_threshold` (times `eta` after every kept one, while it is above
0.5). Of all classes of an image the best `keep_top_k`. Rows come by image, class, then score.

Shapes: bottoms codes (N, P * L * 4), scores (N, P * C), priors (1, 2, P * 4), with P priors, C = `num_classes`, L = 1
with `share_location`, otherwise C; top (1, 1, rows, 7): image, class, score, xmin, ymin, xmax, ymax. The shape says
one row, as Caffe's Reshape does; a run gives as many as it finds. With no detection at all there is a row of -1 for
each image, with the image's number.
RefineDet has two bottoms more, scores (N, P * 2) and codes (N, P * 4) of its first stage: its codes refine the priors,
and a prior whose object score is below `objectness_score` is background.
Parameters: code_type CORNER, variance_encoded_in_target false (the codes are multiplied by the priors' variances),
background_label_id 0, keep_top_k -1 (all), confidence_threshold unset (all), nms_threshold 0.3, top_k unset, eta 1.
Source: weiliu89/caffe (branch ssd), src/caffe/layers/detection_output_layer.cpp, lines 16-330, and
src/caffe/util/bbox_util.cpp; sfzhang15/RefineDet, the same files.
Known deviations: Caffe stops at priors without width or height (CENTER_SIZE, CORNER_SIZE); they are computed here.
`background_label_id: -1` with `share_location`, at which Caffe stops, means that no class is background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.boxes import Floats, decode_boxes, jaccard
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.std_sort import std_sort_descending
from calib8.layer_kit.suppression import greedy

Indices = NDArray[np.intp]


class DetectionOutput(Op):
    """Runs in Python."""

    types = ("DetectionOutput",)
    bottoms = (3, 5)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("detection_output_param")
        if not group.has("num_classes") or group.num_classes < 1:
            raise RefusedError("has no detection_output_param.num_classes")
        self.classes: int = group.num_classes
        self.shares_location: bool = group.share_location
        self.background: int = group.background_label_id
        self.code_type: str = group.code_type
        self.has_plain_codes: bool = group.variance_encoded_in_target
        self.keep_top_k: int = group.keep_top_k
        self.min_score: float = group.confidence_threshold if group.has("confidence_threshold") else -np.inf
        self.min_object_score: float = group.objectness_score
        self.threshold, self.top_k, self.eta = _read_nms(group)
        # These write files or open windows; the top stays as it is.
        group.ignore("save_output_param", "visualize", "visualize_threshold", "save_file")
        if not group.normalized_bbox:
            raise RefusedError("sets normalized_bbox to false, which no Caffe has; expected boxes in [0, 1]")
        if len(fields.param.bottom) == 5 and not self.shares_location:
            raise RefusedError(
                "refines its priors (5 bottoms) and sets share_location to false; Caffe allows only true"
            )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        images, priors = bottoms[0][0] if bottoms[0] else 1, count(bottoms[2]) // 8
        codes = 4 * (1 if self.shares_location else self.classes)
        expected = [codes * images, self.classes * images, 8, 2 * images, 4 * images]
        names = ["codes", "scores", "priors and variances", "object scores", "refining codes"]
        for shape, numbers, name in zip(bottoms, expected, names, strict=False):
            if count(shape) != numbers * priors:
                raise RefusedError(
                    f"has {count(shape)} {name} ({'x'.join(map(str, shape))}) for {priors} priors, "
                    f"{self.classes} classes and {images} images; expected {numbers * priors}"
                )
        return [(1, 1, 1, 7)]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        images = len(bottoms[0])
        with np.errstate(all="ignore"):  # codes may be anything: exp overflows as in C++
            boxes = self._boxes(bottoms, images)
            scores = self._scores(bottoms, images)
            rows = [self._image_rows(i, boxes[i], scores[i]) for i in range(images)]
        top = np.concatenate(rows)
        if len(top) == 0:
            top = np.full((images, 7), -1, dtype=np.float32)
            top[:, 0] = np.arange(images)
        return [top[None, None]]

    def _boxes(self, bottoms: Sequence[Floats], images: int) -> Floats:
        """(N, L, P, 4)."""
        priors, variances = bottoms[2].reshape(2, 1, -1, 4)
        if self.has_plain_codes:
            variances = np.ones_like(variances)
        codes = bottoms[0].reshape(images, priors.shape[1], -1, 4).swapaxes(1, 2)
        if len(bottoms) == 5:
            refining = bottoms[4].reshape(images, 1, -1, 4)
            priors = decode_boxes(self.code_type, priors, variances, refining)
        return decode_boxes(self.code_type, priors, variances, codes)

    def _scores(self, bottoms: Sequence[Floats], images: int) -> Floats:
        """(N, C, P)."""
        scores = bottoms[1].reshape(images, -1, self.classes)
        if len(bottoms) > 3:
            objects = bottoms[3].reshape(images, -1, 2)[..., 1:]
            nothing = np.zeros(self.classes, dtype=np.float32)
            nothing[0] = 1
            scores = np.where(objects < np.float32(self.min_object_score), nothing, scores)
        return scores.swapaxes(1, 2)

    def _image_rows(self, image: int, boxes: Floats, scores: Floats) -> Floats:
        """The rows (R, 7) of one image; boxes (L, P, 4), scores (C, P)."""
        of_classes = [
            (label, self._kept(boxes[0 if self.shares_location else label], scores[label]))
            for label in range(self.classes)
            if label != self.background
        ]
        labels = np.repeat([label for label, _ in of_classes], [len(kept) for _, kept in of_classes]).astype(np.intp)
        priors = np.concatenate([np.zeros(0, dtype=np.intp), *(kept for _, kept in of_classes)])
        if -1 < self.keep_top_k < len(priors):
            best = std_sort_descending(scores[labels, priors])[: self.keep_top_k]
            best = best[np.argsort(labels[best], kind="stable")]
            labels, priors = labels[best], priors[best]
        rows = np.empty((len(priors), 7), dtype=np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2] = image, labels, scores[labels, priors]
        rows[:, 3:] = boxes[0 if self.shares_location else labels, priors]
        return rows

    def _kept(self, boxes: Floats, scores: Floats) -> Indices:
        """The priors (K) that one class keeps, best first."""
        candidates = np.flatnonzero(scores > np.float32(self.min_score))
        candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
        if self.top_k > -1:
            candidates = candidates[: self.top_k]
        kept: Indices = candidates[greedy(boxes[candidates], jaccard, self.threshold, self.eta)]
        return kept


def _read_nms(group: Group) -> tuple[float, int, float]:
    """Threshold, top_k and eta; SSD's first version has the first two in detection_output_param itself."""
    nms = group.nms_param
    threshold, top_k, eta = nms.nms_threshold, nms.top_k if nms.HasField("top_k") else -1, nms.eta
    if group.has("nms_threshold") or group.has("top_k"):
        if group.has("nms_param"):
            raise RefusedError("sets both nms_param and nms_threshold or top_k beside it; keep one form")
        threshold, top_k = group.nms_threshold, group.top_k if group.has("top_k") else -1
    if not threshold >= 0:
        raise RefusedError(f"nms_threshold is {threshold:g}; expected at least 0")
    if not 0 < eta <= 1:
        raise RefusedError(f"nms_param.eta is {eta:g}; expected above 0 and at most 1")
    return threshold, top_k, eta


register(DetectionOutput)
