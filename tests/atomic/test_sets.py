"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat

import pytest

from calib8.atomic import write_atomically, write_together
from calib8.errors import OptionError


def write(path, data: bytes) -> None:
    with write_atomically(path) as file:
        file.write(data)


def test_a_file_appears_at_the_end(tmp_path):
    with write_atomically(tmp_path / "a") as file:
        file.write(b"1")
        assert not (tmp_path / "a").exists()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"1")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write(tmp_path / "a", b"1")
        write(tmp_path / "a", b"2")
        with write_together():
            write(tmp_path / "b", b"1")
    finally:
        assert os.umask(before) == umask
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [mode, mode]


def test_a_file_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "a", b"old and longer")
    with (tmp_path / "a").open("rb") as reader, write_atomically(tmp_path / "a") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a").read_bytes() == reader.read() == b"old and longer"
    assert (tmp_path / "a").read_bytes() == b"new"


def test_names_as_long_as_the_file_system_allows(tmp_path):
    name = "é" * 127
    write(tmp_path / name, b"1")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_name_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, FileNotFoundError])
@pytest.mark.parametrize("before", [{}, {"a": b"old"}])
def test_an_error_leaves_what_was_there(tmp_path, error, before):
    for name, data in before.items():
        write(tmp_path / name, data)
    with pytest.raises(error), write_atomically(tmp_path / "a") as file:
        file.write(b"new")
        raise error
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_what_was_there(tmp_path):
    write(tmp_path / "a", b"old")
    expected = pytest.raises(OptionError, match=r"cannot write .*a: No space left on device; make room")
    with expected, write_atomically(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_a_limit_on_the_size_of_files(tmp_path):
    write(tmp_path / "a", b"old")
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OptionError, match="File too large"):
            write(tmp_path / "a", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_files_that_are_written_together_appear_together(tmp_path):
    with write_together():
        write(tmp_path / "a", b"1")
        write(tmp_path / "b", b"2")
        assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}
    write(tmp_path / "c", b"3")  # afterwards a file stands alone again
    assert (tmp_path / "c").read_bytes() == b"3"


def test_together_an_error_leaves_nothing_behind(tmp_path):
    write(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), write_together():
        write(tmp_path / "a", b"new")
        write(tmp_path / "b", b"new")
        raise ZeroDivisionError
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_together_within_together_waits_for_the_outer_one(tmp_path):
    with pytest.raises(ZeroDivisionError), write_together():
        with write_together():
            write(tmp_path / "a", b"1")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nowhere/a", "folder", "file/a", "x" * 300, "a\0b", ""])
def test_places_that_cannot_be_written(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot write"):
        write(tmp_path / name, b"1")
