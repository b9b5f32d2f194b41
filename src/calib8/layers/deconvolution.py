"""Deconvolution: the transpose of a convolution; every element of x adds x * w to a window of y, plus b.

Shapes: bottom (N, C, spatial...), `axis` as in Convolution; weights (C, num_output/group, kernel...), bias
(num_output); top (N, num_output, stride*(size-1) + dilation*(kernel-1) + 1 - 2*pad, ...). Several bottoms share the
weights.
`pad_l`, `pad_r`, `pad_t`, `pad_b` (Synopsys) are cut from each side of the top.
Source: BVLC/caffe, src/caffe/layers/base_conv_layer.cpp, LayerSetUp and Reshape; deconv_layer.cpp;
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, src/caffe/layers/deconv_layer.cpp, compute_output_shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Shape
from calib8.layer_kit.base import Call, count, register
from calib8.layer_kit.fields import RefusedError
from calib8.layer_kit.form import IntegerForm, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.spatial import Window
from calib8.layer_kit.subpixel import transposed_weighted_sum
from calib8.layer_kit.weighted_sum import WeightedSum
from calib8.layer_kit.weighted_window import WeightedWindow


class Deconvolution(WeightedWindow):
    """Transposed convolution; ONNX ConvTranspose."""

    types = ("Deconvolution", "DeconvolutionRistretto")

    def spatial_top(self, spatial: Shape, window: Window) -> Shape:
        numbers = zip(spatial, window.kernel, window.stride, window.pad, window.pad_end, window.dilation, strict=True)
        top = tuple(s * (size - 1) + d * (k - 1) + 1 - p - q for size, k, s, p, q, d in numbers)
        if min(top, default=1) < 1:
            raise RefusedError(f"the top would have spatial shape {list(top)}; the pads cut off more than there is")
        return top

    def weight_shape(self, channels: int, outputs: int, groups: int, kernel: Shape) -> Shape:
        return (channels, outputs // groups, *kernel)

    def over_weights(self, factor: NDArray[np.float64], weights: Shape, groups: int) -> NDArray[np.float64]:
        """Repeat the outputs of a group for each of its inputs."""
        by_input = np.repeat(factor.reshape(groups, -1), weights[0] // groups, axis=0)
        return by_input.reshape(*weights[:2], *(1,) * (len(weights) - 2))

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        window, groups = self.geometry(call.bottom_shapes[0])
        weights, *bias = call.blobs
        kernels = weights.reshape(*weights.shape[:2], *window.kernel)
        inputs = [g.weight(b) for b in (kernels, *bias)]
        return self.slide(g, call, lambda x: g.node(
            "ConvTranspose", x, *inputs, group=groups, kernel_shape=window.kernel,
            strides=window.stride, pads=window.pads, dilations=window.dilation,
        ))  # fmt: skip

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        bottom, top = self.folded(call.bottom_shapes[0]), self.folded(call.top_shapes[0])
        window, groups = self.geometry(call.bottom_shapes[0])
        own = expect(form, WeightedSum)
        kernels = own.weights.reshape(*own.weights.shape[:2], *window.kernel)
        return self.slide(g, call, lambda x: transposed_weighted_sum(
            g, x, kernels, own.bias, own.rshift, window, groups, bottom, top,
        ))  # fmt: skip

    def multiply_adds(self, call: Call) -> int:
        per_input = count(self.blob_shapes(call.bottom_shapes)[0][1:])
        return sum(count(bottom) * per_input for bottom in call.bottom_shapes)


register(Deconvolution)
