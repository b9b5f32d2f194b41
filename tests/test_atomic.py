"""Files appear whole or not at all."""

from __future__ import annotations

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
    assert (tmp_path / "a").read_bytes() == b"1"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o600 == 0o600


def test_an_error_leaves_what_was_there(tmp_path):
    write(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), write_atomically(tmp_path / "a") as file:
        file.write(b"new")
        raise ZeroDivisionError
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


@pytest.mark.parametrize("name", ["nowhere/a", "folder"])
def test_places_that_cannot_be_written(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OptionError, match="cannot write"):
        write(tmp_path / name, b"1")
