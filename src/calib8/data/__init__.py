"""Calibration and test samples: LMDB, image lists, HDF5, the user's Python layers, all behind `SampleSource`."""

from calib8.data.arrays import ArraysSource
from calib8.data.faces import Batch, Linear, SampleSource, origin_of, takes
from calib8.data.image_params import read_image_params
from calib8.data.images import ImagesSource
from calib8.data.looking import Look, look_at, refuse_bad_samples
from calib8.data.preprocess import Preprocess
from calib8.data.sources import DATA_TYPES, open_source

__all__ = [
    "DATA_TYPES",
    "ArraysSource",
    "Batch",
    "ImagesSource",
    "Linear",
    "Look",
    "Preprocess",
    "SampleSource",
    "look_at",
    "open_source",
    "origin_of",
    "read_image_params",
    "refuse_bad_samples",
    "takes",
]
