"""DummyData: constant blobs.

Shapes: no bottom; each top of its `shape`, or of `num`, `channels`, `height` and `width`, given once for all tops or
once for each. Parameters: `data_filler`, none (zeros), one or one for each top, of type "constant" with `value`,
default 0. Fillers that draw random numbers are refused: every pass would be another.
Source: BVLC/caffe, src/caffe/layers/dummy_data_layer.cpp, DummyDataLayer::LayerSetUp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Call, Op, register
from calib8.layer_kit.fields import Fields, Group, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder

_SIDES = ("num", "channels", "height", "width")


class DummyData(Op):
    """Constants; ONNX Expand."""

    types = ("DummyData",)
    bottoms = (0, 0)
    tops = (1, UNLIMITED)

    def __init__(self, fields: Fields) -> None:
        group = fields.group("dummy_data_param")
        tops = len(fields.param.top)
        self.shapes: tuple[Shape, ...] = _read_shapes(group, tops)
        fillers = group.data_filler
        self.values: tuple[float, ...] = (
            tuple(_constant(f) for f in (_for_each_top("data_filler", fillers, tops) if fillers else ()))
            or (0.0,) * tops
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(self.shapes)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        tops = zip(self.values, call.top_shapes, strict=True)
        return [g.node("Expand", g.scalar(value), g.ints(*shape)) for value, shape in tops]


def _read_shapes(group: Group, tops: int) -> tuple[Shape, ...]:
    if not any(group.has(side) for side in _SIDES):
        return tuple(tuple(s.dim) for s in _for_each_top("shape", group.shape, tops))
    if group.has("shape"):
        raise RefusedError("dummy_data_param sets both shape and num, channels, height, width; keep one form")
    sides = [_for_each_top(side, getattr(group, side), tops) for side in _SIDES]
    return tuple(zip(*sides, strict=True))


def _for_each_top(name: str, given: tuple[Any, ...], tops: int) -> tuple[Any, ...]:
    if len(given) not in (1, tops):
        raise RefusedError(f"has {len(given)} dummy_data_param.{name} for {tops} tops; expected one for all or each")
    return given * tops if len(given) == 1 else given


def _constant(filler: Any) -> float:
    if filler.type != "constant":
        raise RefusedError(f"fills with {filler.type!r} numbers, which differ in every pass; expected 'constant'")
    value: float = filler.value
    return value


register(DummyData)
