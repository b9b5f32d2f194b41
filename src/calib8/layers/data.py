"""Data layers: tops that come from a data base or from files.

Their parameters are read where the data are (the package `data`); the shapes of their tops follow from the first
sample, and are handed to the network when it is built. Source: BVLC/caffe, src/caffe/layers/data_layer.cpp,
image_data_layer.cpp, hdf5_data_layer.cpp, window_data_layer.cpp; the SSD fork's annotated_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from calib8.graph import Shape
from calib8.layers.base import UNLIMITED, Op, register
from calib8.layers.fields import Fields, RefusedError


def shapes_unknown(tops: Iterable[str]) -> RefusedError:
    """Why a data layer has no shapes, where nobody opened its data."""
    return RefusedError(
        f"the shapes of {', '.join(map(repr, tops))} follow from its data; give them "
        "(--shape BLOB=N,C,H,W), or replace the layer by an Input layer"
    )


class Data(Op):
    """tops = the next batch of samples."""

    types = ("AnnotatedData", "Data", "DenseImageData", "HDF5Data", "ImageData", "VideoData", "WindowData")
    bottoms = (0, 0)
    tops = (1, UNLIMITED)
    kind = "source"

    def __init__(self, fields: Fields) -> None:
        self._tops = list(fields.param.top)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        raise shapes_unknown(self._tops)


class MemoryData(Op):
    """tops = data (N, C, H, W) and labels (N) that a program hands over; memory_data_layer.cpp, lines 10-35."""

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


register(Data)
register(MemoryData)
