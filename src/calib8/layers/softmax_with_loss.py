"""SoftmaxWithLoss: y = sum of -log(max(p, FLT_MIN)) / n, p the softmax's probability of each place's label.

Shapes: bottoms x (N, ..., C, ...) and labels, as many as x has places beside the axis of C; tops y, a number, and, if
there are two, the probabilities, as x. Parameters: `softmax_param.axis`, default 1; `loss_param`: places with
`ignore_label` do not count; `normalization` says what n is: VALID (default) the places that count, FULL all places,
BATCH_SIZE the samples, NONE 1; `normalize`, the older form, is VALID or BATCH_SIZE; n is at least 1.
It only measures: a network has it where labels are at hand, as in pycaffe.
Source: BVLC/caffe, src/caffe/layers/softmax_loss_layer.cpp, LayerSetUp, Reshape, get_normalizer, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.proto.onnx_messages import TensorProto


class SoftmaxWithLoss(Op):
    """Mean cross entropy; ONNX Softmax, GatherElements, Log, ReduceSum."""

    types = ("SoftmaxWithLoss",)
    bottoms = (2, 2)
    tops = (0, 2)

    def __init__(self, fields: Fields) -> None:
        self.axis: int = fields.group("softmax_param").axis
        group = fields.group("loss_param")
        self.ignore_label: int | None = group.ignore_label if group.has("ignore_label") else None
        self.normalization: str = group.normalization
        if group.has("normalize") and not group.has("normalization"):
            self.normalization = "VALID" if group.normalize else "BATCH_SIZE"
        if self.normalization not in ("VALID", "FULL", "BATCH_SIZE", "NONE"):
            raise RefusedError(f"loss_param.normalization is {self.normalization}, which is not supported here")
        self._tops = len(fields.param.top)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        outer, _, inner = as_places(bottoms, self.axis)
        if count(bottoms[1]) != outer * inner:
            raise RefusedError(f"has {count(bottoms[1])} labels for {outer * inner} places")
        return [(), bottoms[0]][: self._tops]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        outer, _, inner = as_places(call.bottom_shapes, self.axis)
        x = g.node("Reshape", call.bottoms[0], g.ints(*as_places(call.bottom_shapes, self.axis)))
        probabilities = g.node("Softmax", x, axis=1)
        labels, counts = labels_of_places(g, call.bottoms[1], (outer, 1, inner), self.ignore_label)
        own = g.node("GatherElements", probabilities, labels, axis=1)
        smallest = g.scalar(float(np.finfo(np.float32).tiny))
        losses = g.node("Mul", g.node("Neg", g.node("Log", g.node("Max", own, smallest))), counts)
        total = g.node("ReduceSum", losses, keepdims=0)
        n = {
            "VALID": lambda: g.node("Max", g.node("ReduceSum", counts, keepdims=0), g.scalar(1)),
            "FULL": lambda: g.scalar(outer * inner),
            "BATCH_SIZE": lambda: g.scalar(outer),
            "NONE": lambda: g.scalar(1),
        }[self.normalization]()
        shaped = g.node("Reshape", probabilities, g.ints(*call.bottom_shapes[0]))
        return [g.node("Div", total, n), shaped][: self._tops]


def as_places(bottoms: Sequence[Shape], axis: int) -> Shape:
    """Read a bottom's shape as (places before the axis, classes, places behind it)."""
    axis = canonical_axis(axis, len(bottoms[0]), "axis")
    return count(bottoms[0][:axis]), bottoms[0][axis], count(bottoms[0][axis + 1 :])


def labels_of_places(g: OnnxBuilder, bottom: str, shape: Shape, ignored: int | None) -> tuple[str, str]:
    """Give labels as int64 in this shape, 0 for ignored ones; and 1.0 where a label counts, else 0.0."""
    labels = g.node("Cast", g.node("Reshape", bottom, g.ints(*shape)), to=TensorProto.INT64)
    if ignored is None:
        return labels, g.node("Expand", g.scalar(1), g.ints(*shape))
    is_ignored = g.node("Equal", labels, g.constant(np.int64(ignored)))
    counts = g.node("Where", is_ignored, g.scalar(0), g.scalar(1))
    return g.node("Where", is_ignored, g.constant(np.int64(0)), labels), counts


register(SoftmaxWithLoss)
