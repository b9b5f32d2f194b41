"""Regular files, so many bytes, and an answer for every path."""

from __future__ import annotations

import os
import socket

import pytest

from calib8.errors import DataError, OptionError
from calib8.reading import exists, is_file, is_folder, paths_in, read_file, require_folder


def read(path, most: int = 100) -> bytes:
    return read_file(path, most, DataError, "layer 'data'")


def test_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"1" * 100)
    (tmp_path / "b").symlink_to("a")
    assert read(tmp_path / "a") == read(str(tmp_path / "b")) == b"1" * 100
    with pytest.raises(DataError, match=r"^layer 'data': .*a: more than 99 bytes, the most that is read$"):
        read(tmp_path / "a", 99)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for path, kind in (("pipe", "a pipe"), ("link", "a pipe"), (".", "a folder"), ("socket", "a socket")):
        with pytest.raises(DataError, match=f"not a regular file, but {kind}"):
            read(tmp_path / path)
    for path in ("/dev/zero", "/dev/stdin"):
        with pytest.raises(DataError, match="not a regular file"):
            read(path)


ODD = ["x" * 300, "a\0b", "file/below", "circle", "", "\udcff" * 200]


@pytest.mark.parametrize("name", ODD)
def test_odd_paths_have_an_answer(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    assert not is_file(name) and not exists(name) and not is_folder(name)
    with pytest.raises(DataError, match="cannot be read"):
        read(name)
    with pytest.raises(OptionError, match="no such folder"):
        require_folder(name, OptionError, "it holds the network")


def test_folders_that_one_may_not_look_into(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    if os.geteuid() == 0:
        pytest.skip("root may look into all folders")
    assert not exists(tmp_path / "closed" / "a")
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        paths_in(tmp_path / "closed", DataError)


def test_lists_of_folders_are_sorted(tmp_path):
    for name in "bca":
        (tmp_path / name).touch()
    assert [p.name for p in paths_in(tmp_path, DataError)] == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"^images: .*nowhere: cannot be listed"):
        paths_in(tmp_path / "nowhere", DataError, "images")
