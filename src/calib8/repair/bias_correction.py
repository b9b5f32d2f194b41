"""Bias correction: what rounded weights add to the mean of a layer's output goes out of its bias.

A layer computes W x + b, and with rounded weights V it computes V x + b. Over the samples its output is off by
E[(V - W) x] = (V - W) E[x] on average, which the bias can take back exactly, since the layer is linear:

    b' = b + mean over positions of (W - V) E[x]

E[x] is the mean image of the layer's bottom, so pads and strides are taken into account. What the quantised bottoms
add, and what earlier layers do to the mean, is left alone: matching the whole mean error was measured to hurt.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, equation 17; with
E[x] measured instead of derived from BatchNorms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.engine import EngineOptions, run_layer
from calib8.engine.memory import forget
from calib8.graph import Layer
from calib8.layer_kit.weighted_sum import Refinement, WeightedSum
from calib8.lowering import Model
from calib8.quantize import QuantPlan, refined

_FINE = 1 << 24  # steps of a threshold: sums over 2^38 samples fit 63 bits, and 24 bits are what float32 has


class MeanImage:
    """The mean of a value over samples, element by element, the same for any order of the samples.

    Sums are whole numbers of steps of threshold / 2^24. NaN counts as 0; what lies beyond the threshold is clipped, as
    its codes are.

    Args:
        threshold: of the value, in real units.
    """

    def __init__(self, threshold: float) -> None:
        self._step = threshold / _FINE
        self._sum: NDArray[np.int64] | None = None
        self._count = 0

    def add(self, values: NDArray[Any]) -> None:
        """Take in one sample, or several along the first axis; all of one shape."""
        steps = np.nan_to_num(values.astype(np.float64) / self._step, nan=0.0)
        steps = np.rint(np.clip(steps, -_FINE, _FINE)).astype(np.int64)
        total = steps.sum(axis=0, keepdims=True)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(values)

    @property
    def mean(self) -> NDArray[np.float32]:
        """The mean image, (1, ...) in real units."""
        if self._sum is None:
            raise AssertionError("nothing was observed")
        return (self._sum * (self._step / self._count)).astype(np.float32)


class BiasCorrection:
    """The pass; see the module's text. It reaches layers with weights and a bias (`WeightedSum`) and one bottom, whose
    integers no other pass has given.

    A layer without a bias cannot take anything back; where a BatchNorm follows, its offset could, which another pass
    may do.
    """

    name = "bias-correction"

    def counters(self, model: Model, plan: QuantPlan) -> dict[str, MeanImage]:
        """Ask for the bottoms of the layers that can be corrected."""
        return {
            layer.bottoms[0]: MeanImage(plan.thresholds[layer.bottoms[0]])
            for layer in model.net.layers
            if _weighted_sum(plan, layer) is not None
        }

    def apply(self, model: Model, plan: QuantPlan, observed: Mapping[str, MeanImage]) -> QuantPlan:
        """Quantise the biases anew; weights, shifts and thresholds stay."""
        found: dict[str, Refinement] = {}
        for layer in model.net.layers:
            form = _weighted_sum(plan, layer)
            if form is not None:
                weights = form.weights
                shift = weight_error(model, plan, layer, form, observed[layer.bottoms[0]].mean)
                found[layer.name] = Refinement(lambda *_, weights=weights: weights, -shift)
        return refined(model, plan, found, self.name)


def weight_error(
    model: Model, plan: QuantPlan, layer: Layer, form: WeightedSum, mean: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Compute (V - W) E[x], averaged over positions: (O), in real units of the top.

    Args:
        mean: E[x], (1, ...), one image of the layer's bottom.
    """
    tx, ty = plan.thresholds[layer.bottoms[0]], plan.thresholds[layer.tops[0]]
    bias, lent = layer.blobs[1], EngineOptions(lend_weights=True)
    difference = _difference(layer.blobs[0], form, ty / tx)
    error = run_layer(model, layer, [mean], (difference, np.zeros_like(bias)), lent)[0]
    # Which output an element of the top belongs to is the layer's business: a bias of 0, 1, 2 .. alone tells.
    difference.fill(0)
    numbers = np.arange(bias.size, dtype=np.float32).reshape(bias.shape)
    outputs = run_layer(model, layer, [mean], (difference, numbers), lent)[0].astype(np.int64).reshape(-1)
    sums = np.bincount(outputs, weights=error.reshape(-1).astype(np.float64), minlength=bias.size)
    return sums / np.bincount(outputs, minlength=bias.size)


def _difference(weights: NDArray[np.float32], form: WeightedSum, step: float) -> NDArray[np.float32]:
    """Compute V - W, row by row: float64 of all weights of a wide layer would be twice their size.

    Args:
        step: of the integers, at a right shift of 0.
    """
    difference = np.empty_like(weights)
    for row, integers in enumerate(form.weights):
        difference[row] = np.ldexp(integers.astype(np.float64) * step, -form.rshift) - weights[row]
    forget([weights])
    return difference


def _weighted_sum(plan: QuantPlan, layer: Layer) -> WeightedSum | None:
    form = plan.forms.get(layer.name)
    if layer.name in plan.given:  # another pass has seen to the mean
        return None
    return form if isinstance(form, WeightedSum) and form.bias is not None and len(layer.bottoms) == 1 else None
