"""PReLU: y = max(x, 0) + slope * min(x, 0), with one slope per channel or one for all.

Shapes: bottom (N, C, ...), two dimensions at least; blob slope (C), or one number with `channel_shared: true`
(default false); top as bottom. Source: BVLC/caffe, src/caffe/layers/prelu_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import prelu_constants
from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, QuantizeCall, register
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.codes import two_sided
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.form import IntegerForm, Integers, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales
from calib8.layer_kit.real_scales import two_sided as two_sided_scales
from calib8.layer_kit.table_row import TableRow, multipliers, require, side, side_shift


@dataclass(frozen=True, eq=False)
class PReluForm(IntegerForm):
    """`sat8(rnd(max(x,0)*gt_scale/2^gt_rshift)) + sat8(rnd(min(x,0)*slopes[c]/2^le_rshift))`.

    Attributes:
        slopes: 8 bits, in the shape of the layer's blob.
    """

    slopes: NDArray[np.int8]
    gt_scale: int
    gt_rshift: int
    le_rshift: int

    @property
    def blobs(self) -> tuple[Integers, ...]:
        """The slopes."""
        return (self.slopes,)

    @property
    def table_shift(self) -> int:
        """The shift of the negative side, as of a leaky ReLU."""
        return self.le_rshift

    def with_blobs(self, blobs: Sequence[Integers]) -> PReluForm:
        """Take other slopes."""
        return replace(self, slopes=blobs[0])

    def fill_row(self, row: TableRow) -> None:
        """Write `prelu_param`."""
        row.prelu_param.gt_scale, row.prelu_param.gt_right_shift_width = self.gt_scale, self.gt_rshift
        row.prelu_param.le_right_shift_width = self.le_rshift

    def from_row(self, row: TableRow, bottoms: int) -> PReluForm:
        """Take the constants of `prelu_param`."""
        multipliers(row, 0)
        require(row, "prelu_param")
        gt_scale, gt_rshift = side(row.prelu_param, "gt")
        return PReluForm(self.slopes, gt_scale, gt_rshift, side_shift(row.prelu_param, "le"))

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give the step of the bottom, and that of the slopes, which are weights."""
        return two_sided_scales((self.gt_scale, self.gt_rshift), (1, self.le_rshift), top)


class PReLU(Op):
    """Rectifier with learned slopes; ONNX PRelu."""

    types = ("PReLU", "PReLURistretto")
    unfilled = 0.25

    def __init__(self, fields: Fields) -> None:
        self.channel_shared: bool = fields.group("prelu_param").channel_shared

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) < 2:
            raise RefusedError(f"bottom has {len(bottoms[0])} dimensions, expected N, C and any further axes")
        return list(bottoms)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [() if self.channel_shared else (bottoms[0][1],)]

    def channel_flow(self, call: Call) -> ChannelFlow:
        return ChannelFlow.CARRIED

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        return [g.node("PRelu", call.bottoms[0], g.weight(call.blobs[0].reshape(_along_channels(call))))]

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return None

    def quantize(self, q: QuantizeCall) -> PReluForm:
        integers = prelu_constants(q.call.blobs[0], q.bottom_thresholds[0], q.top_thresholds[0])
        return PReluForm(integers.slopes, integers.gt_scale, integers.gt_rshift, integers.le_rshift)

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        own = expect(form, PReluForm)
        negative = own.slopes.reshape(_along_channels(call)), own.le_rshift
        return [two_sided(g, call.bottoms[0], (own.gt_scale, own.gt_rshift), negative)]


def _along_channels(call: Call) -> Shape:
    return (-1,) + (1,) * (len(call.bottom_shapes[0]) - 2)


register(PReLU)
