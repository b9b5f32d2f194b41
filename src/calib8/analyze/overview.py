"""A network at a glance: its layers with shapes, parameters, multiply-adds and precision, and all that is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from calib8.graph import Layer, Net, Shape
from calib8.layers import Call, Op
from calib8.lowering.examine import Examination
from calib8.quantize import fp32_reasons

INT8, FP32 = "INT8", "FP32"


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        line: where the prototxt has it, 0 for an Input layer that an old `input` field became.
        bottoms, tops: blobs as the prototxt spells them.
        bottom_shapes, top_shapes: one for each of them; None where something is wrong before or in the layer.
        parameters: number of weights; None without shapes.
        multiply_adds: of one forward pass with these shapes; None without them.
        precision: "INT8" or "FP32" when all that can runs in INT8; None for inputs, and in a network with problems.
        reason: why FP32; "" for INT8.
    """

    name: str
    type: str
    line: int
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    bottom_shapes: tuple[Shape | None, ...]
    top_shapes: tuple[Shape | None, ...]
    parameters: int | None
    multiply_adds: int | None
    precision: str | None
    reason: str


@dataclass(frozen=True)
class Overview:
    """A network.

    Attributes:
        name: the prototxt's name for it.
        inputs, outputs: blobs that come from outside, and blobs that no layer reads, with their shapes.
        rows: the layers in the order of execution.
        problems: all that is wrong, a sentence each; empty for a network that can be used.
        notes: what was upgraded, left out or not read, a sentence each.
        not_run: layers in Python that were not executed, so that they and what is behind them was not measured.
    """

    name: str
    inputs: Mapping[str, Shape | None]
    outputs: Mapping[str, Shape | None]
    rows: tuple[LayerRow, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    not_run: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of weights of all layers whose shapes are known."""
        return sum(row.parameters or 0 for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward pass, of all layers whose shapes are known."""
        return sum(row.multiply_adds or 0 for row in self.rows)

    def rows_in(self, precision: str) -> tuple[LayerRow, ...]:
        """List the layers that run in INT8, or in FP32."""
        return tuple(row for row in self.rows if row.precision == precision)


def overview_of(examination: Examination) -> Overview:
    """Collect what there is to say about a network, whether it can be used or not."""
    net = examination.net
    reasons = {} if examination.problems else fp32_reasons(examination.model())
    rows = tuple(_row(examination, layer, op, reasons) for layer, op in zip(net.layers, examination.ops, strict=True))
    sources = [x for x, op in zip(net.layers, examination.ops, strict=True) if op is not None and op.kind == "source"]
    shapes = examination.shapes
    return Overview(
        name=net.name,
        inputs={blob: shapes.get(t) for x in sources for t, blob in zip(x.tops, x.top_blobs, strict=True)},
        outputs={blob: shapes.get(blob) for blob in _outputs(net)},
        rows=rows,
        problems=tuple(problem.text for problem in examination.problems),
        notes=examination.notes,
    )


def _row(examination: Examination, layer: Layer, op: Op | None, reasons: Mapping[str, str | None]) -> LayerRow:
    bottoms = tuple(examination.shapes.get(b) for b in layer.bottoms)
    tops = tuple(examination.shapes.get(t) for t in layer.tops)
    parameters, multiply_adds = _sizes(op, bottoms, tops)
    reason = reasons.get(layer.name)
    return LayerRow(
        name=layer.name,
        type=layer.type,
        line=layer.place.line,
        bottoms=layer.bottom_blobs,
        tops=layer.top_blobs,
        bottom_shapes=bottoms,
        top_shapes=tops,
        parameters=parameters,
        multiply_adds=multiply_adds,
        precision=(FP32 if reason else INT8) if layer.name in reasons else None,
        reason=reason or "",
    )


def _sizes(
    op: Op | None, bottoms: tuple[Shape | None, ...], tops: tuple[Shape | None, ...]
) -> tuple[int | None, int | None]:
    """Parameters and multiply-adds."""
    known = tuple(b for b in bottoms if b is not None), tuple(t for t in tops if t is not None)
    if op is None or len(known[0]) < len(bottoms) or len(known[1]) < len(tops):
        return None, None
    call = Call(bottoms=(), bottom_shapes=known[0], top_shapes=known[1])
    return sum(map(math.prod, op.blob_shapes(known[0]))), op.multiply_adds(call)


def _outputs(net: Net) -> list[str]:
    """Blobs whose last value no layer reads; also of a net whose layers read what is not there."""
    read = {b for layer in net.layers for b in layer.bottoms}
    tops = [(t, blob) for layer in net.layers for t, blob in zip(layer.tops, layer.top_blobs, strict=True)]
    return [blob for t, blob in tops if t == blob and t not in read]
