"""MemoryData: samples that a program hands over.

Shapes: no bottom; tops data (N, C, H, W) and, if wanted, labels (N).
Parameters: `batch_size` N, `channels` C, `height` H, `width` W, all required.
Source: BVLC/caffe, src/caffe/layers/memory_data_layer.cpp, lines 10-35.
"""

from __future__ import annotations

from collections.abc import Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import Op, register
from calib8.layer_kit.fields import Fields, RefusedError


class MemoryData(Op):
    """tops = the next batch that the program gave."""

    types = ("MemoryData",)
    bottoms = (0, 0)
    tops = (1, 2)
    kind = "source"

    def __init__(self, fields: Fields) -> None:
        group = fields.group("memory_data_param")
        self.shape: Shape = (group.batch_size, group.channels, group.height, group.width)
        self._tops = len(fields.param.top)
        if min(self.shape) < 1:
            raise RefusedError(f"memory_data_param gives the shape {self.shape}; all four numbers must be set")

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.shape, (self.shape[0],)][: self._tops]


register(MemoryData)
