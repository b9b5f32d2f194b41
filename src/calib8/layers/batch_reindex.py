"""BatchReindex: samples of the first bottom in another order, some left out or repeated: y[i] = x[index[i]].

Shapes: bottoms x (N, ...) and index (M); top (M, ...). No parameters. An index is cut to a whole number; one outside
[0, N) stops the run, as it stops Caffe.
Source: BVLC/caffe, src/caffe/layers/batch_reindex_layer.cpp, BatchReindexLayer::Reshape and Forward_cpu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Shape
from calib8.layer_kit.base import Call, Op, register
from calib8.layer_kit.fields import Fields, RefusedError
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.proto.onnx_messages import TensorProto


class BatchReindex(Op):
    """Samples by number; ONNX Gather."""

    types = ("BatchReindex",)
    bottoms = (2, 2)

    def __init__(self, fields: Fields) -> None:
        del fields  # it has none

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, index = bottoms
        if not x or len(index) != 1:
            raise RefusedError(f"bottoms are {x} and {index}; expected samples, and a list of their numbers")
        return [(index[0], *x[1:])]

    def lower(self, g: OnnxBuilder, call: Call) -> list[str]:
        index = g.node("Cast", call.bottoms[1], to=TensorProto.INT64)
        # ONNX counts negative indices from the end; outside, like here, the run stops.
        zero, outside = (g.constant(np.int64(v)) for v in (0, call.bottom_shapes[0][0]))
        index = g.node("Where", g.node("Less", index, zero), outside, index)
        return [g.node("Gather", call.bottoms[0], index, axis=0)]


register(BatchReindex)
