"""Integers of the layers that multiply by weights and add a bias: int8 weights, int16 biases, one right shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import quantize_bias, quantize_weight, weight_rshift
from calib8.layer_kit.plan import LayerPlan

_SHOWN = 8


def quantize_weighted_sum(weights: NDArray[Any], bias: NDArray[Any] | None, tx: float, ty: float) -> LayerPlan:
    """`Wq`, `Bq` and `rs` of y = W*x + b, in the shapes of `weights` and `bias`; tx, ty in real units.

    A bias beyond 16 bits is clamped, and a warning names its channels.

    Raises:
        QuantizationError: the weights need a negative shift, or something is NaN or infinite.
    """
    rshift = weight_rshift(largest(weights), tx, ty)
    blobs: tuple[NDArray[Any], ...] = (quantize_weight(weights, tx, ty, rshift),)
    if bias is None:
        return LayerPlan(blobs=blobs, rshift=rshift)
    rounded = quantize_bias(bias, ty, rshift)
    warnings = (_saturated(rounded.saturated),) if rounded.saturated else ()
    return LayerPlan(blobs=(*blobs, rounded.values), rshift=rshift, warnings=warnings)


def largest(values: NDArray[Any]) -> float:
    """The largest |v| without an array of |v|; NaN if there is one; 0 for nothing."""
    return float(np.maximum(values.max(initial=0), -values.min(initial=0)))


def channels(indices: Sequence[int]) -> str:
    """Channel numbers in words, at most eight of them."""
    more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
    return f"channel{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices[:_SHOWN]))}{more}"


def _saturated(indices: Sequence[int]) -> str:
    return f"the bias of {channels(indices)} does not fit 16 bits at this right shift and is clamped"
