"""Units of channels: which values can have them, and how they are found again in the files of a calibration.

A code of channel c is worth threshold / 128 * u[c] (`QuantPlan.channel_units`), where the layers around the value make
up for it: those that write it carry 1/u in their weights, those that read it u. There are two kinds:

- before a BatchNorm: a convolution's top that only a BatchNorm reads. `repair.channel_units` chooses them; the integers
  of the BatchNorm tell them.
- of carried channels: other values between layers with weights, through all that hands factors on (`ChannelFlow`).
  `repair.equalised_channels` chooses them; only the record of a run tells them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from calib8.arithmetic import quantize_weight, weight_rshift
from calib8.engine.memory import forget
from calib8.errors import QuantizationError
from calib8.graph import Layer
from calib8.layer_kit.channel_flow import ChannelFlow
from calib8.layer_kit.weighted_sum import WeightedSum
from calib8.layer_kit.window_product import WindowProduct
from calib8.layers import IntegerForm
from calib8.layers.batch_norm import AffineChannels, BatchNorm
from calib8.layers.relu import ReLU
from calib8.lowering import Model

Array = NDArray[np.float64]

_LARGE = 1 << 20  # elements of weights that are not kept twice


@dataclass(frozen=True, eq=False)
class AffinePair:
    """A convolution and the BatchNorm that alone reads its top, both in INT8.

    Attributes:
        convolution, batch_norm: the layers.
        top: of the BatchNorm, or of its Scale.
        factors: what the BatchNorm, with its Scale, multiplies each channel by, (C); 0 for dead ones.
        offsets: what it adds, (C).
        affine: the BatchNorm's integers.
    """

    convolution: Layer
    batch_norm: Layer
    top: str
    factors: Array
    offsets: Array
    affine: AffineChannels

    @property
    def between(self) -> str:
        """The value between the two."""
        return self.convolution.tops[0]


def affine_pairs(model: Model, forms: Mapping[str, IntegerForm | None]) -> Iterator[AffinePair]:
    """Find all pairs whose value between them can have units."""
    for layer in model.net.layers:
        op, form = model.op_of[layer.name], forms.get(layer.name)
        if not (op.takes_channel_units and isinstance(op, WindowProduct) and isinstance(form, WeightedSum)):
            continue
        readers = model.net.consumers[layer.tops[0]]
        if len(readers) != 1 or len(layer.tops) != 1 or layer.tops[0] in model.net.outputs:
            continue
        norm, affine = model.op_of[readers[0].name], forms.get(readers[0].name)
        if isinstance(norm, BatchNorm) and isinstance(affine, AffineChannels):
            yield AffinePair(layer, readers[0], _top(model, readers[0]), *_affine(model, readers[0]), affine)


def batch_norm_factors(model: Model, batch_norm: Layer) -> Array:
    """Compute what a BatchNorm, with its Scale, multiplies each channel by, (C); 0 for dead ones."""
    return _affine(model, batch_norm)[0]


def _top(model: Model, batch_norm: Layer) -> str:
    return model.batch_norm_pairs.get(batch_norm.name, batch_norm).tops[0]


def _affine(model: Model, batch_norm: Layer) -> tuple[Array, Array]:
    norm, scale = model.op_of[batch_norm.name], model.batch_norm_pairs.get(batch_norm.name)
    if not isinstance(norm, BatchNorm):
        raise AssertionError("only a BatchNorm has factors")
    if scale is None:
        return norm.affine(batch_norm.blobs, None, ())
    return norm.affine(batch_norm.blobs, model.op_of[scale.name], scale.blobs)


def recovered_units(
    model: Model, thresholds: Mapping[str, float], forms: Mapping[str, IntegerForm | None]
) -> dict[str, Array]:
    """Find the units of channels that integers from files were made with.

    A BatchNorm's integer factor is that of its FP32 layer times the unit, and exact where units were chosen:
    `u = k * ty / (s * tx * 2^rs)`. Where the integers are those of the contract, there are none.

    Args:
        model: the FP32 network that the integers were made from.
    """
    found = {}
    for pair in affine_pairs(model, forms):
        tx, ty = (thresholds[v] for v in (pair.between, pair.batch_norm.tops[0]))
        if not _follows(pair, tx, ty):
            with np.errstate(divide="ignore", invalid="ignore"):
                units = pair.affine.scale * (ty / tx) / (pair.factors * 2.0**pair.affine.rshift)
            found[pair.between] = np.where(np.isfinite(units) & (units > 0), units, 1.0)
    return found


def _follows(pair: AffinePair, tx: float, ty: float) -> bool:
    """Tell whether the BatchNorm's integers are those of the contract."""
    try:
        rshift = weight_rshift(float(np.abs(pair.factors).max(initial=0)), tx, ty)
    except QuantizationError:
        return False
    return rshift == pair.affine.rshift and np.array_equal(
        quantize_weight(pair.factors, tx, ty, rshift), pair.affine.scale
    )


def rectified_top(model: Model, batch_norm: Layer) -> str | None:
    """Find the top of the ReLU that alone reads what a BatchNorm, with its Scale, gives; None where there is none.

    Such a ReLU takes away whatever is below 0: codes before the BatchNorm need no room for it (`repair.affine_noise`).
    """
    readers = model.net.consumers[_top(model, batch_norm)]
    op = model.op_of[readers[0].name] if len(readers) == 1 else None
    return readers[0].tops[0] if isinstance(op, ReLU) and op.negative_slope == 0 else None


def is_before_batch_norm(model: Model, value: str) -> bool:
    """Tell whether a value is a convolution's top that only a BatchNorm reads."""
    readers = model.net.consumers[value]
    return (
        len(readers) == 1
        and isinstance(model.op_of[readers[0].name], BatchNorm)
        and model.op_of[model.net.producer[value].name].takes_channel_units
    )


def blobs_in_units(model: Model, layer: Layer, units: Mapping[str, Array]) -> Sequence[NDArray[np.float32]]:
    """Give a layer's weights for bottoms and tops whose carried channels have units.

    Units before a BatchNorm are left to those who quantise the two layers.
    """
    op, call = model.op_of[layer.name], model.call(layer)
    if not layer.blobs or op.channel_flow(call) not in (ChannelFlow.WEIGHTED, ChannelFlow.TAKEN):
        return layer.blobs
    bottom, top = (None if is_before_batch_norm(model, v) else units.get(v) for v in (layer.bottoms[0], layer.tops[0]))
    if isinstance(op, BatchNorm):
        top = None  # the two are one step with its Scale, whose top's units it has
    elif isinstance(model.op_of[model.net.producer[layer.bottoms[0]].name], BatchNorm):
        bottom = None
    return layer.blobs if bottom is None and top is None else op.blobs_in_units(call, bottom, top)


class BlobsInUnits(Sequence[NDArray[np.float32]]):
    """A layer's weights for channels in units: large ones are made whenever they are read, and not kept.

    A network with them beside the one that it is made of so takes no second copy of all weights.

    Args:
        model, layer, units: see `blobs_in_units`.
    """

    def __init__(self, model: Model, layer: Layer, units: Mapping[str, Array]) -> None:
        self._made_of = model, layer, units
        self._small: dict[int, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self._made_of[1].blobs)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[NDArray[np.float32], ...]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | tuple[NDArray[np.float32], ...]:
        kept = self._small.get(index) if isinstance(index, int) else None
        return self._made()[index] if kept is None else kept

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self._made())

    def _made(self) -> tuple[NDArray[np.float32], ...]:
        made = tuple(blobs_in_units(*self._made_of))
        forget(self._made_of[1].blobs)
        self._small = {index: blob for index, blob in enumerate(made) if blob.size < _LARGE}
        return made


def in_channel_units(model: Model, units: Mapping[str, Array]) -> Model:
    """Give the network whose carried channels count in these units: the same outputs in FP32, from other weights."""

    def blobs(layer: Layer) -> Sequence[NDArray[np.float32]]:
        is_large = any(blob.size >= _LARGE for blob in layer.blobs)
        return (BlobsInUnits if is_large else blobs_in_units)(model, layer, units)

    layers = tuple(replace(layer, blobs=blobs(layer)) for layer in model.net.layers)
    return replace(model, net=replace(model.net, layers=layers))
