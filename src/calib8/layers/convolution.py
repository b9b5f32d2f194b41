"""Convolution: y[n, o] = sum_i w[o, i] * x[n, i] + b[o] over a sliding window.

Shapes: bottom (N, C, spatial...); weights (num_output, C/group, kernel...), bias (num_output);
top (N, num_output, floor((size + 2*pad - dilation*(kernel-1) - 1) / stride) + 1, ...). Several bottoms share the
weights and give one top each. Depthwise forks (ConvolutionDepthwise, DepthwiseConvolution) are group = num_output.
Source: BVLC/caffe, src/caffe/layers/base_conv_layer.cpp, lines 12-195; conv_layer.cpp, lines 8-22.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layers.base import UNLIMITED, Call, Op, QuantizeCall, count, register
from calib8.layers.codes import ConvGeometry, weighted_sum
from calib8.layers.fields import Fields, RefusedError
from calib8.layers.onnx_builder import OnnxBuilder
from calib8.layers.plan import LayerPlan, shift_of
from calib8.layers.spatial import Window, conv_output_shape, read_window
from calib8.layers.weighted_sum import quantize_weighted_sum


class Convolution(Op):
    """Windowed weighted sums; ONNX Conv."""

    types = ("Convolution",)
    bottoms = (1, UNLIMITED)
    tops = (1, UNLIMITED)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("convolution_param")
        self.num_output: int = group.num_output
        self.bias_term: bool = group.bias_term
        self.group: int = group.group
        self.window: Window = read_window(group)
        if group.axis != 1:
            raise RefusedError(f"convolution_param.axis is {group.axis}; only 1 (channels) is implemented")
        if self.num_output < 1:
            raise RefusedError("has no num_output")
        if self.group < 1 or self.num_output % self.group:
            raise RefusedError(f"num_output {self.num_output} is not a multiple of group {self.group}")

    def over(self, bottom: Shape) -> Window:
        """The window with one number per spatial axis of this bottom."""
        if len(bottom) < 3:
            raise RefusedError(f"bottom has {len(bottom)} dimensions, expected N, C and at least one spatial axis")
        return self.window.over(len(bottom) - 2)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if any(b != bottoms[0] for b in bottoms):
            raise RefusedError(f"bottoms have different shapes: {list(bottoms)}")
        if bottoms[0][1] % self.group:
            raise RefusedError(f"bottom has {bottoms[0][1]} channels, not a multiple of group {self.group}")
        return [self.top_shape(b) for b in bottoms]

    def top_shape(self, bottom: Shape) -> Shape:
        """Shape of the top of one bottom."""
        return (bottom[0], self.num_output, *conv_output_shape(bottom[2:], self.over(bottom)))

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        weights = (self.num_output, bottoms[0][1] // self.group, *self.over(bottoms[0]).kernel)
        return [weights, (self.num_output,)] if self.bias_term else [weights]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        window = self.over(call.bottom_shapes[0])
        weights = [g.weight(b) for b in call.blobs]
        return [
            g.node(
                "Conv", x, *weights, group=self.group, kernel_shape=window.kernel,
                strides=window.stride, pads=window.pad * 2, dilations=window.dilation,
            )
            for x in call.bottoms
        ]  # fmt: skip

    def quantize(self, q: QuantizeCall) -> LayerPlan | None:
        """Several bottoms share the integer weights, so they must agree in their thresholds; else FP32."""
        if len(set(q.bottom_thresholds)) > 1 or len(set(q.top_thresholds)) > 1:
            return None
        weights, *bias = q.call.blobs
        return quantize_weighted_sum(weights, bias[0] if bias else None, q.bottom_thresholds[0], q.top_thresholds[0])

    def lower_int8(self, g: OnnxBuilder, call: Call, plan: LayerPlan) -> list[str]:
        window = self.over(call.bottom_shapes[0])
        geometry = ConvGeometry(window.stride, window.pad * 2, window.dilation, self.group)
        weights, *bias = plan.blobs
        return [weighted_sum(g, x, weights, bias[0] if bias else None, shift_of(plan), geometry) for x in call.bottoms]

    def multiply_adds(self, call: Call) -> int:
        per_output = count(self.blob_shapes(call.bottom_shapes)[0][1:])
        return sum(count(top) * per_output for top in call.top_shapes)


register(Convolution)
