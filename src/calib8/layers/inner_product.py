"""InnerProduct: y = W x + b over all axes from `axis` on.

Shapes: bottom (d0..d[axis-1], K...) seen as M x K; weights (num_output, K), or (K, num_output) with `transpose`;
bias (num_output); top (d0..d[axis-1], num_output). Parameters: `axis` 1, may be negative; `bias_term` true.
Source: BVLC/caffe, src/caffe/layers/inner_product_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, ChannelAffine, Op, QuantizeCall, Weights, canonical_axis, count, register
from calib8.layer_kit.channel_flow import ChannelFlow, Units, divided, scaled
from calib8.layer_kit.codes import ConvGeometry, weighted_sum
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.form import IntegerForm, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.weighted_sum import WeightedSum, fold_affine, quantize_weighted_sum
from calib8.layer_kit.window_product import WindowProduct, evenly


class InnerProduct(Op, WindowProduct):
    """Fully connected layer; ONNX Gemm."""

    types = ("InnerProduct", "FcRistretto")

    def __init__(self, fields: Fields) -> None:
        group = fields.group("inner_product_param")
        self.num_output: int = group.num_output
        self.bias_term: bool = group.bias_term
        self.transpose: bool = group.transpose
        self.axis: int = group.axis
        if self.num_output < 1:
            raise RefusedError("has no num_output")
        if group.relu:
            raise RefusedError("inner_product_param.relu is set; write the ReLU as a layer of its own")
        group.ignore("negative_slope")  # of that ReLU

    def matrix(self, bottom: Shape) -> tuple[int, int]:
        """Read the bottom as rows and columns, M x K."""
        axis = canonical_axis(self.axis, len(bottom), "inner_product_param.axis")
        return count(bottom[:axis]), count(bottom[axis:])

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        axis = canonical_axis(self.axis, len(bottoms[0]), "inner_product_param.axis")
        return [(*bottoms[0][:axis], self.num_output)]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        columns = self.matrix(bottoms[0])[1]
        weights = (columns, self.num_output) if self.transpose else (self.num_output, columns)
        return [weights, (self.num_output,)] if self.bias_term else [weights]

    def with_channel_affine(self, call: Call, affine: ChannelAffine) -> tuple[Op, Weights] | None:
        if len(call.top_shapes[0]) != 2:
            return None
        weights, *bias = call.blobs
        along = affine.factor if self.transpose else affine.factor[:, None]
        op = copy(self)
        op.bias_term = True
        return op, fold_affine(weights, bias[0] if bias else None, along, affine.factor, affine.offset)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        x = g.node("Reshape", call.bottoms[0], g.ints(*self.matrix(call.bottom_shapes[0])))
        y = g.node("Gemm", x, *(g.weight(b) for b in call.blobs), transB=0 if self.transpose else 1)
        return [g.node("Reshape", y, g.ints(*call.top_shapes[0])) if len(call.top_shapes[0]) != 2 else y]

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return None

    def quantize(self, q: QuantizeCall) -> WeightedSum:
        weights, *bias = q.call.blobs
        tx, ty = q.bottom_thresholds[0], q.top_thresholds[0]
        return quantize_weighted_sum(weights, bias[0] if bias else None, tx, ty, q.refinement)

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        """Add a 1x1 convolution over M images of one pixel with K channels."""
        rows, columns = self.matrix(call.bottom_shapes[0])
        own = expect(form, WeightedSum)
        kernels = (own.weights.T if self.transpose else own.weights).reshape(self.num_output, columns, 1, 1)
        x = g.node("Reshape", call.bottoms[0], g.ints(rows, columns, 1, 1))
        pixel = ConvGeometry((1, 1), (0, 0, 0, 0), (1, 1))
        y = weighted_sum(g, x, kernels, own.bias, own.rshift, pixel)
        return [g.node("Reshape", y, g.ints(*call.top_shapes[0]))]

    def product_windows(self, bottom: Array, count: int) -> Array:
        """Pick windows: they are rows of the bottom."""
        rows = bottom.reshape(self.matrix(bottom.shape))
        return rows[evenly(len(rows), count)][None]

    def product_matrix(self, weights: Array) -> Array:
        matrix = weights.T if self.transpose else weights
        return matrix[None]

    def product_weights(self, matrices: Array) -> Array:
        matrix: Array = matrices[0]
        return matrix.T if self.transpose else matrix

    def channel_flow(self, call: Call) -> ChannelFlow:
        bottom = call.bottom_shapes[0]
        flat = len(bottom) > 1 and canonical_axis(self.axis, len(bottom), "inner_product_param.axis") == 1
        return ChannelFlow.WEIGHTED if flat else ChannelFlow.MIXED

    def blobs_in_units(self, call: Call, bottom: Units | None, top: Units | None) -> tuple[Array, ...]:
        weights, *bias = call.blobs
        rows = weights.T if self.transpose else weights
        columns = None if bottom is None else np.repeat(bottom.astype(np.float32), rows.shape[1] // bottom.size)
        rows = scaled(rows, columns, top)
        return (rows.T if self.transpose else rows, *divided(bias, top))

    def multiply_adds(self, call: Call) -> int:
        rows, columns = self.matrix(call.bottom_shapes[0])
        return rows * columns * self.num_output


register(InnerProduct)
