from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from calib8.data.mean import read_mean
from calib8.data.npy import read_npy
from calib8.errors import DataError

KINDS = [np.dtype(order + kind) for kind in ("f2", "f4", "f8", "i1", "u1", "i2", "u4", "i8") for order in "<>"]


def saved(array, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False, **options)
    return file.getvalue()


@given(st.sampled_from(KINDS).flatmap(lambda d: st_numpy.arrays(d, st_numpy.array_shapes(max_dims=4))), st.booleans())
def test_what_numpy_writes(array, fortran):
    array = np.asfortranarray(array) if fortran else array
    with np.errstate(over="ignore"):
        found, expected = read_npy(saved(array)), array.astype(np.float32)
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_versions(version):
    assert read_npy(saved(np.ones((3, 2, 2), np.float32), version=version)).shape == (3, 2, 2)


def with_head(text: str, values: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode("latin-1") + values


GOOD = {"descr": "<f4", "fortran_order": False, "shape": (1,)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin"),
        (b"PK\x03\x04", r"but as a \.npz"),
        (b"\x93NUMPY\x09\0" + bytes(20), "does not begin"),
        (b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31), "its head claims 2147483648 bytes"),
        (with_head("( # "), "head is damaged"),
        (with_head("(" * 9000), "head is damaged"),
        (with_head("-" * 9000 + "1"), "head is damaged"),
        (with_head("[1]"), "head is damaged"),
        (with_head("{'descr': 'f4'}"), "head is damaged"),
        (with_head(repr({**GOOD, "shape": (2**30, 8)})), "claims the shape"),
        (with_head(repr({**GOOD, "shape": (-1,)})), "claims the shape"),
        (with_head(repr({**GOOD, "shape": (2**70,)})), "claims the shape"),
        (with_head(repr({**GOOD, "shape": (True,)})), "claims the shape"),
        (with_head(repr({**GOOD, "shape": [1]})), "claims the shape"),
        (with_head(repr(GOOD), bytes(5)), "and 5 bytes follow"),
        (with_head(repr({**GOOD, "descr": "|O"}), bytes(8)), "numbers are expected"),
        (with_head(repr({**GOOD, "descr": "<c8"}), bytes(8)), "numbers are expected"),
        (with_head(repr({**GOOD, "descr": [("a", "<f4")]}), bytes(4)), "numbers are expected"),
    ],
)
def test_damaged_heads(data, message):
    with pytest.raises(ValueError, match=message):
        read_npy(data)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(data, with_magic):
    try:
        read_npy((b"\x93NUMPY\x01\0" if with_magic else b"") + data)
    except ValueError as why:
        assert str(why)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["01_npz_named_npy.npy", "02_begins_like_zip.npy", "03_damaged_header.npy", "05_claims_32_gib.npy"]
)
def test_files_that_made_numpy_raise_what_it_likes(shared, name):
    with pytest.raises(DataError, match="is no readable mean image"):
        read_mean(shared / "cases" / "hostile" / name, "mean")
