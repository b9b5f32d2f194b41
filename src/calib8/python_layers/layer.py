"""Layer: what users derive their Python layers from, offered to them as `caffe.Layer`.

Source: BVLC/caffe, include/caffe/layers/python_layer.hpp; python/caffe/_caffe.cpp, class_<Layer>.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from calib8.proto import caffe_pb2
from calib8.python_layers.blob import Blob, BlobVec

Blobs = Sequence[Blob]


class Layer:
    """Base of the user's layers. `setup` and `reshape` may be left out, `forward` must be there.

    Attributes:
        param_str: python_param.param_str of the prototxt; `param_str_` is its older name.
        phase: caffe.TRAIN (0) or caffe.TEST (1).
        blobs: the weights; `setup` makes them with `self.blobs.add_blob(*shape)`.
        layer_name, model_folder: calib8's own: the layer's name and the prototxt's folder.
    """

    type: ClassVar[str] = "Python"
    param_str: str = ""
    param_str_: str = ""
    phase: int = 1
    layer_name: str = ""
    model_folder: str = "."

    def __init__(self, param: caffe_pb2.LayerParameter | None = None, *args: Any, **kwargs: Any) -> None:
        self.blobs = BlobVec()

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        """Read `param_str`, open files, make weights."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        """Give every top its shape; called once after `setup` and before every `forward`."""

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        """Fill `top[i].data` from `bottom[i].data`."""
        raise NotImplementedError("the layer has no method `forward`")

    def backward(self, top: Blobs, propagate_down: Sequence[bool], bottom: Blobs) -> None:
        """Do nothing: calib8 does not train, and never calls it."""
