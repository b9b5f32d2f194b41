"""Layers that only hand values on: behind layers in FP32 they stay in FP32, since codes would lose precision there."""

from __future__ import annotations

from collections.abc import Collection

from calib8.graph import Layer
from calib8.layers import Op
from calib8.lowering import Model


def is_idle(layer: Layer, op: Op, coded: Collection[str]) -> bool:
    """Tell whether a layer hands on what only FP32 layers gave.

    Args:
        coded: the values that are codes, of all that come before the layer.
    """
    return (op.passive or op.moves_data) and not any(b in coded for b in layer.bottoms)


def without_idle_layers(model: Model, int8_layers: Collection[str]) -> frozenset[str]:
    """Leave out of `int8_layers` those that hand on what only FP32 layers gave."""
    left = set(int8_layers)
    coded = set(model.inputs)
    for layer, op in model.pairs:
        if layer.name in left and is_idle(layer, op, coded):
            left.remove(layer.name)
        if layer.name in left:
            coded.update(layer.tops)
    return frozenset(left)
