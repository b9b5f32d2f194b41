"""A BatchNorm and the Scale behind it are one affine step; which two layers belong together is read off their blobs."""

from __future__ import annotations

from collections.abc import Mapping

from calib8.graph import Layer, Net, Shape
from calib8.layers import Op
from calib8.layers.batch_norm import BatchNorm
from calib8.layers.scale import Scale


def scales_of_batch_norms(net: Net, op_of: Mapping[str, Op], shapes: Mapping[str, Shape]) -> dict[str, Layer]:
    """The Scale of every BatchNorm that has one; see `Model.batch_norm_pairs`."""
    pairs: dict[str, Layer] = {}
    for layer in net.layers:
        if isinstance(op_of[layer.name], BatchNorm):
            readers = net.consumers[layer.tops[0]]
            if len(readers) == 1 and _takes_over(op_of[readers[0].name], [shapes[b] for b in readers[0].bottoms]):
                pairs[layer.name] = readers[0]
    return pairs


def _takes_over(op: Op, shapes: list[Shape]) -> bool:
    return isinstance(op, Scale) and len(shapes[0]) > 1 and op.is_per_channel(shapes)
