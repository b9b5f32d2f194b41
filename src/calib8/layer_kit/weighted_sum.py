"""Integers of the layers that multiply by weights and add a bias: int8 weights, int16 biases, one right shift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import quantize_bias, quantize_weight, weight_rshift
from calib8.layer_kit.form import IntegerForm, Integers, blob_field
from calib8.layer_kit.real_scales import RealScales, weighted
from calib8.layer_kit.table_row import TableRow, multipliers, right_shift

_SHOWN = 8
Floats = NDArray[np.float32] | NDArray[np.float64]
RoundWeights = Callable[[Floats, float, float, int], NDArray[np.int8]]
"""Weights, tx, ty and rs to integers, as `arithmetic.quantize_weight` does it."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """What quantising a layer is given beside its float weights; without any of it, the contract's own rounding.

    Attributes:
        round_weights: how weights in steps become integers.
        bias_shift: added to the bias before it is rounded, in real units of the top, (O); None for nothing.
    """

    round_weights: RoundWeights = quantize_weight
    bias_shift: NDArray[np.float64] | None = None


PLAIN = Refinement()
"""Nearest integers of the weights and biases that the layer has."""


@dataclass(frozen=True, eq=False)
class WeightedSum(IntegerForm):
    """`sat8(rnd((sum xq*Wq + Bq) / 2^rs))`: Convolution, Deconvolution, InnerProduct, Scale.

    Attributes:
        weights: Wq, in the shape of the caffemodel's blob.
        bias: Bq (O), None for a layer without one.
        rshift: rs.
    """

    weights: NDArray[np.int8]
    bias: NDArray[np.int16] | None
    rshift: int
    warnings: tuple[str, ...] = ()

    @property
    def blobs(self) -> tuple[Integers, ...]:
        """Weights, then the bias."""
        return (self.weights,) if self.bias is None else (self.weights, self.bias)

    @property
    def accumulator_shift(self) -> int:
        """The accumulator's shift."""
        return self.rshift

    def with_blobs(self, blobs: Sequence[Integers]) -> WeightedSum:
        """Give the form with other weights and biases; what was said of the old ones is not said of them."""
        return replace(self, weights=blobs[0], bias=blob_field(blobs, 1), warnings=())

    def fill_row(self, row: TableRow) -> None:
        """Write the shift."""
        row.right_shift_width = self.rshift

    def from_row(self, row: TableRow, bottoms: int) -> WeightedSum:
        """Take the shift of a row."""
        rshift = right_shift(row)
        multipliers(row, 0)
        return replace(self, rshift=rshift)

    def real_scales(self, bottoms: Sequence[float], top: float) -> RealScales:
        """Give the steps of bottom, weights and bias; see `real_scales`."""
        return weighted(bottoms, top, self.rshift)


def quantize_weighted_sum(
    weights: Floats, bias: Floats | None, tx: float, ty: float, refinement: Refinement = PLAIN
) -> WeightedSum:
    """Quantise y = W*x + b; tx, ty in real units.

    A bias beyond 16 bits is clamped, and a warning names its channels.

    Args:
        refinement: how weights are rounded, and what is added to the bias, which a layer without one cannot take.

    Raises:
        QuantizationError: the weights need a negative shift, or something is NaN or infinite.
    """
    rshift = weight_rshift(largest(weights), tx, ty)
    integers = refinement.round_weights(weights, tx, ty, rshift)
    if bias is None:
        return WeightedSum(integers, None, rshift)
    if refinement.bias_shift is not None:
        bias = bias + refinement.bias_shift.reshape(bias.shape)
    rounded = quantize_bias(bias, ty, rshift)
    warnings = (_saturated(rounded.saturated),) if rounded.saturated else ()
    return WeightedSum(integers, rounded.values, rshift, warnings)


def fold_affine(
    weights: Floats,
    bias: Floats | None,
    along: NDArray[np.float64],
    factor: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the weights and the bias of factor * (W x + b) + offset.

    Args:
        along: the factors, in a shape that repeats each of them over the weights of its output.
        factor, offset: of each output, (O).
    """
    moved = offset if bias is None else offset + factor * bias.reshape(-1)
    return (weights * along).astype(np.float32), moved.astype(np.float32)


def largest(values: Floats) -> float:
    """Give the largest |v| without an array of |v|; NaN if there is one; 0 for nothing."""
    return float(np.maximum(values.max(initial=0), -values.min(initial=0)))


def channels(indices: Sequence[int]) -> str:
    """Put channel numbers into words, at most eight of them."""
    more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
    return f"channel{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices[:_SHOWN]))}{more}"


def _saturated(indices: Sequence[int]) -> str:
    return f"the bias of {channels(indices)} does not fit 16 bits at this right shift and is clamped"
