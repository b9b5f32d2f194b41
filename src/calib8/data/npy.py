"""numpy's `.npy`, with everything checked before memory is taken: numpy's own reader makes room for what a head claims.

Source: numpy, NEP 1 and lib/format: magic, version, length of the head, a Python dict, the values.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
_MAX_HEAD = 10_000
HEAD_BYTES = _MAX_HEAD + 12
"""The most that a head takes."""
_NUMBERS = re.compile(r"[<>|=]?(f[248]|[iu][1248])")


@dataclass(frozen=True)
class NpyHead:
    """What stands before the values.

    Attributes:
        dtype, shape: of the array.
        is_fortran: whether the first axis is the fastest.
        begin: the place of the first value, in bytes.
    """

    dtype: np.dtype[Any]
    is_fortran: bool
    shape: tuple[int, ...]
    begin: int

    @property
    def value_bytes(self) -> int:
        """Bytes that all values take."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(data: bytes) -> NDArray[np.float32]:
    """Read the numbers of a `.npy` file, as float32.

    Raises:
        ValueError: it is none, or holds anything but real numbers.
    """
    head = read_head(data)
    values = np.frombuffer(data, np.uint8, offset=head.begin)
    check_size(head, values.size)
    array = values.view(head.dtype).reshape(head.shape, order="F" if head.is_fortran else "C")
    return np.asarray(array, np.float32)


def read_head(data: bytes) -> NpyHead:
    """Read the head of a `.npy` file, of which `data` has at least the first `HEAD_BYTES`.

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
    return NpyHead(*_head(data[begin : begin + length]), begin + length)


def check_size(head: NpyHead, found: int) -> None:
    """Compare the bytes behind a head with what it claims.

    Raises:
        ValueError: they differ.
    """
    if found != head.value_bytes:
        raise ValueError(f"its head claims the shape {head.shape} of {head.dtype}, and {found} bytes follow")


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
