"""The user's Python layers: `Layer` is their base class (`caffe.Layer`), `UserLayer` runs one."""

from calib8.python_layers.blob import Blob, BlobVec
from calib8.python_layers.layer import Layer
from calib8.python_layers.user_layer import UserClass, UserLayer, without_running

__all__ = ["Blob", "BlobVec", "Layer", "UserClass", "UserLayer", "without_running"]
