"""Layers that switch between INT8 and FP32 together, and setups made of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from calib8.graph import Layer
from calib8.lowering import Model
from calib8.quantize import QuantPlan
from calib8.quantize.channel_units import is_before_batch_norm, rectified_top


@dataclass(frozen=True)
class Unit:
    """One layer that can run in INT8, or a BatchNorm and its Scale.

    Attributes:
        layers: their names, in the order of the network.
        top: the value that the last of them writes first.
        seen: the value at which what it does is compared with FP32; see `seen_at`.
        start, stop: positions in the network: of the first layer, and behind the last.
    """

    layers: tuple[str, ...]
    top: str
    seen: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The names with commas, as int8_init takes them."""
        return ",".join(self.layers)


def units_of(model: Model, plan: QuantPlan, needed: Collection[str]) -> tuple[Unit, ...]:
    """List all units of `needed` layers that have integers, in the order of the network."""
    place = {layer.name: index for index, layer in enumerate(model.net.layers)}
    scale_of = {name: scale.name for name, scale in model.batch_norm_pairs.items()}
    scales = set(scale_of.values())
    units = []
    for layer in model.net.layers:
        if plan.forms.get(layer.name) is None or layer.name in scales or layer.name not in needed:
            continue
        names = (layer.name, scale_of[layer.name]) if layer.name in scale_of else (layer.name,)
        last = model.net.layer_by_name[names[-1]]
        seen = seen_at(model, plan, last)[0]
        units.append(Unit(names, last.tops[0], seen, place[names[0]], place[last.name] + 1))
    return tuple(units)


def seen_at(model: Model, plan: QuantPlan, layer: Layer) -> tuple[str, ...]:
    """Name the values at which what a layer does is compared with FP32: its tops.

    Codes with units before a BatchNorm have no room for what the ReLU behind it takes away, which would look like an
    error there. Of such a convolution it is the ReLU's top.
    """
    found = layer.tops
    if found and found[0] in plan.channel_units and is_before_batch_norm(model, found[0]):
        rectified = rectified_top(model, model.net.consumers[found[0]][0])
        found = found if rectified is None else (rectified,)
    return found
