"""Layers that are quantised together: one does in one integer step what it and the only reader of its top compute."""

from __future__ import annotations

from collections.abc import Mapping

from calib8.graph import Layer, Net, Shape
from calib8.layers import Op


def scales_of_batch_norms(net: Net, op_of: Mapping[str, Op], shapes: Mapping[str, Shape]) -> dict[str, Layer]:
    """Find the Scale of every BatchNorm that has one (`Op.takes_over`); see `Model.batch_norm_pairs`."""
    pairs: dict[str, Layer] = {}
    for layer in net.layers:
        readers = net.consumers[layer.tops[0]] if layer.tops else ()
        if len(readers) == 1:
            follower = readers[0]
            if op_of[layer.name].takes_over(op_of[follower.name], [shapes[b] for b in follower.bottoms]):
                pairs[layer.name] = follower
    return pairs
