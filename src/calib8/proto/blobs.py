"""Caffe's BlobProto and numpy arrays.

A blob has its values in `data` (float), `double_data`, or NVIDIA's `raw_data` with a type, and its shape in `shape` or
in the four numbers of old files (BVLC/caffe src/caffe/blob.cpp, Blob::FromProto and Blob::ShapeEquals). `diff` is a
leftover of training and is not read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.proto import caffe_pb2
from calib8.proto.wire import FIXED32, FIXED64, LENGTH, VARINT, Field, Reader, WireError, expect

MAX_AXES = 32
"""Caffe's kMaxBlobAxes (include/caffe/blob.hpp)."""
_MAX_DIM = 2**31 - 1
_MAX_PRODUCT = 2**48  # also of the other sizes of an empty blob: numpy refuses more

# Field numbers of BlobProto; `diff` and its like (6, 9, 11, 13) are passed over.
_NUM, _CHANNELS, _HEIGHT, _WIDTH = 1, 2, 3, 4
_DATA, _SHAPE, _DOUBLE_DATA, _RAW_TYPE, _RAW_DATA = 5, 7, 8, 10, 12
_LEGACY = (_NUM, _CHANNELS, _HEIGHT, _WIDTH)
# BlobProto.RawType, little-endian as everything in protobuf.
_RAW_DTYPES = {0: "<f8", 1: "<f4", 2: "<f2", 3: "<i4", 4: "<u4"}
_UNPACKED_BLOCK = 1 << 20


class BlobError(ValueError):
    """A blob whose values do not fit its shape."""


def read_blob(reader: Reader, start: int, end: int) -> NDArray[np.float32]:
    """Read the blob stored in data[start:end]: a read-only view where it is stored as packed floats, else a copy.

    A view may stand at any address: `flags.aligned` says, and numpy and ONNX Runtime take it as it is.

    Raises:
        WireError: no BlobProto.
        BlobError: the number of values is not the product of the shape.
    """
    legacy: dict[int, int] = {}
    dims: list[int] = []
    floats: list[NDArray[Any]] = []
    doubles: list[NDArray[Any]] = []
    raw: Field | None = None
    raw_type = 0
    while start < end:
        field = reader.field(start, end)
        start = field.end
        if field.number in _LEGACY:
            expect(field, VARINT, what="a blob's size")
            legacy[field.number] = signed(field.value)
        elif field.number == _DATA:
            start = _take_values(reader, field, end, floats, "<f4")
        elif field.number == _DOUBLE_DATA:
            start = _take_values(reader, field, end, doubles, "<f8")
        elif field.number == _SHAPE:
            expect(field, LENGTH, what="a blob's shape")
            dims.extend(_dims(reader, field))
        elif field.number == _RAW_TYPE and field.wire == VARINT:
            raw_type = field.value
        elif field.number == _RAW_DATA and field.wire == LENGTH:
            raw = field
    # A file that has any of the four old numbers means them: Caffe looks at `shape` only without (Blob::FromProto).
    shape = [legacy.get(n, 0) for n in _LEGACY] if legacy else dims
    # NVIDIA writes raw_data instead of data; where both are set, data is what every other Caffe reads.
    if raw is not None and not floats and not doubles:
        return shaped(_raw(reader, raw, raw_type), shape)
    return shaped(_joined(doubles or floats), shape)


def blob_from_proto(blob: caffe_pb2.BlobProto) -> NDArray[np.float32]:
    """Take the values of a parsed message (a mean file, say) in its shape, as a read-only copy.

    Raises:
        BlobError: the number of values is not the product of the shape.
    """
    data = blob.SerializeToString()
    return read_blob(Reader(memoryview(data)), 0, len(data))


def blob_to_proto(values: NDArray[Any]) -> caffe_pb2.BlobProto:
    """Make the message that Caffe writes: `shape`, and the values as packed floats."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(values.shape)
    blob.data.extend(np.asarray(values, dtype=np.float32).ravel())
    return blob


def shaped(values: NDArray[Any], shape: list[int]) -> NDArray[np.float32]:
    """Give values the shape that comes from a file, as read-only float32.

    Raises:
        BlobError: more than 32 axes, a size that is negative or above 2^31 - 1, or a product that is not the count.
    """
    if len(shape) > MAX_AXES:
        raise BlobError(f"has {len(shape)} axes; Caffe allows {MAX_AXES}")
    if any(not 0 <= d <= _MAX_DIM for d in shape):
        raise BlobError(f"has the shape {_by(shape)}; every size must be from 0 to {_MAX_DIM}")
    # A size of 0 makes the product 0, whatever the others are; numpy refuses the others all the same.
    if math.prod(d or 1 for d in shape) > _MAX_PRODUCT:
        raise BlobError(f"has the shape {_by(shape)}, which is more than {_MAX_PRODUCT} values")
    if math.prod(shape) != values.size:
        raise BlobError(f"has the shape {_by(shape)}, which is {math.prod(shape)} values, but {values.size} are stored")
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinity
        array = values.astype(np.float32, copy=False).reshape(shape)
    array.flags.writeable = False
    return array


def _by(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "()"


def signed(value: int) -> int:
    """Read a varint as int32 or int64: negative numbers are stored as 2^64 more."""
    return value - 2**64 if value >= 2**63 else value


def _dims(reader: Reader, shape: Field) -> list[int]:
    """Read BlobShape.dim, packed or not."""
    dims: list[int] = []
    for field in reader.fields(shape.start, shape.end):
        if field.number != 1:
            continue
        expect(field, VARINT, LENGTH, what="a blob's shape")
        place = field.start
        if field.wire == VARINT:
            dims.append(signed(field.value))
        # One more than allowed is enough for the error: a hostile file may claim millions.
        while field.wire == LENGTH and place < field.end and len(dims) <= MAX_AXES:
            value, place = reader.varint(place, field.end)
            dims.append(signed(value))
    return dims


def _take_values(reader: Reader, field: Field, end: int, chunks: list[NDArray[Any]], dtype: str) -> int:
    """Append the values that begin with `field`, a packed field or a run of single ones; return where they end."""
    size = np.dtype(dtype).itemsize
    expect(field, LENGTH, FIXED32 if size == 4 else FIXED64, what="a blob's data")
    if field.wire != LENGTH:
        return _take_run(reader, field, end, chunks, dtype)
    count, rest = divmod(field.end - field.start, size)
    if rest:
        raise WireError(field.tag, f"{field.end - field.start} bytes of data are no whole number of {size}-byte values")
    if count:
        chunks.append(np.frombuffer(reader.data, dtype=dtype, count=count, offset=field.start))
    return field.end


def _take_run(reader: Reader, field: Field, end: int, chunks: list[NDArray[Any]], dtype: str) -> int:
    """Append values with a tag each, as old protobuf wrote them; a block of them at a time, in numpy."""
    # Tag and value as one item: a run is as long as the tags beside the values stay the same.
    tag = bytes(reader.data[field.tag : field.start])
    item = np.dtype([("tag", f"V{len(tag)}"), ("value", dtype)])
    place = field.tag
    while (count := min((end - place) // item.itemsize, _UNPACKED_BLOCK)) > 0:
        block = np.frombuffer(reader.data, dtype=item, count=count, offset=place)
        other = np.flatnonzero(block["tag"] != np.void(tag))
        run = int(other[0]) if other.size else count
        chunks.append(block["value"][:run].copy())
        place += run * item.itemsize
        if run < count:
            break
    return place


def _raw(reader: Reader, field: Field, raw_type: int) -> NDArray[Any]:
    """Read NVIDIA's and OpenCV's `raw_data`: float16 weights, mostly."""
    if raw_type not in _RAW_DTYPES:
        raise WireError(field.tag, f"raw_data_type {raw_type} is unknown; known are 0 to {len(_RAW_DTYPES) - 1}")
    dtype = np.dtype(_RAW_DTYPES[raw_type])
    count, rest = divmod(field.end - field.start, dtype.itemsize)
    if rest:
        raise WireError(field.tag, f"{field.end - field.start} bytes of raw_data are no whole number of {dtype} values")
    return np.frombuffer(reader.data, dtype=dtype, count=count, offset=field.start)


def _joined(chunks: list[NDArray[Any]]) -> NDArray[Any]:
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate(chunks) if chunks else np.empty(0, np.float32)
