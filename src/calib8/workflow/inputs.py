"""What fills a network's inputs in the prototxt, and who takes its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError
from calib8.graph import Layer, Shape, build_net
from calib8.layers import RefusedError, make_op, registry
from calib8.proto import caffe_pb2
from calib8.proto.text import Prototxt

DATA_LAYER = "data"
"""Name of the layer whose samples are used; the guide asks for it."""
_MADE_BY_THE_NETWORK = frozenset(["Parameter", "ContinuationIndicator"])  # they read nothing, and are no inputs


@dataclass(frozen=True)
class NetInput:
    """A top of a layer that reads nothing.

    Attributes:
        shape: where the prototxt has it.
        is_read: whether a layer makes something of it.
    """

    layer: Layer
    shape: Shape | None
    is_read: bool


def inputs_of(prototxt: Prototxt) -> dict[str, NetInput]:
    """Return the tops of layers that read nothing, by blob."""
    net = build_net(prototxt)
    sources = [x for x in net.layers if not x.bottoms and x.type not in _MADE_BY_THE_NETWORK]
    return {
        blob: NetInput(x, shape, net.is_read(value))
        for x in sources
        for blob, value, shape in zip(x.top_blobs, x.tops, _shapes(x), strict=True)
    }


def _shapes(layer: Layer) -> Sequence[Shape | None]:
    try:
        return make_op(layer).top_shapes([])
    except RefusedError:  # a data layer, whose data tell; or a type that is not known
        return [None] * len(layer.top_blobs)


def with_input(prototxt: Prototxt, layer: Layer, shapes: Mapping[str, Shape], batch: Shape) -> Prototxt:
    """Put an Input layer in the place of a layer whose tops are no inputs: a dummy, or an unknown type."""
    op_type = registry().get(layer.type)
    if layer.type == "Python" or (op_type is not None and op_type.kind == "source"):
        return prototxt
    net = caffe_pb2.NetParameter()
    net.CopyFrom(prototxt.net)
    index = next(i for i, x in enumerate(prototxt.net.layer) if x.name == layer.name and x == layer.param)
    own = caffe_pb2.LayerParameter(name=layer.name, type="Input", top=layer.top_blobs, include=layer.param.include)
    for blob in layer.top_blobs:
        own.input_param.shape.add().dim.extend(shapes.get(blob, batch))
    net.layer[index].CopyFrom(own)
    return replace(prototxt, net=net)


def constant_of(
    prototxt: Prototxt, shapes: Mapping[str, Shape], blob: str, numbers: Sequence[float]
) -> NDArray[np.float32]:
    """Read the numbers of one input, in its shape."""
    if blob not in shapes:
        raise DataError(
            f"{prototxt.source}: `values` {blob}: no input of this name takes values; "
            f"these do: {', '.join(map(repr, shapes)) or 'none'}"
        )
    shape = shapes[blob]
    if len(numbers) not in (1, math.prod(shape), math.prod(shape[1:])):
        raise DataError(
            f"{prototxt.source}: `values` {blob}: {len(numbers)} numbers for an input of the shape "
            f"{'x'.join(map(str, shape))}; expected one for all, or {math.prod(shape)}"
        )
    return np.resize(np.array(numbers, np.float32), shape)
