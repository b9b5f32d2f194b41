"""Data layers: tops that come from a data base or from files.

Shapes: no bottom; the shapes of the tops follow from the first sample, and are handed to the network when it is built.
Their parameters are read where the data are (the package `data`). Source: BVLC/caffe, src/caffe/layers/data_layer.cpp,
image_data_layer.cpp, hdf5_data_layer.cpp, window_data_layer.cpp; the SSD fork's annotated_data_layer.cpp.
Of image segmentation: SegNet's DenseImageData, DeepLab's ImageSegData, caffe-jacinto's ImageLabelData.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from calib8.graph import Shape
from calib8.layer_kit.base import UNLIMITED, Op, register
from calib8.layer_kit.fields import Fields, RefusedError

SHAPES_ADVICE = "give them (`shapes=..`), let images take its place (`images=..`), or replace it by an Input layer"


def shapes_unknown(tops: Iterable[str]) -> RefusedError:
    """Say why a data layer has no shapes, where nobody opened its data."""
    return RefusedError(f"the shapes of {', '.join(map(repr, tops))} follow from its data; {SHAPES_ADVICE}")


class Data(Op):
    """tops = the next batch of samples."""

    types = (
        "AnnotatedData", "Data", "DenseImageData", "HDF5Data", "ImageData", "ImageLabelData", "ImageLabelListData",
        "ImageSegData", "VideoData", "WindowData",
    )  # fmt: skip
    bottoms = (0, 0)
    tops = (1, UNLIMITED)
    kind = "source"

    def __init__(self, fields: Fields) -> None:
        self._tops = list(fields.param.top)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        raise shapes_unknown(self._tops)


register(Data)
