"""Convolution: y[n, o] = sum_i w[o, i] * x[n, i] + b[o] over a sliding window.

Shapes: bottom (N, C, spatial...), any number of spatial axes, none too; `axis` (default 1) is that of C, and all axes
before it are images. Weights (num_output, C/group, kernel...), bias (num_output); top (N, num_output,
floor((size + 2*pad - dilation*(kernel-1) - 1) / stride) + 1, ...). Several bottoms share the weights.
`pad_l`, `pad_r`, `pad_t`, `pad_b` (Synopsys) are the pads of each side; `hole`, `hole_h`, `hole_w` (DeepLab) are the
dilation under an older name. DepthwiseConvolution is the same layer with a
fast kernel for group = num_output; ConvolutionDepthwise, which takes the groups from its bottom, has its own file.
ConvolutionRistretto is this layer, too: the fixed point that its `quantization_param` asks for is left to calib8. So
are Ristretto's other types, in the files of Deconvolution, InnerProduct (FcRistretto), LRN and PReLU.
Source: BVLC/caffe, src/caffe/layers/base_conv_layer.cpp, LayerSetUp and Reshape; conv_layer.cpp;
yonghenglh6/DepthwiseConvolution, caffe/src/caffe/layers/depthwise_conv_layer.cpp; pmgysel/caffe,
include/ristretto/base_ristretto_layer.hpp.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, count, register
from calib8.layer_kit.channel_flow import ChannelFlow, Units, divided, scaled
from calib8.layer_kit.codes import ConvGeometry, weighted_sum
from calib8.layer_kit.form import IntegerForm, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.spatial import Window, conv_output_shape
from calib8.layer_kit.weighted_sum import WeightedSum
from calib8.layer_kit.weighted_window import WeightedWindow
from calib8.layer_kit.window_product import WindowProduct, windows


class Convolution(WeightedWindow, WindowProduct):
    """Windowed weighted sums; ONNX Conv."""

    types: ClassVar[tuple[str, ...]] = ("Convolution", "DepthwiseConvolution", "ConvolutionRistretto")
    takes_channel_units = True  # of its top

    def spatial_top(self, spatial: Shape, window: Window) -> Shape:
        return conv_output_shape(spatial, window)

    def weight_shape(self, channels: int, outputs: int, groups: int, kernel: Shape) -> Shape:
        return (outputs, channels // groups, *kernel)

    def over_weights(self, factor: NDArray[np.float64], weights: Shape, groups: int) -> NDArray[np.float64]:
        return factor.reshape(-1, *(1,) * (len(weights) - 1))

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        window, groups = self.geometry(call.bottom_shapes[0])
        weights, *bias = call.blobs
        kernels = weights.reshape(*weights.shape[:2], *window.kernel)
        inputs = [g.weight(b) for b in (kernels, *bias)]
        return self.slide(g, call, lambda x: g.node(
            "Conv", x, *inputs, group=groups, kernel_shape=window.kernel,
            strides=window.stride, pads=window.pads, dilations=window.dilation,
        ))  # fmt: skip

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        window, groups = self.geometry(call.bottom_shapes[0])
        geometry = ConvGeometry(window.stride, window.pads, window.dilation, groups)
        own = expect(form, WeightedSum)
        kernels = own.weights.reshape(*own.weights.shape[:2], *window.kernel)
        return self.slide(g, call, lambda x: weighted_sum(g, x, kernels, own.bias, own.rshift, geometry))

    def product_windows(self, bottom: Array, count: int) -> Array:
        window, groups = self.geometry(bottom.shape)
        found = windows(bottom.reshape(self.folded(bottom.shape)), window, count)
        return found.reshape(len(found), groups, -1).transpose(1, 0, 2)

    def product_matrix(self, weights: Array) -> Array:
        outputs, inputs = weights.shape[0], math.prod(weights.shape[1:])
        groups = self.groups_of(weights)
        return weights.reshape(groups, outputs // groups, inputs)

    def product_weights(self, matrices: Array) -> Array:
        return matrices.reshape(-1, matrices.shape[-1])

    def groups_of(self, weights: Array) -> int:
        """Return the number of groups, from the weights where the layer takes it from its bottom."""
        return self.group

    def channel_flow(self, call: Call) -> ChannelFlow:
        one = len(call.bottom_shapes) == 1 and len(call.bottom_shapes[0]) > 1
        return ChannelFlow.WEIGHTED if one and self.channel_axis(call.bottom_shapes[0]) == 1 else ChannelFlow.MIXED

    def blobs_in_units(self, call: Call, bottom: Units | None, top: Units | None) -> tuple[Array, ...]:
        weights, *bias = call.blobs
        columns = None
        if bottom is not None:
            _, groups = self.outputs_and_groups(bottom.size)
            columns = np.repeat(bottom.astype(np.float32).reshape(groups, -1), len(weights) // groups, axis=0)
            columns = columns.reshape(*columns.shape, *(1,) * (weights.ndim - 2))
        return (scaled(weights, columns, top), *divided(bias, top))

    def multiply_adds(self, call: Call) -> int:
        per_output = count(self.blob_shapes(call.bottom_shapes)[0][1:])
        return sum(count(top) * per_output for top in call.top_shapes)


register(Convolution)
