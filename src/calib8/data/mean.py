"""Mean images: Caffe's `.binaryproto` and numpy's `.npy`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from calib8.data.npy import read_npy
from calib8.errors import DataError
from calib8.proto import caffe_pb2
from calib8.proto.blobs import BlobError, blob_from_proto
from calib8.reading import read_file

_PACKED_DATA = bytes([5 << 3 | 2])
MAX_MEAN_BYTES = 256 * 2**20
"""Largest mean file that is read: 40 times a mean of 1024 x 1024 pixels."""


def read_mean(path: Path, what: str) -> NDArray[np.float32]:
    """Read a mean image (C, H, W), or (C, 1, 1) where the file has one number per channel.

    Raises:
        DataError: the file cannot be read or has another shape; `what` says what it was for.
    """
    data = read_file(path, MAX_MEAN_BYTES, DataError, what)
    try:
        mean = read_npy(data) if path.suffix == ".npy" else _read_binaryproto(data)
    except (ValueError, DecodeError) as why:
        raise DataError(f"{what}: {path} is no readable mean image: {why}") from None
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim == 1:
        mean = mean.reshape(-1, 1, 1)
    if mean.ndim != 3 or mean.size == 0:
        raise DataError(f"{what}: {path} has the shape {mean.shape}; (C, H, W) or one number per channel is expected")
    if not np.isfinite(mean).all():
        raise DataError(f"{what}: {path} holds values that are no finite numbers")
    return mean


def mean_bytes(mean: NDArray[np.float32]) -> bytes:
    """Write a mean image (C, H, W) as a `.binaryproto`, as Caffe's compute_image_mean writes it."""
    channels, height, width = mean.shape
    head: bytes = caffe_pb2.BlobProto(num=1, channels=channels, height=height, width=width).SerializeToString()
    data = np.ascontiguousarray(mean, "<f4").tobytes()
    # `data` has the highest number of these fields, so it comes last; protobuf would take each number on its own.
    return head + _PACKED_DATA + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Write a number as protobuf does: 7 bits a byte, the lowest first."""
    groups = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _read_binaryproto(data: bytes) -> NDArray[np.float32]:
    blob = caffe_pb2.BlobProto()
    blob.ParseFromString(data)
    try:
        return blob_from_proto(blob)
    except BlobError as why:
        raise ValueError(f"its blob {why}") from None
