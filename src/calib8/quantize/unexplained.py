"""Integers from files that count channels in units which nothing tells: of carried channels, without their record.

All layers together still compute what they should, since what one layer divides by, the next ones multiply by. But a
value between them is not in real units, so no layer may read it in FP32, and nobody should look at it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib8.graph import Layer
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.weighted_sum import WeightedSum
from calib8.layer_kit.window_product import WindowProduct
from calib8.lowering import Model
from calib8.quantize.plan import QuantPlan

_FAR = 1.4  # times as large or as small as they should be; a repair changes rows by a tenth
_ROWS = 256  # at a time
_ENOUGH = 100.0  # of squares of steps: the noise of rounding is then a few percent of the row
_ENOUGH_EACH = 0.25  # for each weight: where most of them round to 0, that alone makes a row smaller


def unexplained_layers(model: Model, plan: QuantPlan) -> tuple[str, ...]:
    """Name layers with rows of weights that are not those of the FP32 network, by a factor of their own.

    Args:
        model: the FP32 network.
    """
    return tuple(
        layer.name
        for layer, op in model.pairs
        if isinstance(op, WindowProduct)
        and isinstance(plan.forms.get(layer.name), WeightedSum)
        and op.channel_flow(model.call(layer)) is ChannelFlow.WEIGHTED
        and _has_other_rows(model, plan, layer, op)
    )


def _has_other_rows(model: Model, plan: QuantPlan, layer: Layer, op: WindowProduct) -> bool:
    """Compare the rows of a layer's weights, some at a time: those of a wide layer are hundreds of MB in float64."""
    form = plan.forms[layer.name]
    if not isinstance(form, WeightedSum):
        raise AssertionError("only layers with weights are looked at")
    found = op.product_matrix(form.weights)
    found, wanted = (m.reshape(-1, found.shape[-1]) for m in (found, op.product_matrix(layer.blobs[0])))
    tx, ty = plan.thresholds[layer.bottoms[0]], plan.thresholds[layer.tops[0]]
    steps = np.broadcast_to(np.ldexp(tx / ty, form.rshift), len(wanted))
    units = plan.channel_units.get(layer.tops[0])
    steps = steps if units is None else steps / units
    parts = (slice(start, start + _ROWS) for start in range(0, len(wanted), _ROWS))
    return any(_is_far(wanted[p] * steps[p, None], found[p].astype(np.float64)) for p in parts)


def _is_far(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> bool:
    size, common = (np.einsum("ok,ok->o", wanted, other) for other in (wanted, found))
    told = (size >= max(_ENOUGH, _ENOUGH_EACH * wanted.shape[1])) & (np.einsum("ok,ok->o", found, found) >= _ENOUGH)
    factors = common[told] / size[told]
    return bool(((factors > _FAR) | (factors < 1 / _FAR)).any())
