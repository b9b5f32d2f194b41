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
from calib8.layer_kit.codes import without_nan
from calib8.layers import Call, OnnxBuilder, Op
from calib8.lowering import Model
from calib8.quantize import QuantPlan


def with_rounded_values(model: Model, plan: QuantPlan, *, nan: bool = True) -> Model:
    """Give a model that computes the same in float, with every value that is codes in the plan rounded.

    Inputs are not: `rounded_inputs` names them. What lies between a BatchNorm and its Scale is not rounded, since the
    two are one step, and neither are the tops of layers that hand codes on.

    Args:
        nan: whether a value may hold NaN; see `rounding_nodes`.
    """

    def with_rounding(name: str, op: Op, tops: Sequence[str]) -> Op:
        if not is_rounded(model, plan, name):
            return op
        steps = [(plan.thresholds[top], plan.channel_units.get(top)) for top in tops]
        return cast(Op, _Rounded(op, steps, nan=nan))

    return replace(model, ops=tuple(with_rounding(layer.name, op, layer.tops) for layer, op in model.pairs))


def is_rounded(model: Model, plan: QuantPlan, name: str) -> bool:
    """Tell whether the tops of a layer are rounded; see `with_rounded_values`."""
    op = model.op_of[name]
    computes = op.kind == "onnx" and not op.passive and name not in model.batch_norm_pairs
    return computes and plan.forms.get(name) is not None


def rounded_inputs(model: Model, plan: QuantPlan) -> dict[str, float]:
    """Name the inputs that layers in INT8 read, with their thresholds."""
    readers = model.net.consumers
    return {
        v: plan.thresholds[v]
        for v in model.inputs
        if any(plan.forms.get(reader.name) is not None for reader in readers[v])
    }


class _Rounded:
    """An Op whose tops are quantised and dequantised; else as the Op itself.

    Args:
        steps: threshold and units of channels of each top.
        nan: see `rounding_nodes`.
    """

    def __init__(self, op: Op, steps: Sequence[tuple[float, NDArray[np.float64] | None]], *, nan: bool) -> None:
        self._op, self._steps, self._nan = op, steps, nan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        """Lower the layer, and round its tops."""
        tops = self._op.lower(g, call)
        return [
            rounding_nodes(g, top, g.scalar(threshold / INT8_LEVELS), units, len(shape), nan=self._nan)
            for top, (threshold, units), shape in zip(tops, self._steps, call.top_shapes, strict=True)
        ]


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
