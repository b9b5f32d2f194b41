"""MVN: y = (x - mean) / (sqrt(variance) + eps), over the pixels of a channel, or over all channels of an image.

Shapes: bottom with four axes at most; top (N, C, H, W), with ones for axes that the bottom lacks. Parameters:
`normalize_variance` true (false: y = x - mean), `across_channels` false, `eps` 1e-9, and `add_eps_before_sqrt` of some
forks, default false: y = (x - mean) / sqrt(variance + eps).
Source: BVLC/caffe, src/caffe/layers/mvn_layer.cpp, Reshape, Forward_cpu;
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.legacy import four_axes
from calib8.layer_kit.onnx_builder import OnnxBuilder


class MVN(Op):
    """Normalisation by its own mean and variance; ONNX ReduceMean, Sub, Div."""

    types = ("MVN",)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("mvn_param")
        self.normalize_variance: bool = group.normalize_variance
        self.across_channels: bool = group.across_channels
        self.eps: float = group.eps
        self.eps_before_sqrt: bool = group.add_eps_before_sqrt

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [four_axes(bottoms[0])]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        axes = g.ints(1, 2, 3) if self.across_channels else g.ints(2, 3)
        x = g.node("Reshape", call.bottoms[0], g.ints(*call.top_shapes[0]))
        centred = g.node("Sub", x, g.node("ReduceMean", x, axes))
        if not self.normalize_variance:
            return [centred]
        variance = g.node("ReduceMean", g.node("Mul", centred, centred), axes)
        if self.eps_before_sqrt:
            deviation = g.node("Sqrt", g.node("Add", variance, g.scalar(self.eps)))
        else:
            deviation = g.node("Add", g.node("Sqrt", variance), g.scalar(self.eps))
        return [g.node("Div", centred, deviation)]


register(MVN)
