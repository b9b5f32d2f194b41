"""Bias: y = x + beta, where beta covers some axes of x and is repeated over the others.

Shapes: bottom (d0, ...), beta (d[axis], ..., d[axis + num_axes - 1]); top as bottom. beta is a weight, or the second
bottom (`num_axes` then has no meaning). Parameters: `axis` 1, `num_axes` 1 (-1: to the end; 0: one number).
Source: BVLC/caffe, src/caffe/layers/bias_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, ChannelAffine, Op, register
from calib8.layer_kit.broadcast import read_span
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.onnx_builder import OnnxBuilder


class Bias(Op):
    """Adds along some axes; ONNX Add."""

    types = ("Bias",)
    bottoms = (1, 2)

    def __init__(self, fields: Fields) -> None:
        self.span = read_span(fields.group("bias_param"), "bias_param")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.span.aligned(bottoms[0], self.span.operand(bottoms))
        return [bottoms[0]]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.span.operand(bottoms)] if len(bottoms) == 1 else []

    def channel_affine(self, call: Call) -> ChannelAffine | None:
        bottom, rank = call.bottom_shapes[0], len(call.bottom_shapes[0])
        if not call.blobs or self.span.aligned(bottom, call.blobs[0].shape) != (*bottom[1:2], *(1,) * (rank - 2)):
            return None
        offset = call.blobs[0].reshape(-1).astype(np.float64)
        return ChannelAffine(np.ones_like(offset), offset)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        shape = self.span.aligned(call.bottom_shapes[0], self.span.operand(call.bottom_shapes))
        if call.blobs:
            return [g.node("Add", call.bottoms[0], g.weight(call.blobs[0].reshape(shape)))]
        return [g.node("Add", call.bottoms[0], g.node("Reshape", call.bottoms[1], g.ints(*shape)))]


register(Bias)
