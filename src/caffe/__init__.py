"""`import caffe` with calib8: what Python layers and scripts written for pycaffe need. See calib8.python_layers."""

from caffe import io, proto
from calib8.graph.build import TEST, TRAIN
from calib8.python_layers import Layer

__all__ = ["TEST", "TRAIN", "Layer", "io", "proto"]
