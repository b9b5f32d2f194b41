"""Proposal: the regions of a region proposal network. Three forks gave the type three meanings; the fields tell them.

Shapes and parameters, by fork:
All: anchors around every cell, moved by (dx * w, dy * h), stretched by exp(dw), exp(dh) and clipped to the image.
Scores (N, 2 * A, H, W), of which the last A are those of objects; codes (N, 4 * A, H, W).

sophgo/caffe (`net_input_h`, `net_input_w`): anchors of ratios 0.5, 1, 2 and scales 8, 16, 32 that score at least
`rpn_obj_threshold`; of two that overlap by more than `rpn_nms_threshold` the one with the lower score goes; the first
`rpn_nms_post_top_n` of the rest, by anchor and cell, not by score. Bottoms: scores, codes. Top (N, 1, n, 5).
synopsys-caffe (`max_rois`, `anchor_scale`, `anchor_ratio`): the same with the thresholds 0.3 and 0.7 and the image's
size from a third bottom (1, 2 or more): height, width. An anchor_scale other than 3 leaves only the scale 32, an
anchor_ratio other than 3 only the ratio 1. Top (max_rois, 5).
py-faster-rcnn's C++ forks (`ratio`, `scale`, `base_size`, `min_size`, `pre_nms_topn`, `post_nms_topn`, `nms_thresh`):
the best `pre_nms_topn` by score, of which those stay that no better one overlaps by more than `nms_thresh`, at most
`post_nms_topn`. Boxes smaller than `min_size` times the image's scale get the score 0. Third bottom (N, 4 or more):
height, width, scale of the height, scale of the width. Tops (N * post_nms_topn, 5) and, if wanted, the scores.

Rows: image, x1, y1, x2, y2. Defaults: feat_stride 16, anchor_base_size and base_size 16, the rest as in caffe.proto.
Source: the forks' src/caffe/layers/proposal_layer.cpp (sophgo/caffe; foss-for-synopsys-dwc-arc-processors/
synopsys-caffe; openvinotoolkit/training_toolbox_caffe, with src/caffe/util/nms.cpp).
Known deviations: the number of rows is fixed, rows beyond the last region are zeros (the last two forks shrink the
top). The last fork's sort may leave equal scores in another order; here they keep that of the cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.proposal_rules import BestFirst, Thresholded, py_faster_rcnn_anchors

_SOPHGO = {"net_input_h", "net_input_w", "rpn_obj_threshold", "rpn_nms_threshold", "rpn_nms_post_top_n"}
_SYNOPSYS = {"max_rois", "anchor_scale", "anchor_ratio"}
_PY_FASTER_RCNN = {"ratio", "scale", "base_size", "min_size", "pre_nms_topn", "post_nms_topn", "nms_thresh"}


class Proposal(Op):
    """Runs in Python."""

    types = ("Proposal",)
    bottoms = (2, 3)
    tops = (1, 2)
    kind = "host"

    def __init__(self, fields: Fields) -> None:
        self.rule: Thresholded | BestFirst = _read_rule(fields)
        self._tops = len(fields.param.top)
        if self._tops == 2 and isinstance(self.rule, Thresholded):
            raise RefusedError("has a second top (scores), which this fork's layer does not give")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, codes, *info = bottoms
        anchors = len(self.rule.anchors)
        if len(scores) != 4 or scores[1] != 2 * anchors or codes != (scores[0], 4 * anchors, *scores[2:]):
            raise RefusedError(
                f"scores have the shape {'x'.join(map(str, scores))} and codes {'x'.join(map(str, codes))}; expected "
                f"N x {2 * anchors} x H x W and N x {4 * anchors} x H x W for {anchors} anchors"
            )
        needed = self.rule.image_numbers * (scores[0] if isinstance(self.rule, BestFirst) else 1)
        if needed and (not info or count(info[0]) < needed or count(info[0]) % scores[0]):
            raise RefusedError(f"needs a third bottom with {self.rule.image_numbers} or more numbers on the image")
        rows = scores[0] * self.rule.keep
        shape: Shape = (scores[0], 1, self.rule.keep, 5) if self.rule.image_size else (rows, 5)
        tops: list[Shape] = [shape, (rows,)]
        return tops[: self._tops]

    def run(self, bottoms: Sequence[Array], call: Call) -> list[Array]:
        images, anchors = len(bottoms[0]), len(self.rule.anchors)
        info = bottoms[2].reshape(images, -1) if len(bottoms) == 3 else np.zeros((images, 0), np.float32)
        tables = []
        for i in range(images):
            codes = bottoms[1][i].reshape(anchors, 4, *bottoms[1].shape[2:])
            with np.errstate(all="ignore"):
                rows = self.rule.propose(bottoms[0][i, anchors:], codes, info[i])
            tables.append(np.column_stack([np.full(len(rows), i, dtype=np.float32), rows]))
        if self.rule.image_size:
            tables = [np.concatenate([rows, np.zeros((self.rule.keep - len(rows), 6), np.float32)]) for rows in tables]
        table = np.zeros((images * self.rule.keep, 6), dtype=np.float32)
        rows = np.concatenate(tables)
        table[: len(rows)] = rows
        return [table[:, :5].reshape(call.top_shapes[0]), table[:, 5]][: self._tops]


def _read_rule(fields: Fields) -> Thresholded | BestFirst:
    group = fields.group("proposal_param")
    given = {field.name for field, _ in fields.param.proposal_param.ListFields()}
    dialects = [known for known in (_SOPHGO, _SYNOPSYS, _PY_FASTER_RCNN) if given & known]
    if len(dialects) > 1:
        raise RefusedError(
            f"mixes the proposal_param fields {', '.join(sorted(given))} of different forks; keep those of one"
        )
    if given & _PY_FASTER_RCNN:
        return BestFirst(
            anchors=py_faster_rcnn_anchors(group.base_size, group.ratio, group.scale),
            stride=group.feat_stride,
            min_size=group.min_size,
            best=group.pre_nms_topn,
            overlap=group.nms_thresh,
            keep=group.post_nms_topn,
        )
    if given & _SYNOPSYS:
        scales = (8.0, 16.0, 32.0) if group.anchor_scale == 3 else (32.0,)
        ratios = (0.5, 1.0, 2.0) if group.anchor_ratio == 3 else (1.0,)
        return Thresholded(group.anchor_base_size, ratios, scales, group.feat_stride, 0.3, 0.7, group.max_rois, None)
    if group.net_input_h < 1 or group.net_input_w < 1:
        raise RefusedError("has no net_input_h and net_input_w, and no field that names another fork's Proposal")
    return Thresholded(
        group.anchor_base_size,
        (0.5, 1.0, 2.0),
        (8.0, 16.0, 32.0),
        group.feat_stride,
        group.rpn_obj_threshold,
        group.rpn_nms_threshold,
        group.rpn_nms_post_top_n,
        (group.net_input_h, group.net_input_w),
    )


register(Proposal)
