"""Neuron layers: one bottom, one top of the same shape, each element computed from the one at its place.

Source: BVLC/caffe, include/caffe/layers/neuron_layer.hpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Op


class Neuron(Op):
    """What all of them share: the shape rule."""

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(bottoms)
