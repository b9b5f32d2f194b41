"""Scale: y = gamma * x (+ beta), where gamma and beta cover some axes of x and are repeated over the others.

Shapes: bottom (d0, ...), gamma and beta (d[axis], ..., d[axis + num_axes - 1]); top as bottom. gamma is a weight, or
the second bottom (`num_axes` then has no meaning). Parameters: `axis` 1, `num_axes` 1 (-1: to the end; 0: one number),
`bias_term` false. Blobs: gamma (with one bottom), then beta (with `bias_term`).
Source: BVLC/caffe, src/caffe/layers/scale_layer.cpp, LayerSetUp, Reshape, Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Array, Shape
from calib8.layer_kit.base import Call, ChannelAffine, Op, QuantizeCall, register
from calib8.layer_kit.broadcast import read_span
from calib8.layer_kit.channel_flow import ChannelFlow, Units, divided
from calib8.layer_kit.codes import affine_codes
from calib8.layer_kit.fields import Fields
from calib8.layer_kit.form import IntegerForm, Integers, blob_field, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales
from calib8.layer_kit.table_row import TableRow, multipliers, right_shift
from calib8.layer_kit.weighted_sum import WeightedSum, quantize_weighted_sum


@dataclass(frozen=True, eq=False)
class Skipped(IntegerForm):
    """A Scale whose work its BatchNorm does: gamma 1 and beta 0, and the shift of the one affine step in its row.

    Attributes:
        gamma: ones, in the shape of the blob.
        beta: zeros; None for a Scale without a bias.
        rshift: the BatchNorm's.
    """

    gamma: NDArray[np.int8]
    beta: NDArray[np.int16] | None
    rshift: int

    @property
    def blobs(self) -> tuple[Integers, ...]:
        """gamma, then beta."""
        return (self.gamma,) if self.beta is None else (self.gamma, self.beta)

    @property
    def accumulator_shift(self) -> int:
        """The BatchNorm's shift."""
        return self.rshift

    @property
    def hands_on(self) -> bool:
        """Codes go through."""
        return True

    def with_blobs(self, blobs: Sequence[Integers]) -> Skipped:
        """Take the blobs of a file, which nothing computes with."""
        return replace(self, gamma=blobs[0], beta=blob_field(blobs, 1))

    def fill_row(self, row: TableRow) -> None:
        """Write the shift, and that the layer is skipped."""
        row.right_shift_width = self.rshift
        row.fusion_skipped = 1

    def from_row(self, row: TableRow, bottoms: int) -> Skipped:
        """Take the shift of a row."""
        rshift = right_shift(row)
        multipliers(row, 0)
        return replace(self, rshift=rshift)

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give the steps of the codes that go through."""
        return RealScales(tuple(bottoms), top)


class Scale(Op):
    """Multiplies, and adds, along some axes; ONNX Mul and Add."""

    types = ("Scale",)
    bottoms = (1, 2)
    unfilled = 1.0

    def __init__(self, fields: Fields) -> None:
        group = fields.group("scale_param")
        self.span = read_span(group, "scale_param")
        self.bias_term: bool = group.bias_term

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.span.aligned(bottoms[0], self.span.operand(bottoms))
        return [bottoms[0]]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.span.operand(bottoms)] * ((len(bottoms) == 1) + self.bias_term)

    def is_per_channel(self, bottoms: Sequence[Shape]) -> bool:
        """Tell whether gamma is a weight with a number for each channel (axis 1): what a BatchNorm can take over."""
        return len(bottoms) == 1 and self.span.aligned(bottoms[0], self.span.operand(bottoms)) == (
            bottoms[0][1],
            *(1,) * (len(bottoms[0]) - 2),
        )

    def affine(self, blobs: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return gamma and beta of a Scale with weights, one number each per element; beta is 0 without a bias."""
        gamma = blobs[0].reshape(-1)
        return gamma, blobs[1].reshape(-1) if self.bias_term else np.zeros_like(gamma)

    def channel_affine(self, call: Call) -> ChannelAffine | None:
        if len(call.bottom_shapes[0]) < 2 or not self.is_per_channel(call.bottom_shapes):
            return None
        return ChannelAffine(*(blob.astype(np.float64) for blob in self.affine(call.blobs)))

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        shape = self.span.aligned(call.bottom_shapes[0], self.span.operand(call.bottom_shapes))
        weights = [g.weight(b.reshape(shape)) for b in call.blobs]
        factor = g.node("Reshape", call.bottoms[1], g.ints(*shape)) if len(call.bottoms) == 2 else weights[0]
        y = g.node("Mul", call.bottoms[0], factor)
        return [g.node("Add", y, weights[-1]) if self.bias_term else y]

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        return "two bottoms have no integer rule" if len(q.bottom_thresholds) > 1 else None

    def quantize(self, q: QuantizeCall) -> WeightedSum:
        gamma, *beta = q.call.blobs
        tx, ty = q.bottom_thresholds[0], q.top_thresholds[0]
        return quantize_weighted_sum(gamma, beta[0] if beta else None, tx, ty, q.refinement)

    def skipped(self, blobs: Sequence[NDArray[np.float32]], rshift: int) -> Skipped:
        """Return the integers behind a BatchNorm that does the work, with this shift: nothing is left to do."""
        gamma, *beta = blobs
        zeros = np.zeros(beta[0].shape, dtype=np.int16) if beta else None
        return Skipped(np.ones(gamma.shape, dtype=np.int8), zeros, rshift)

    def channel_flow(self, call: Call) -> ChannelFlow:
        per_channel = len(call.bottom_shapes[0]) > 1 and self.is_per_channel(call.bottom_shapes)
        return ChannelFlow.WEIGHTED if per_channel else ChannelFlow.MIXED

    def blobs_in_units(self, call: Call, bottom: Units | None, top: Units | None) -> tuple[Array, ...]:
        gamma, *beta = call.blobs
        return divided((gamma if bottom is None else gamma * bottom.astype(np.float32), *beta), top)

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        if form.hands_on:
            return [call.bottoms[0]]
        own, bottom = expect(form, WeightedSum), call.bottom_shapes[0]
        shape = self.span.aligned(bottom, self.span.operand(call.bottom_shapes))
        beta = None if own.bias is None else own.bias.reshape(shape)
        return [affine_codes(g, call.bottoms[0], own.weights.reshape(shape), beta, own.rshift, bottom)]

    def lower_dequantized(self, g: OnnxBuilder, call: Call, form: IntegerForm, scales: RealScales) -> list[str]:
        return [call.bottoms[0]] if form.hands_on else super().lower_dequantized(g, call, form, scales)


register(Scale)
