"""Embed: y[..., :] = w[x[...]] + b, where x holds indices as floats.

Shapes: bottom (d0, ...); weights (input_dim, num_output), bias (num_output) with `bias_term` (default true); top
(d0, ..., num_output). Indices lose their fraction; Caffe leaves it open what happens below 0 and from input_dim on
(here the run fails). Source: BVLC/caffe, src/caffe/layers/embed_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.proto.onnx_messages import TensorProto


class Embed(Op):
    """Rows of a table; ONNX Gather and Add."""

    types = ("Embed",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("embed_param")
        self.num_output: int = group.num_output
        self.input_dim: int = group.input_dim
        self.bias_term: bool = group.bias_term
        if self.num_output < 1 or self.input_dim < 1:
            raise RefusedError(
                f"num_output is {self.num_output} and input_dim {self.input_dim}, expected at least 1 each"
            )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(*bottoms[0], self.num_output)]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        weights = (self.input_dim, self.num_output)
        return [weights, (self.num_output,)] if self.bias_term else [weights]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        indices = g.node("Cast", call.bottoms[0], to=TensorProto.INT64)
        rows = g.node("Gather", g.weight(call.blobs[0]), indices, axis=0)
        return [g.node("Add", rows, g.weight(call.blobs[1])) if self.bias_term else rows]


register(Embed)
