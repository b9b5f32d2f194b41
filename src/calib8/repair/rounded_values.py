"""A network whose values are rounded as codes are, and whose weights and sums stay in float.

That is what is left of INT8's error when weights are rounded perfectly: what thresholds have to be judged by, where
weights are repaired afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import INT8_LEVELS
from calib8.graph import Layer, Shape
from calib8.layer_kit.codes import without_nan
from calib8.layers import Call, OnnxBuilder, Op
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.repair.aligned_offsets import moved_before

_Step = tuple[float, NDArray[np.float64] | None, NDArray[np.float64] | None]


def with_rounded_values(model: Model, plan: QuantPlan, *, nan: bool = True) -> Model:
    """Give a model that computes the same in float, with every value that is codes in the plan rounded.

    What a layer in FP32 gives is rounded where a layer in INT8 reads it. Inputs are not: `rounded_inputs` names them.
    What lies between a BatchNorm and its Scale is not rounded, since the two are one step, and
    neither are the tops of layers that hand codes on.

    Args:
        nan: whether a value may hold NaN; see `rounding_nodes`.
    """

    moved = moved_before(model, plan)

    def step(value: str) -> _Step:
        return plan.thresholds[value], plan.channel_units.get(value), moved.get(value)

    def with_rounding(layer: Layer, op: Op) -> Op:
        entering = entering_bottoms(model, plan, layer)
        bottoms = [step(b) if b in entering else None for b in layer.bottoms]
        tops = [step(top) if is_rounded(model, plan, layer.name) else None for top in layer.tops]
        return cast(Op, _Rounded(op, bottoms, tops, nan=nan)) if any((*bottoms, *tops)) else op

    return replace(model, ops=tuple(with_rounding(layer, op) for layer, op in model.pairs))


def is_rounded(model: Model, plan: QuantPlan, name: str) -> bool:
    """Tell whether the tops of a layer are rounded; see `with_rounded_values`."""
    op = model.op_of[name]
    computes = op.kind == "onnx" and not op.passive and name not in model.batch_norm_pairs
    return computes and plan.forms.get(name) is not None


def entering_bottoms(model: Model, plan: QuantPlan, layer: Layer) -> frozenset[str]:
    """Name the bottoms of a layer in INT8 that layers in FP32 give, and that become codes where it reads them."""
    if plan.forms.get(layer.name) is None:
        return frozenset()
    given = ((b, model.net.producer[b]) for b in layer.bottoms if b not in model.inputs)
    return frozenset(b for b, producer in given if plan.forms.get(producer.name) is None)


def rounded_inputs(model: Model, plan: QuantPlan) -> dict[str, float]:
    """Name the inputs that layers in INT8 read, with their thresholds."""
    readers = model.net.consumers
    return {
        v: plan.thresholds[v]
        for v in model.inputs
        if any(plan.forms.get(reader.name) is not None for reader in readers[v])
    }


class _Rounded:
    """An Op some of whose bottoms and tops are quantised and dequantised; else as the Op itself.

    Args:
        bottoms, tops: threshold and units of channels of each; None for one that stays as it is.
        nan: see `rounding_nodes`.
    """

    def __init__(self, op: Op, bottoms: Sequence[_Step | None], tops: Sequence[_Step | None], *, nan: bool) -> None:
        self._op, self._bottoms, self._tops, self._nan = op, bottoms, tops, nan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        """Round bottoms, lower the layer, and round its tops."""
        bottoms = self._rounded(g, call.bottoms, self._bottoms, call.bottom_shapes)
        return self._rounded(g, self._op.lower(g, replace(call, bottoms=tuple(bottoms))), self._tops, call.top_shapes)

    def _rounded(
        self, g: OnnxBuilder, values: Sequence[str], steps: Sequence[_Step | None], shapes: Sequence[Shape]
    ) -> list[str]:
        return [
            x if step is None else _moved_and_rounded(g, x, step, len(shape), nan=self._nan)
            for x, step, shape in zip(values, steps, shapes, strict=True)
        ]


def _moved_and_rounded(g: OnnxBuilder, x: str, step: _Step, rank: int, *, nan: bool) -> str:
    threshold, units, moved = step
    scale = g.scalar(threshold / INT8_LEVELS)
    if moved is None:
        return rounding_nodes(g, x, scale, units, rank, nan=nan)
    by = g.constant(moved.astype(np.float32).reshape(1, -1, *(1,) * (rank - 2)))
    return g.node("Sub", rounding_nodes(g, g.node("Add", x, by), scale, units, rank, nan=nan), by)


def rounding_nodes(
    g: OnnxBuilder, x: str, scale: str, units: NDArray[np.float64] | None, rank: int, *, nan: bool = True
) -> str:
    """Round real values as codes are, NaN to 0; exact but for what lies within float32's error of a tie.

    Args:
        scale: the ONNX name of threshold / 128.
        units: of channels, (C); None for ones.
        rank: of the value.
        nan: whether there may be one. To look for it takes as long as most layers do.
    """
    x = without_nan(g, x) if nan else x
    zero = g.constant(np.int8(0))
    if units is None:
        return g.node("DequantizeLinear", g.node("QuantizeLinear", x, scale, zero), scale, zero)
    along = units.reshape(1, -1, *(1,) * (rank - 2))
    inverse, direct = (g.constant(u.astype(np.float32)) for u in (1 / along, along))
    codes = g.node("QuantizeLinear", g.node("Mul", x, inverse), scale, zero)
    return g.node("Mul", g.node("DequantizeLinear", codes, scale, zero), direct)
