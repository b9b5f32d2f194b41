"""caffe.coord_map: where the elements of one top of a NetSpec lie in another, and the Crop that aligns the two.

Along each spatial axis element x of one top lies at `a * x + b` of the other: a is the scale, b the shift. Fully
convolutional networks are written with it: `crop(n.upscore, n.data)`.
Source: BVLC/caffe, python/caffe/coord_map.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import OptionError
from calib8.pycaffe.net_spec import Function, Top, layers

Numbers = NDArray[np.float64]

_SAME_PLACE = frozenset({
    "AbsVal", "BNLL", "BatchNorm", "Bias", "Dropout", "ELU", "Eltwise", "Exp", "LRN", "Log", "MVN", "PReLU", "Power",
    "ReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold",
})  # fmt: skip
_WINDOWS = frozenset({"Convolution", "Im2col", "Pooling"})


class NoMapError(OptionError, RuntimeError):
    """Two tops between which no element has a place of its own."""


class NoCropError(OptionError, AssertionError):
    """Two tops that no Crop aligns."""


@dataclass(frozen=True)
class _Map:
    """x -> scale * x + shift for all axes behind `axis`, that of the channels; None where any axis will do."""

    axis: int | None
    scale: Numbers
    shift: Numbers

    def after(self, first: _Map) -> _Map:
        """Chain this map behind `first`."""
        if None not in (self.axis, first.axis) and self.axis != first.axis:
            raise NoMapError(f"layers that slide over different axes, {self.axis} and {first.axis}, have no common map")
        # An element x lies at first.scale * x + first.shift, and that through this map at scale * (...) + shift.
        axis = first.axis if self.axis is None else self.axis
        return _Map(axis, self.scale * first.scale, self.scale * first.shift + self.shift)

    def inverse(self) -> _Map:
        return _Map(self.axis, 1 / self.scale, -self.shift / self.scale)


_IDENTITY = _Map(None, np.ones(1), np.zeros(1))


def coord_map_from_to(top_from: Top, top_to: Top) -> tuple[int | None, Numbers, Numbers]:
    """Find where elements of `top_from` lie in `top_to`: axis of the channels, scale and shift for each spatial axis.

    Raises:
        NoMapError: the tops have no common ancestor, or a layer between them mixes all places.
    """
    down_from, down_to = _maps_from_ancestors(top_from), _maps_from_ancestors(top_to)
    common = next((top for top in down_from if top in down_to), None)
    if common is None:
        raise NoMapError("the tops have no common ancestor from which both keep their places")
    whole = down_to[common].after(down_from[common].inverse())
    return whole.axis, whole.scale, whole.shift


def crop(top_from: Top, top_to: Top) -> Any:
    """Make a Crop layer that brings `top_from` to the size and the place of `top_to`.

    Raises:
        NoMapError: see `coord_map_from_to`.
        NoCropError: the tops have different scales, or places that are no whole, positive offset apart.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    if not np.allclose(scale, 1):
        raise NoCropError(f"cannot crop: the scales are {scale.tolist()} to 1")
    if (shift > 0).any():
        raise NoCropError(f"cannot crop: the offsets {(-shift).tolist()} are negative; pad the layers before")
    if not np.allclose(shift, np.round(shift)):
        raise NoCropError(f"cannot crop: the offsets {(-shift).tolist()} are no whole numbers")
    offset = [int(n) for n in np.round(-shift)]
    return layers.Crop(top_from, top_to, crop_param={"axis": (axis or 0) + 1, "offset": offset})


def _maps_from_ancestors(top: Top) -> dict[Top, _Map]:
    """Find for each ancestor of a top, nearest first, where its elements lie in the top."""
    maps = {top: _IDENTITY}
    waiting = [top]
    while waiting:
        current = waiting.pop(0)
        own = _map_of(current.fn)
        if own is None:
            continue
        # The second bottom of a Crop gives but the size.
        for bottom in current.fn.inputs[: 1 if current.fn.type_name == "Crop" else None]:
            if bottom not in maps:
                maps[bottom] = maps[current].after(own)
                waiting.append(bottom)
    return maps


def _map_of(layer: Function) -> _Map | None:
    """Find where a layer puts the elements of its bottoms; None for one that mixes all places."""
    kind = layer.type_name
    if kind in _SAME_PLACE:
        return _IDENTITY
    if kind == "Crop":
        own = layer.params.get("crop_param", layer.params)
        return _Map(own.get("axis", 2) - 1, np.ones(1), -_numbers(own, "offset", 0))
    if kind not in _WINDOWS and kind != "Deconvolution":
        return None
    own = layer.params.get("pooling_param" if kind == "Pooling" else "convolution_param", layer.params)
    _refuse_pairs(kind, own)
    stride, pad = _numbers(own, "stride", 1), _numbers(own, "pad", 0)
    # The centre of window i lies at stride * i - pad + reach among the bottom's elements; solved for i.
    reach = _numbers(own, "dilation", 1) * (_numbers(own, "kernel_size", 1) - 1) / 2
    if kind == "Deconvolution":
        return _Map(own.get("axis", 1), stride, reach - pad)
    return _Map(own.get("axis", 1), 1 / stride, (pad - reach) / stride)


def _numbers(params: dict[str, object], name: str, default: int) -> Numbers:
    return np.array(params.get(name, default), np.float64, ndmin=1)


def _refuse_pairs(kind: str, params: dict[str, object]) -> None:
    pairs = sorted(n for n in params if n.endswith(("_h", "_w")) and n[:-2] in ("kernel", "stride", "pad"))
    if pairs:
        raise OptionError(f"a {kind} with {', '.join(pairs)} has no map; write kernel_size, stride and pad as lists")
