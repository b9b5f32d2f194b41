"""The checked reader against the library, and against files that would kill the library's process."""

from __future__ import annotations

import os
import shutil
import struct

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calib8.data.lmdb_env import LmdbRecords
from calib8.errors import DataError


def by_the_library(path):
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return list(transaction.cursor())


def outcome(path):
    """The records, or what is said; anything else escapes."""
    try:
        return list(LmdbRecords(path, "test"))
    except DataError as why:
        assert str(path) in str(why) and "\n" not in str(why)
        return str(why)


def write(path, records, **options):
    path.mkdir()
    with lmdb.open(str(path), map_size=1 << 26, **options) as env, env.begin(write=True) as transaction:
        for key, record in records.items():
            transaction.put(key, record)


records = st.dictionaries(st.binary(min_size=1, max_size=511), st.binary(max_size=20_000), min_size=1, max_size=60)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records, st.booleans())
def test_what_the_library_reads(tmp_path_factory, given_records, writemap):
    path = tmp_path_factory.mktemp("x") / "lmdb"
    write(path, given_records, writemap=writemap)
    found = LmdbRecords(path, "test")
    expected = by_the_library(path)
    assert found.count == len(given_records) and list(found) == expected == sorted(given_records.items())
    assert list(found.records(len(expected) // 2)) == expected[len(expected) // 2 :]


def test_trees_of_several_levels_and_pages_that_were_freed(tmp_path):
    path = tmp_path / "lmdb"
    write(path, {b"%05d" % i: b"x" * (i % 300) for i in range(20_000)})
    with lmdb.open(str(path), map_size=1 << 26) as env:
        assert env.stat()["depth"] >= 3
        with env.begin(write=True) as transaction:
            for i in range(0, 20_000, 3):
                transaction.delete(b"%05d" % i)
    assert list(LmdbRecords(path, "test")) == by_the_library(path)


def test_a_file_without_a_folder(tmp_path):
    write(tmp_path / "lmdb", {b"a": b"1"})
    assert list(LmdbRecords(tmp_path / "lmdb" / "data.mdb", "test")) == [(b"a", b"1")]


def test_several_readers_and_no_open_file_afterwards(tmp_path):
    write(tmp_path / "lmdb", {b"%d" % i: b"1" for i in range(9)})
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    found = LmdbRecords(tmp_path / "lmdb", "test")
    assert [a for a, _ in zip(found, found, strict=True)] == list(found)
    half = iter(found)
    next(half)
    half.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A database of 12 kB or so, with a branch page, leaves and a large record."""
    path = tmp_path_factory.mktemp("small") / "lmdb"
    write(path, {b"%08d_img" % i: bytes([i]) * (20 if i else 9000) for i in range(150)})
    return path


def test_every_single_byte_of_a_file_may_be_another_one(tmp_path):
    """In this process: what kills it, fails the test. The file has 12 kB: two headers, and a leaf."""
    path = tmp_path / "lmdb"
    write(path, {b"%d" % i: bytes([i]) * 40 for i in range(60)})
    data, good = (path / "data.mdb").read_bytes(), list(LmdbRecords(path, "test"))
    assert len(data) == 3 * 4096
    outcomes = {"refused": 0, "other records": 0, "the same": 0}
    with (path / "data.mdb").open("r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 0xFF]), place)
            found = outcome(path)
            outcomes["refused" if isinstance(found, str) else "the same" if found == good else "other records"] += 1
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert outcomes["refused"] > 300 and outcomes["other records"] > 2000 and outcomes["the same"] > 5000


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_and_cut_files(small, tmp_path, data):
    found = bytearray((small / "data.mdb").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(found) - 8))
        value = data.draw(
            st.one_of(st.sampled_from([0, 1, 2, 4, 8, 2**16 - 1, 2**32 - 1, 2**64 - 1]), st.integers(0, 9))
        )
        struct.pack_into("<Q", found, place, value)
    (tmp_path / "lmdb").mkdir(exist_ok=True)
    (tmp_path / "lmdb" / "data.mdb").write_bytes(found[: data.draw(st.integers(0, len(found)))])
    outcome(tmp_path / "lmdb")


def patched(small, folder, place, layout, *values):
    shutil.copytree(small, folder / "lmdb")
    data = bytearray((folder / "lmdb" / "data.mdb").read_bytes())
    struct.pack_into(layout, data, place, *values)
    (folder / "lmdb" / "data.mdb").write_bytes(data)
    return outcome(folder / "lmdb")


_NEWER = 4096 + 16 + 24 + 48  # the main table's description in the second meta page, which the one transaction wrote


@pytest.mark.parametrize(
    ("place", "layout", "values", "message"),
    [
        (16, "=I", (1,), "is no LMDB: it does not begin as one does"),
        (20, "=I", (2,), "an LMDB of the version 2; only version 1 is read"),
        (40, "=I", (4097,), "pages of 4097 bytes"),
        (40, "=I", (1 << 20,), "pages of 1048576 bytes"),
        (_NEWER + 32, "=Q", (151,), "has 150 records, its header says 151"),
        (_NEWER + 32, "=Q", (149,), "has more records than its header says, 149"),
        (_NEWER + 40, "=Q", (10**6,), "leads to page 1000000"),
        (_NEWER + 40, "=Q", (0,), "page 0 is none of the tree's"),
        (_NEWER + 48, "=Q", (10**9,), "is truncated: it has"),
        (_NEWER + 32, "=Q", (0,), "is empty"),
    ],
)
def test_what_is_said(small, tmp_path, place, layout, values, message):
    newer = struct.unpack_from("=Q", (small / "data.mdb").read_bytes(), 4096 + 144)[0]
    assert newer == 1  # else the constants above are those of the wrong page
    assert message in patched(small, tmp_path, place, layout, *values)


def test_a_circle_ends(small, tmp_path):
    data = (small / "data.mdb").read_bytes()
    root = struct.unpack_from("=Q", data, _NEWER + 40)[0]
    assert struct.unpack_from("=H", data, root * 4096 + 10)[0] & 1  # a branch
    node = struct.unpack_from("=H", data, root * 4096 + 16)[0]
    assert "its tree leads to page 7 twice" in patched(small, tmp_path, root * 4096 + node, "=HHH", root, 0, 0)


def test_a_large_record_belongs_to_one_key(tmp_path):
    """Or a small file could hold endlessly much: here 8 keys lead to the pages of one."""
    keys = [b"key%d" % i for i in range(8)]
    write(tmp_path / "lmdb", dict.fromkeys(keys, b"1" * 9000))
    data = bytearray((tmp_path / "lmdb" / "data.mdb").read_bytes())
    leaf = struct.unpack_from("=Q", data, _NEWER + 40)[0] * 4096
    places = [data.index(key, leaf) + len(key) for key in keys]
    numbers = [struct.unpack_from("=Q", data, place)[0] for place in places]
    for place in places:
        struct.pack_into("=Q", data, place, min(numbers))
    last = max(min(numbers) + 2, leaf // 4096)
    struct.pack_into("=Q", data, _NEWER + 48, last)
    (tmp_path / "lmdb" / "data.mdb").write_bytes(data[: (last + 1) * 4096])
    assert f"its tree leads to page {min(numbers)} twice" in outcome(tmp_path / "lmdb")


@pytest.mark.parametrize("dupsort", [False, True])
def test_tables_with_names(tmp_path, dupsort):
    with lmdb.open(str(tmp_path / "lmdb"), max_dbs=2) as env:
        env.open_db(b"named", dupsort=dupsort)
    assert "Caffe's have neither" in outcome(tmp_path / "lmdb")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["11_lmdb_one_byte", "12_lmdb_damaged"])
def test_files_that_killed_the_process(shared, name):
    found = outcome(shared / "cases" / "hostile" / name)
    assert isinstance(found, str) or len(found) == LmdbRecords(shared / "cases" / "hostile" / name, "test").count
