"""Writing an LMDB: whole or not at all, the same bytes, any size; nothing but an LMDB is ever replaced."""

from __future__ import annotations

import lmdb
import pytest

from calib8.data import lmdb_writer
from calib8.data.lmdb_env import LmdbRecords
from calib8.data.lmdb_writer import write_lmdb
from calib8.errors import DataError, OptionError

RECORDS = [(f"{i:08}_x".encode(), bytes([i % 256]) * (i % 40)) for i in range(500)]


def test_records_come_back(tmp_path):
    write_lmdb(tmp_path / "made", iter(RECORDS))
    assert list(LmdbRecords(tmp_path / "made", "test")) == RECORDS
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["data.mdb"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_same_records_same_bytes(tmp_path):
    for name in "ab":
        write_lmdb(tmp_path / name, RECORDS)
    assert (tmp_path / "a" / "data.mdb").read_bytes() == (tmp_path / "b" / "data.mdb").read_bytes()


def test_the_map_grows_and_the_file_is_no_larger_than_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_writer, "_FIRST_MAP_BYTES", 1 << 16)
    monkeypatch.setattr(lmdb_writer, "_BATCH_BYTES", 1 << 15)
    records = [(f"{i:08}".encode(), bytes(5000)) for i in range(300)]
    write_lmdb(tmp_path / "made", records)
    assert list(LmdbRecords(tmp_path / "made", "test")) == records
    pages = 300 * 2 * 4096  # a record of 5000 bytes takes two
    assert pages < (tmp_path / "made" / "data.mdb").stat().st_size < 1.1 * pages


def test_long_keys_are_cut(tmp_path):
    write_lmdb(tmp_path / "made", [(b"0" * 600, b"a"), (b"1" * 600, b"b")])
    assert [key for key, _ in LmdbRecords(tmp_path / "made", "test")] == [b"0" * 511, b"1" * 511]


def failing():
    yield from RECORDS[:10]
    raise DataError("the eleventh is damaged")


@pytest.mark.parametrize("before", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "made"
    if before:
        write_lmdb(path, RECORDS[:3])
    with pytest.raises(DataError, match="eleventh"):
        write_lmdb(path, failing(), force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["made"] * before
    if before:
        assert list(LmdbRecords(path, "test")) == RECORDS[:3]


def test_keys_out_of_order_are_refused(tmp_path):
    with pytest.raises(DataError, match="b'a' is not in order"):
        write_lmdb(tmp_path / "made", [(b"b", b""), (b"a", b"")])
    assert not list(tmp_path.iterdir())


def test_replaced_only_by_force(tmp_path):
    path = tmp_path / "made"
    write_lmdb(path, RECORDS[:3])
    with lmdb.open(str(path)):  # a reader leaves a lock file
        pass
    with pytest.raises(OptionError, match=r"exists.*`force=True`"):
        write_lmdb(path, RECORDS)
    write_lmdb(path, RECORDS, force=True)
    assert list(LmdbRecords(path, "test")) == RECORDS


def test_what_is_no_lmdb_is_never_replaced(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data.mdb").write_text("")
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "folder", "link"):
        with pytest.raises(OptionError, match="is no LMDB"):
            write_lmdb(tmp_path / name, RECORDS, force=True)
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "precious"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OptionError, match="is no folder"):
        write_lmdb(tmp_path / "no" / "made", RECORDS)
