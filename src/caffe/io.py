"""pycaffe's conversions between messages and arrays. Source: BVLC/caffe, python/caffe/io.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.proto import caffe_pb2
from calib8.proto.blobs import blob_from_proto, blob_to_proto

__all__ = ["array_to_blobproto", "array_to_datum", "blobproto_to_array", "datum_to_array"]

array_to_blobproto = blob_to_proto


def blobproto_to_array(blob: caffe_pb2.BlobProto) -> NDArray[np.float32]:
    """The values of a BlobProto (a mean file, say) in its shape."""
    return blob_from_proto(blob).copy()


def array_to_datum(array: NDArray[Any], label: int | None = None) -> caffe_pb2.Datum:
    """A Datum of an array (C, H, W): uint8 as `data`, other types as `float_data`."""
    channels, height, width = array.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data.extend(array.astype(np.float32).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: caffe_pb2.Datum) -> NDArray[Any]:
    """The array (C, H, W) of a raw Datum: uint8 of `data`, else float32 of `float_data`."""
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        return np.frombuffer(datum.data, np.uint8).reshape(shape)
    return np.array(datum.float_data, np.float32).reshape(shape)
