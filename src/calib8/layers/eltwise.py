"""Eltwise: y = prod_i x_i, sum_i coeff_i * x_i, or max_i x_i, element by element.

Shapes: two or more bottoms of one shape; top the same. Parameters: `operation` SUM, PROD or MAX (default SUM); `coeff`,
one per bottom, for SUM (MAX ignores them, as Caffe does, and PROD refuses them).
Synopsys adds MIN, DIV (x_0 / x_1) and a second bottom that covers only the axes of the first one from `axis` (default
0) on; it is repeated over the others.
Source: BVLC/caffe, src/caffe/layers/eltwise_layer.cpp, LayerSetUp, Reshape, Forward_cpu;
foss-for-synopsys-dwc-arc-processors/synopsys-caffe, the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calib8.arithmetic import eltwise_multipliers, eltwise_product_multiplier
from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, QuantizeCall, register
from calib8.layer_kit.broadcast import Span
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.codes import largest_of, scaled_product, scaled_sum
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.form import IntegerForm, expect
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.real_scales import RealScales, multiplied
from calib8.layer_kit.table_row import TableRow, multipliers, right_shift

_NODES = {"PROD": "Mul", "SUM": "Add", "MAX": "Max", "MIN": "Min", "DIV": "Div"}


@dataclass(frozen=True)
class EltwiseForm(IntegerForm):
    """One multiplier for each bottom of SUM and MAX, one for all of PROD, and a shift.

    Attributes:
        multipliers: 8 bits; the layer's coefficients are not in them.
    """

    multipliers: tuple[int, ...]
    rshift: int

    @property
    def accumulator_shift(self) -> int:
        """The shift."""
        return self.rshift

    def fill_row(self, row: TableRow) -> None:
        """Write the shift and the multipliers."""
        row.right_shift_width = self.rshift
        row.threshold_x_quantized.extend(self.multipliers)

    def from_row(self, row: TableRow, bottoms: int) -> EltwiseForm:
        """Take shift and multipliers of a row."""
        rshift = right_shift(row)
        return EltwiseForm(multipliers(row, len(self.multipliers)), rshift)

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give the steps of the bottoms; those of a PROD without a multiplier of their own have the step 1."""
        scales = multiplied(self.multipliers, [self.rshift] * len(self.multipliers), top)
        return replace(scales, bottoms=scales.bottoms + (1.0,) * (len(bottoms) - len(self.multipliers)))


class Eltwise(Op):
    """Combines bottoms element by element; ONNX Mul, Add, Max, Min, Div."""

    types = ("Eltwise",)
    bottoms = (2, UNLIMITED)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("eltwise_param")
        bottoms = len(fields.param.bottom)
        self.operation: str = group.operation
        self.coeff: tuple[float, ...] = group.coeff or (1.0,) * bottoms
        self.span = Span(group.axis, -1, "eltwise_param")
        if len(self.coeff) != bottoms:
            raise RefusedError(f"has {len(self.coeff)} coeff for {bottoms} bottoms; expected one each, or none")
        if self.operation in ("PROD", "DIV") and group.has("coeff"):
            raise RefusedError(f"has coeff with operation {self.operation}; Caffe takes them for SUM only")
        if self.operation == "DIV" and bottoms != 2:
            raise RefusedError(f"has {bottoms} bottoms; operation DIV takes 2")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if any(b != bottoms[0] for b in bottoms[2:]):
            raise RefusedError(f"bottoms have different shapes: {', '.join(str(list(b)) for b in bottoms)}")
        self.span.aligned(bottoms[0], bottoms[1])
        return [bottoms[0]]

    def channel_flow(self, call: Call) -> ChannelFlow:
        same = all(shape == call.bottom_shapes[0] for shape in call.bottom_shapes)
        return ChannelFlow.CARRIED if same and self.operation in ("SUM", "MAX") else ChannelFlow.MIXED

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        terms = list(call.bottoms)
        if call.bottom_shapes[1] != call.bottom_shapes[0]:
            terms[1] = g.node("Reshape", terms[1], g.ints(*self.span.aligned(*call.bottom_shapes[:2])))
        if self.operation == "SUM":
            terms = [x if c == 1 else g.node("Mul", x, g.scalar(c)) for x, c in zip(terms, self.coeff, strict=True)]
        y = terms[0]
        for x in terms[1:]:
            y = g.node(_NODES[self.operation], y, x)
        return [y]

    def non_negative(self, bottoms: Sequence[bool]) -> bool:
        if self.operation == "MAX":
            return any(bottoms)
        return all(bottoms) and (self.operation != "SUM" or min(self.coeff) >= 0)

    def fp32_reason(self, q: QuantizeCall) -> str | None:
        """Refuse coefficients of SUM that are no whole numbers: they multiply integers."""
        if len(set(q.call.bottom_shapes)) > 1:
            return "bottoms of different shapes have no integer rule"
        if self.operation in ("MIN", "DIV"):
            return f"operation {self.operation} has no integer rule"
        if self.operation == "SUM" and not all(c.is_integer() for c in self.coeff):
            return "coefficients that are no whole numbers have no integer rule"
        return None

    def quantize(self, q: QuantizeCall) -> EltwiseForm:
        txs, ty = q.bottom_thresholds, q.top_thresholds[0]
        if self.operation == "PROD":
            mult, rshift = eltwise_product_multiplier(txs, ty)
            return EltwiseForm((mult,), rshift)
        return EltwiseForm(*eltwise_multipliers(txs, ty))

    def lower_int8(self, g: OnnxBuilder, call: Call, form: IntegerForm) -> list[str]:
        own = expect(form, EltwiseForm)
        rshift = own.rshift
        if self.operation == "PROD":
            return [scaled_product(g, call.bottoms, own.multipliers[0], rshift)]
        if self.operation == "MAX":
            return [largest_of(g, list(zip(call.bottoms, own.multipliers, strict=True)), rshift)]
        factors = [m * int(c) for m, c in zip(own.multipliers, self.coeff, strict=True)]
        terms = list(zip(call.bottoms, factors, strict=True))
        return [scaled_sum(g, terms, rshift, saturate16=g.accumulator_bits == 16)]


register(Eltwise)
