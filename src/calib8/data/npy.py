"""numpy's `.npy`, with everything checked before memory is taken: numpy's own reader makes room for what a head claims.

Source: numpy, NEP 1 and lib/format: magic, version, length of the head, a Python dict, the values.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
_MAX_HEAD = 10_000
_NUMBERS = re.compile(r"[<>|=]?(f[248]|[iu][1248])")


def read_npy(data: bytes) -> NDArray[np.float32]:
    """Read the numbers of a `.npy` file, as float32.

    Raises:
        ValueError: it is none, or holds anything but real numbers.
    """
    if not data.startswith(_MAGIC) or len(data) < 12 or data[6] not in _LENGTHS:
        raise ValueError("it does not begin as a .npy file does" + (" (but as a .npz)" if data[:2] == b"PK" else ""))
    form = _LENGTHS[data[6]]
    begin = 8 + struct.calcsize(form)
    (length,) = struct.unpack_from(form, data, 8)
    if length > _MAX_HEAD or begin + length > len(data):
        raise ValueError(f"its head claims {length} bytes")
    dtype, is_fortran, shape = _head(data[begin : begin + length])
    values = np.frombuffer(data, np.uint8, offset=begin + length)
    if values.size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its head claims the shape {shape} of {dtype}, and {values.size} bytes follow")
    array = values.view(dtype).reshape(shape, order="F" if is_fortran else "C")
    return np.asarray(array, np.float32)


def _head(text: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    try:
        head = ast.literal_eval(text.decode("latin-1").strip())
        kind, is_fortran, shape = head["descr"], head["fortran_order"], head["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise ValueError("its head is damaged") from None
    if not isinstance(kind, str) or not _NUMBERS.fullmatch(kind):
        raise ValueError(f"its values are of type {str(kind)[:40]}, numbers are expected")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise ValueError(f"its head claims the shape {str(shape)[:40]}")
    return np.dtype(kind), is_fortran is True, shape
