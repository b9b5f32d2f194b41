"""Which source a data layer's type means."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from calib8.data.faces import SampleSource
from calib8.data.hdf5_data import Hdf5Source
from calib8.data.image_data import ImageDataSource
from calib8.data.lmdb_data import LmdbSource
from calib8.data.python_data import PythonSource
from calib8.errors import DataError
from calib8.graph import Phase
from calib8.proto import caffe_pb2

_SOURCES: dict[str, Callable[[caffe_pb2.LayerParameter, Path, Phase], SampleSource]] = {
    "Data": lambda param, folder, phase: LmdbSource(param, folder),
    "AnnotatedData": lambda param, folder, phase: LmdbSource(param, folder),
    "ImageData": lambda param, folder, phase: ImageDataSource(param, folder),
    "HDF5Data": lambda param, folder, phase: Hdf5Source(param, folder),
    "Python": PythonSource,
}
DATA_TYPES = frozenset(_SOURCES)
"""Types of layers that `open_source` reads, when they have no bottoms."""


def open_source(
    param: caffe_pb2.LayerParameter, model_folder: str | os.PathLike[str], phase: Phase = Phase.TEST
) -> SampleSource:
    """Open the samples of a data layer.

    Args:
        param: the LayerParameter of a layer without bottoms.
        model_folder: the folder of the prototxt; relative paths are looked for in the working directory, then here.
        phase: the network's, for Python layers.

    Raises:
        DataError: a type that gives no samples, or data that cannot be used.
        UserLayerError: a Python layer that cannot be used.
    """
    make = _SOURCES.get(param.type)
    if make is None:
        raise DataError(
            f"layer {param.name!r} ({param.type}) gives no samples; use one of {', '.join(_SOURCES)}, or an Input "
            "layer with `images=..`"
        )
    return make(param, Path(model_folder), phase)
