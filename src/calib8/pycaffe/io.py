"""caffe.io: images, and conversions between arrays and Caffe's messages.

Source: BVLC/caffe, python/caffe/io.py. Images are read with OpenCV instead of scikit-image; they come in the same form:
RGB, float32, from 0 to 1. Arrays of messages are float32, where pycaffe makes float64 of the same values.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from calib8.data.datum import decode_image
from calib8.data.image_list import MAX_IMAGE_BYTES
from calib8.errors import DataError
from calib8.proto import caffe_pb2
from calib8.proto.blobs import blob_from_proto, blob_to_proto
from calib8.pycaffe.resize import resize_image
from calib8.pycaffe.transformer import Transformer
from calib8.reading import read_file

__all__ = [
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize_image",
]

_LUMINANCE = np.array([0.2125, 0.7154, 0.0721], np.float32)
"""Weights of R, G and B in scikit-image's rgb2gray."""


def blobproto_to_array(blob: caffe_pb2.BlobProto, return_diff: bool = False) -> NDArray[np.float32]:
    """Take the values of a BlobProto (a mean file, say) in its shape, or its gradients.

    Raises:
        ValueError: there are more or fewer values than the shape has.
    """
    if return_diff:
        gradients = caffe_pb2.BlobProto()
        gradients.CopyFrom(blob)
        gradients.ClearField("double_data")
        gradients.data[:] = blob.diff
        blob = gradients
    return blob_from_proto(blob).copy()


def array_to_blobproto(arr: NDArray[Any], diff: NDArray[Any] | None = None) -> caffe_pb2.BlobProto:
    """Make the BlobProto of an array of any shape, with gradients of the same shape."""
    blob = blob_to_proto(arr)
    if diff is not None:
        blob.diff.extend(np.asarray(diff, np.float32).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[NDArray[Any]]) -> bytes:
    """Serialize arrays as a BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector(blobs=[array_to_blobproto(arr) for arr in arraylist])
    return bytes(vector.SerializeToString())


def blobprotovector_str_to_arraylist(string: bytes) -> list[NDArray[np.float32]]:
    """Parse a serialized BlobProtoVector into arrays.

    Raises:
        DataError: it is none.
    """
    try:
        blobs = caffe_pb2.BlobProtoVector.FromString(string).blobs
    except DecodeError:
        raise DataError(f"{len(string)} bytes that are no serialized BlobProtoVector") from None
    return [blobproto_to_array(blob) for blob in blobs]


def array_to_datum(arr: NDArray[Any], label: int | None = None) -> caffe_pb2.Datum:
    """Make a Datum of an array (C, H, W): uint8 as `data`, other types as `float_data`.

    Raises:
        DataError: another number of axes.
    """
    if arr.ndim != 3:
        raise DataError(f"a Datum holds an array (C, H, W); this one has the shape {arr.shape}")
    channels, height, width = arr.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(np.float32).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: caffe_pb2.Datum) -> NDArray[Any]:
    """Take the array (C, H, W) of a raw Datum: uint8 of `data`, else float32 of `float_data`."""
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        return np.frombuffer(datum.data, np.uint8).reshape(shape).copy()
    return np.array(datum.float_data, np.float32).reshape(shape)


def load_image(filename: str | os.PathLike[str], color: bool = True) -> NDArray[np.float32]:
    """Read an image.

    Args:
        color: RGB, also of a grey image; without it, luminance.

    Returns:
        (H, W, 3) or (H, W, 1), float32 from 0 to 1; an alpha channel is left out.

    Raises:
        DataError: no such file, or no image.
    """
    pixels = _read_pixels(Path(filename))
    if np.issubdtype(pixels.dtype, np.integer):
        pixels = pixels / np.float32(np.iinfo(pixels.dtype).max)
    image = pixels.astype(np.float32)
    if image.ndim == 2:
        return np.repeat(image[:, :, np.newaxis], 3 if color else 1, axis=2)
    rgb = np.ascontiguousarray(image[:, :, 2::-1])
    return rgb if color else (rgb @ _LUMINANCE)[:, :, np.newaxis]


def _read_pixels(path: Path) -> NDArray[Any]:
    data = read_file(path, MAX_IMAGE_BYTES, DataError)
    try:
        return decode_image(data, cv2.IMREAD_UNCHANGED)
    except DataError as why:
        raise DataError(f"{path}: {why} ({len(data)} bytes)") from None


def oversample(
    images: Sequence[NDArray[Any]] | NDArray[Any], crop_dims: Sequence[int] | NDArray[Any]
) -> NDArray[np.float32]:
    """Cut ten crops out of each image: the corners and the centre, and then the same mirrored.

    Args:
        images: (H, W, K) each, of one shape.
        crop_dims: height and width.

    Returns:
        (10 * N, crop_dims[0], crop_dims[1], K).

    Raises:
        DataError: images that are smaller than the crops.
    """
    height, width = (int(n) for n in crop_dims)
    below, right = images[0].shape[0] - height, images[0].shape[1] - width
    if below < 0 or right < 0:
        raise DataError(f"images of the shape {images[0].shape} are smaller than the crops of {height} x {width}")
    # In pycaffe's order: four corners and the centre, then the same five mirrored, image after image.
    places = [(0, 0), (0, right), (below, 0), (below, right), (below // 2, right // 2)]
    crops = [[image[y : y + height, x : x + width] for y, x in places] for image in images]
    both = [[*plain, *(crop[:, ::-1] for crop in plain)] for plain in crops]
    return np.array(both, np.float32).reshape(-1, height, width, images[0].shape[2])
