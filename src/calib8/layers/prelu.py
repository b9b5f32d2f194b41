"""PReLU: y = max(x, 0) + slope * min(x, 0), with one slope per channel or one for all.

Shapes: bottom (N, C, ...), two dimensions at least; blob slope (C), or one number with `channel_shared: true`
(default false); top as bottom. Source: BVLC/caffe, src/caffe/layers/prelu_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.arithmetic import prelu_constants
from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, QuantizeCall, register
from calib8.layer_kit.codes import two_sided
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.plan import LayerPlan, PReluRow, prelu_row_of


class PReLU(Op):
    """Rectifier with learned slopes; ONNX PRelu."""

    types = ("PReLU",)
    unfilled = 0.25

    def __init__(self, fields: Fields) -> None:
        self.channel_shared: bool = fields.group("prelu_param").channel_shared

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 2:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected N, C and any further axes")
        return list(bottoms)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [() if self.channel_shared else (bottoms[0][1],)]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("PRelu", call.bottoms[0], g.weight(call.blobs[0].reshape(_along_channels(call))))]

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return None

    def quantize(self, q: QuantizeCall) -> LayerPlan:
        found = prelu_constants(q.call.blobs[0], q.bottom_thresholds[0], q.top_thresholds[0])
        return LayerPlan(blobs=(found.slopes,), prelu=PReluRow(found.gt_scale, found.gt_rshift, found.le_rshift))

    def lower_int8(self, g: OnnxBuilder, call: Call, plan: LayerPlan) -> list[str]:
        row = prelu_row_of(plan)
        negative = plan.blobs[0].reshape(_along_channels(call)), row.le_rshift
        return [two_sided(g, call.bottoms[0], (row.gt_scale, row.gt_rshift), negative)]


def _along_channels(call: Call) -> Shape:
    return (-1,) + (1,) * (len(call.bottom_shapes[0]) - 2)


register(PReLU)
