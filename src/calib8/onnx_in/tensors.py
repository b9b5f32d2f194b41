"""TensorProtos of a file that nobody has checked as arrays: types, sizes and places are looked at before any memory."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from calib8.errors import OnnxError
from calib8.graph import Array, Shape
from calib8.reading import open_inside

MAX_ELEMENTS = 2**31 - 1
_MOST_SHARED = 4
"""Tensors may share bytes of a file; a small file must not become much memory."""
_KINDS = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


class Tensors:
    """Reads the tensors of one model, from it or from files beside it.

    Args:
        source: the model's path, for messages.
        folder: where files with weights may lie: regular ones, reached without links.
    """

    def __init__(self, source: str, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._read: dict[str, int] = {}  # bytes of each file beside the model

    def array(self, tensor: TensorProto) -> Array:
        """Read the numbers of a tensor.

        Raises:
            OnnxError: a type or a size that has no meaning, numbers that are missing, a file that may not be read.
        """
        where = f"{self._source}: tensor {tensor.name!r}"
        if tensor.data_type not in _KINDS or tensor.HasField("segment"):
            name = _type_name(tensor.data_type)
            raise OnnxError(f"{where}: its type is {name}; expected real or whole numbers in one piece")
        dims = tuple(tensor.dims)
        if any(d < 0 for d in dims) or math.prod(dims) > MAX_ELEMENTS:
            raise OnnxError(f"{where}: has the shape {list(dims)}; a tensor has at most {MAX_ELEMENTS} elements")
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if tensor.data_location == TensorProto.EXTERNAL:
            data = self._external(tensor, where, math.prod(dims) * dtype.itemsize)
            return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(dims)
        _check_length(tensor, where, dims, dtype)
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError, OverflowError) as why:
            raise OnnxError(f"{where}: cannot be read: {why}") from None

    def _external(self, tensor: TensorProto, where: str, size: int) -> bytes:
        """The bytes of a tensor that lie in a file of the model's folder (onnx/onnx, docs/ExternalData.md)."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(size)))
        except ValueError:
            raise OnnxError(f"{where}: offset and length of its file are no numbers") from None
        if offset < 0 or length != size:
            raise OnnxError(f"{where}: {length} bytes at {offset} of {location!r}; expected {size} bytes for its shape")
        with open_inside(self._folder, location, OnnxError, where) as file:
            there = os.fstat(file.fileno()).st_size
            if offset + size > there:
                raise OnnxError(f"{where}: {location!r} has {there} bytes; expected {size} from byte {offset} on")
            self._read[location] = self._read.get(location, 0) + size
            if self._read[location] > _MOST_SHARED * there:
                raise OnnxError(f"{where}: the tensors in {location!r} are more than {_MOST_SHARED} times the file")
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise OnnxError(f"{where}: {location!r} ends after {len(data)} of {size} bytes")
        return data


def _check_length(tensor: TensorProto, where: str, dims: Shape, dtype: np.dtype[Any]) -> None:
    expected, length = math.prod(dims) * dtype.itemsize, len(tensor.raw_data)
    if tensor.HasField("raw_data") and length != expected:
        raise OnnxError(f"{where}: has {length} bytes; expected {expected} for the shape {list(dims)} of {dtype}")
    numbers = sum(len(getattr(tensor, field)) for field in _FIELDS)
    if not tensor.HasField("raw_data") and numbers != math.prod(dims):
        raise OnnxError(f"{where}: has {numbers} numbers; expected {math.prod(dims)} for the shape {list(dims)}")


def _type_name(number: int) -> str:
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else f"number {number}"
