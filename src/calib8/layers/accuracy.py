"""Accuracy: y = the share of places whose label is among the top_k largest scores.

Shapes: bottoms x (N, ..., C, ...) and labels, as many as x has places beside the axis of C; tops y, a number, and, if
there are two, the share for each class (C), 0 for one without places. Parameters: `top_k`, default 1; `axis`, default
1; places with `ignore_label` do not count. A label counts as found when fewer than top_k other scores are as large as
its own or larger. It only measures: a network has it where labels are at hand, as in pycaffe.
Source: BVLC/caffe, src/caffe/layers/accuracy_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, count, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layers.softmax_with_loss import as_places, labels_of_places
from calib8.proto.onnx_messages import TensorProto


class Accuracy(Op):
    """Share of right answers; ONNX GatherElements, GreaterOrEqual, ReduceSum."""

    types = ("Accuracy",)
    bottoms = (2, 2)
    tops = (1, 2)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("accuracy_param")
        self.top_k: int = group.top_k
        self.axis: int = group.axis
        self.ignore_label: int | None = group.ignore_label if group.has("ignore_label") else None
        self._tops = len(fields.param.top)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        outer, classes, inner = as_places(bottoms, self.axis)
        if count(bottoms[1]) != outer * inner:
            raise RefusedError(f"has {count(bottoms[1])} labels for {outer * inner} places")
        if self.top_k > classes:
            raise RefusedError(f"accuracy_param.top_k is {self.top_k}, more than the {classes} classes")
        return [(), (classes,)][: self._tops]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        outer, classes, inner = as_places(call.bottom_shapes, self.axis)
        x = g.node("Reshape", call.bottoms[0], g.ints(outer, classes, inner))
        labels, counts = labels_of_places(g, call.bottoms[1], (outer, 1, inner), self.ignore_label)
        own = g.node("GatherElements", x, labels, axis=1)
        as_large = g.node("Cast", g.node("GreaterOrEqual", x, own), to=TensorProto.FLOAT)
        rank = g.node("ReduceSum", as_large, g.ints(1), keepdims=1)  # its own score is one of them
        hit = g.node("Cast", g.node("LessOrEqual", rank, g.scalar(self.top_k)), to=TensorProto.FLOAT)
        hit = g.node("Mul", hit, counts)
        tops = [_share(g, g.node("ReduceSum", hit, keepdims=0), g.node("ReduceSum", counts, keepdims=0))]
        if self._tops == 2:
            of_class = g.node("Equal", labels, g.constant(np.arange(classes).reshape(1, classes, 1)))
            members = g.node("Mul", g.node("Cast", of_class, to=TensorProto.FLOAT), counts)
            hits = g.node("ReduceSum", g.node("Mul", members, hit), g.ints(0, 2), keepdims=0)
            tops.append(_share(g, hits, g.node("ReduceSum", members, g.ints(0, 2), keepdims=0)))
        return tops


def _share(g: OnnxBuilder, part: str, whole: str) -> str:
    """part / whole, 0 for nothing of nothing."""
    return g.node("Div", part, g.node("Max", whole, g.scalar(1)))


register(Accuracy)
