"""A layer that a node has become."""

from __future__ import annotations

from dataclasses import dataclass, field

from calib8.graph import Array, Shape
from calib8.proto import caffe_pb2


@dataclass
class Made:
    """A layer, its weights, and the shapes of its tops."""

    param: caffe_pb2.LayerParameter
    blobs: list[Array] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
