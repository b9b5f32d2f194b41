"""What killed runs leave, what strangers put there, and who may write at the same time."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from calib8.atomic import claim_folder, record_writes, write_atomically, write_together
from calib8.errors import OptionError

HIDDEN = ".calib8-0123456789abcdef"


def write(path, data: bytes = b"1") -> None:
    with write_atomically(path) as file:
        file.write(data)


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_hidden_folder_with_links_instead_of_folders_moves_nothing(tmp_path):
    """A received folder may hold anything under the names that calib8 uses."""
    theirs, folder = tmp_path / "theirs", tmp_path / "folder"
    for path in (theirs, folder, folder / HIDDEN):
        path.mkdir()
    (theirs / "precious").write_bytes(b"1")
    (folder / HIDDEN / "parts").symlink_to(theirs)
    (folder / HIDDEN / "committed").symlink_to(theirs)
    (folder / HIDDEN / "now").symlink_to("parts")
    write(folder / "a")
    assert [p.name for p in theirs.iterdir()] == ["precious"]
    assert [p.name for p in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("ready", ["parts", "committed"])
def test_a_hidden_folder_that_looks_like_a_set_of_ours_replaces_nothing(tmp_path, ready, caplog):
    """In a folder from elsewhere: what was read before is what is there afterwards."""
    (tmp_path / "deploy.prototxt").write_bytes(b"seen")
    (tmp_path / HIDDEN / ready).mkdir(parents=True)
    for name in ("deploy.prototxt", "layer.py"):
        (tmp_path / HIDDEN / ready / name).write_bytes(b"not seen")
    if ready == "parts":
        (tmp_path / HIDDEN / "now").symlink_to("parts")
    write(tmp_path / "a")
    assert (tmp_path / "deploy.prototxt").read_bytes() == b"seen" and not (tmp_path / "layer.py").exists()
    left = [HIDDEN] if ready == "committed" else []
    assert names(tmp_path) == [*left, "a", "deploy.prototxt"]
    assert ("no run leaves that where there are links" in caplog.text) == bool(left)


def test_a_link_with_the_name_of_a_hidden_folder_is_left_alone(tmp_path):
    theirs, folder = tmp_path / "theirs", tmp_path / "folder"
    for path in (theirs, folder):
        path.mkdir()
    (theirs / "precious").write_bytes(b"1")
    (folder / HIDDEN).symlink_to(theirs)
    write(folder / "a")
    assert (theirs / "precious").exists() and (folder / HIDDEN).is_symlink()


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "precious").write_bytes(b"old")
    for name in "ab":
        (tmp_path / name).symlink_to("precious")
    write(tmp_path / "a")
    with write_together():
        write(tmp_path / "b")
        write(tmp_path / "c")
    assert (tmp_path / "precious").read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir() if not p.is_symlink()} == {"precious", "a", "b", "c"}


def test_a_device_or_a_pipe_is_no_place_for_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OptionError, match="no regular file"):
            write(path)


def test_the_hidden_folder_of_a_run_that_is_at_work_is_left_alone(tmp_path):
    with write_together():
        write(tmp_path / "a")
        assert names(tmp_path)[0].startswith(".calib8-")
        other = multiprocessing.get_context("spawn").Process(target=write, args=(tmp_path / "b",))
        other.start()
        other.join()
        assert other.exitcode == 0
    assert names(tmp_path) == ["a", "b"]


def hold(folder, ready, end) -> None:
    with claim_folder(folder):
        ready.set()
        end.wait(60)


def test_two_commands_in_one_folder_exclude_each_other(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready, end))
    other.start()
    assert ready.wait(60)
    with pytest.raises(OptionError, match="another calib8 command is writing there"), claim_folder(tmp_path):
        pass
    other.kill()  # nothing is left of a lock when its holder dies
    other.join()
    with claim_folder(tmp_path), claim_folder(tmp_path):
        write(tmp_path / "a")


def test_a_hidden_folder_that_another_run_removes_at_once_is_made_again(tmp_path, monkeypatch):
    """Before it is locked, it looks like one that a killed run has left."""
    gone, real = [], os.open

    def opened(path, *options, **more):
        if Path(path).name.startswith(".calib8-") and len(gone) < 3:
            Path(path).rmdir()
            gone.append(path)
        return real(path, *options, **more)

    monkeypatch.setattr("calib8.atomic.staging.os.open", opened)
    write(tmp_path / "a")
    assert len(set(gone)) == 3 and names(tmp_path) == ["a"]


def test_threads_of_one_process_wait_for_each_other(tmp_path):
    def many(letter: str) -> None:
        for i in range(20):
            with write_together():
                write(tmp_path / f"{letter}{i}")
                write(tmp_path / "both", letter.encode())

    threads = [threading.Thread(target=many, args=(letter,)) for letter in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(tmp_path)) == 41 and not any(p.is_symlink() for p in tmp_path.iterdir())


def test_what_was_written_is_recorded(tmp_path):
    with record_writes() as written:
        with pytest.raises(ZeroDivisionError), write_together():
            write(tmp_path / "a")
            raise ZeroDivisionError
        assert written == []
        write(tmp_path / "b")
    write(tmp_path / "c")
    assert written == [tmp_path / "b"]
