"""What Convolution and Deconvolution share: parameters, weights, and the axes that the window slides over.

Source: BVLC/caffe, src/caffe/layers/base_conv_layer.cpp, LayerSetUp and Reshape.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Shape
from calib8.layer_kit.base import UNLIMITED, Call, ChannelAffine, Op, QuantizeCall, Weights, canonical_axis, count
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.spatial import Window, read_window
from calib8.layer_kit.weighted_sum import WeightedSum, fold_affine, quantize_weighted_sum

_POINT = Window(kernel=(1,), stride=(1,), pad=(0,), pad_end=(0,), dilation=(1,))


class WeightedWindow(Op):
    """A weighted sum over a window. Every bottom has its top, all bottoms have one shape and share the weights."""

    bottoms = (1, UNLIMITED)
    tops = (1, UNLIMITED)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("convolution_param")
        self.num_output: int = group.num_output
        self.bias_term: bool = group.bias_term
        self.group: int = group.group
        self.axis: int = group.axis
        self.window: Window = read_window(group)
        bottoms, tops = len(fields.param.bottom), len(fields.param.top)
        if bottoms != tops:
            raise RefusedError(f"has {bottoms} bottoms and {tops} tops, expected a top for each bottom")
        _refuse_fusion(group)

    @abstractmethod
    def spatial_top(self, spatial: Shape, window: Window) -> Shape:
        """Return the spatial axes of a top."""

    @abstractmethod
    def weight_shape(self, channels: int, outputs: int, groups: int, kernel: Shape) -> Shape:
        """Return the shape of the weights for a bottom with so many channels."""

    def channel_axis(self, bottom: Shape) -> int:
        """Return the bottom's axis of channels; those before it are images, those behind it are spatial."""
        return canonical_axis(self.axis, len(bottom), "convolution_param.axis")

    def over(self, bottom: Shape) -> Window:
        """Return the window with one number per spatial axis of this bottom; without numbers when it has none."""
        return self.window.over(len(bottom) - self.channel_axis(bottom) - 1)

    def outputs_and_groups(self, channels: int) -> tuple[int, int]:
        """Return the number of output channels and of groups for a bottom with so many channels."""
        if self.num_output < 1:
            raise RefusedError("has no num_output")
        if self.group < 1 or self.num_output % self.group:
            raise RefusedError(f"num_output {self.num_output} is not a multiple of group {self.group}")
        if channels % self.group:
            raise RefusedError(f"bottom has {channels} channels, not a multiple of group {self.group}")
        return self.num_output, self.group

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if any(b != bottoms[0] for b in bottoms):
            raise RefusedError(f"bottoms have different shapes: {', '.join(str(list(b)) for b in bottoms)}")
        axis = self.channel_axis(bottoms[0])
        outputs, _ = self.outputs_and_groups(bottoms[0][axis])
        spatial = self.spatial_top(bottoms[0][axis + 1 :], self.over(bottoms[0]))
        return [(*bottoms[0][:axis], outputs, *spatial)] * len(bottoms)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        channels = bottoms[0][self.channel_axis(bottoms[0])]
        outputs, groups = self.outputs_and_groups(channels)
        weights = self.weight_shape(channels, outputs, groups, self.over(bottoms[0]).kernel)
        return [weights, (outputs,)] if self.bias_term else [weights]

    def geometry(self, bottom: Shape) -> tuple[Window, int]:
        """Return window and groups as `slide` sees the bottom: one without spatial axes has one of length 1."""
        _, groups = self.outputs_and_groups(bottom[self.channel_axis(bottom)])
        window = self.over(bottom)
        return (window if window.kernel else _POINT), groups

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        """Refuse bottoms whose thresholds differ: they share the integer weights, so they must agree."""
        if len(set(q.bottom_thresholds)) > 1 or len(set(q.top_thresholds)) > 1:
            return "several bottoms with thresholds of their own share its weights"
        return None

    def quantize(self, q: QuantizeCall) -> WeightedSum:
        weights, *bias = self.in_units(q)
        tx, ty = q.bottom_thresholds[0], q.top_thresholds[0]
        return quantize_weighted_sum(weights, bias[0] if bias else None, tx, ty, q.refinement)

    def in_units(self, q: QuantizeCall) -> tuple[Array, ...]:
        """Divide weights and bias, for a top whose channels have units of their own, by the unit of each channel."""
        unit = q.top_units[0] if q.top_units else None
        if unit is None:
            return tuple(q.call.blobs)
        return tuple(b / unit.reshape(-1, *(1,) * (b.ndim - 1)) for b in q.call.blobs)

    @abstractmethod
    def over_weights(self, factor: NDArray[np.float64], weights: Shape, groups: int) -> NDArray[np.float64]:
        """Shape a number for each output (O) so that it is repeated over the weights of its output."""

    def with_channel_affine(self, call: Call, affine: ChannelAffine) -> tuple[Op, Weights] | None:
        bottom = call.bottom_shapes[0]
        if len(call.bottom_shapes) > 1 or self.channel_axis(bottom) != 1:
            return None
        weights, *bias = call.blobs
        along = self.over_weights(affine.factor, weights.shape, self.geometry(bottom)[1])
        blobs = fold_affine(weights, bias[0] if bias else None, along, affine.factor, affine.offset)
        op = copy(self)
        op.bias_term = True
        return op, blobs

    def folded(self, shape: Shape) -> Shape:
        """Return the shape of a bottom or top as `slide` sees it: (N, C, spatial...), one spatial axis at least."""
        axis = self.channel_axis(shape)
        return (count(shape[:axis]), *shape[axis:]) + (1,) * (axis == len(shape) - 1)

    def slide(self, g: OnnxBuilder, call: Call, node: Callable[[str], str]) -> list[str]:
        """Apply `node` to each bottom as (N, C, spatial...), and give its result the shape of the top."""
        folded = self.folded(call.bottom_shapes[0])
        if folded == call.bottom_shapes[0]:
            return [node(x) for x in call.bottoms]
        tops = [node(g.node("Reshape", x, g.ints(*folded))) for x in call.bottoms]
        return [g.node("Reshape", y, g.ints(*call.top_shapes[0])) for y in tops]


def _refuse_fusion(group: Group) -> None:
    """Intel's fused layers, which its own tools write and no hand."""
    if group.relu:
        raise RefusedError("convolution_param.relu is set; write the ReLU as a layer of its own")
    if group.fusion_type != "NONE_FUSION":
        raise RefusedError(f"convolution_param.fusion_type is {group.fusion_type}; write the Eltwise as a layer")
    group.ignore("negative_slope", "coeff")  # of what would be fused
