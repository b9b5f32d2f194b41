"""Im2col: every window of a convolution as one column of channels.

y[n, (c*Kh + i)*Kw + j, h, w] = x[n, c, h*stride - pad + i*dilation, w*stride - pad + j*dilation], 0 in the pad.
Shapes: bottom (N.., C, spatial...), `axis` being C's; top (N.., C * product of the kernel, output sizes of a
convolution...). Parameters: those of Convolution for windows; `axis`, default 1, negative from the end.
Source: BVLC/caffe, src/caffe/layers/im2col_layer.cpp, Im2colLayer::LayerSetUp and Reshape; src/caffe/util/im2col.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, canonical_axis, count, register
from calib8.layer_kit.constants import check_constant
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.spatial import Window, conv_output_shape, read_window


class Im2col(Op):
    """Windows as columns; ONNX Pad, Gather."""

    types = ("Im2col",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("convolution_param")
        self.window: Window = read_window(group)
        self.axis: int = group.axis
        group.ignore("num_output", "bias_term", "group")  # of the convolution that would follow

    def over(self, bottom: Shape) -> tuple[int, Window]:
        """Return the axis of the channels, and the window with one number per axis behind it."""
        axis = canonical_axis(self.axis, len(bottom), "convolution_param.axis")
        if axis == len(bottom) - 1:
            raise RefusedError(f"bottom has {len(bottom)} dimensions, and none behind axis {axis}")
        return axis, self.window.over(len(bottom) - axis - 1)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom = bottoms[0]
        axis, window = self.over(bottom)
        spatial = conv_output_shape(bottom[axis + 1 :], window)
        check_constant(count(window.kernel) * count(spatial), "the list of the windows' places")
        return [(*bottom[:axis], bottom[axis] * count(window.kernel), *spatial)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        bottom, top = call.bottom_shapes[0], call.top_shapes[0]
        axis, window = self.over(bottom)
        x, outer = call.bottoms[0], (0,) * (axis + 1)
        padded = [d + p + q for d, p, q in zip(bottom[axis + 1 :], window.pad, window.pad_end, strict=True)]
        if any(window.pads):
            x = g.node("Pad", x, g.ints(*outer, *window.pad, *outer, *window.pad_end))
        x = g.node("Reshape", x, g.ints(count(bottom[: axis + 1]), count(padded)))
        x = g.node("Gather", x, g.constant(_places(padded, top[axis + 1 :], window)), axis=1)
        return [g.node("Reshape", x, g.ints(*top))]


def _places(padded: Sequence[int], output: Sequence[int], window: Window) -> NDArray[np.int64]:
    """Where the elements of the windows lie in the flat padded image: (product of the kernel, output places)."""
    axes = len(padded)
    places = np.zeros((1,) * (2 * axes), np.int64)
    for i in range(axes):
        start = np.arange(output[i]) * window.stride[i]
        offset = np.arange(window.kernel[i]) * window.dilation[i]
        along = np.add.outer(offset, start) * count(padded[i + 1 :])
        shape = [1] * (2 * axes)
        shape[i], shape[axes + i] = along.shape
        places = places + along.reshape(shape)
    return places.reshape(count(window.kernel), count(output))


register(Im2col)
