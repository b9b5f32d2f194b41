"""Runs one piece of work again and again, and ends or disturbs it at its first, second, third .. call of the system.

As a script: `every_moment.py FOLDER WORK TROUBLE`; prints one JSON object a moment. It needs a process of its own,
since it forks for every moment, which only a process without threads may do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calib8.atomic import write_atomically, write_folder, write_together
from calib8.errors import Calib8Error

CALLS = ("mkdir", "open", "fsync", "rename", "replace", "symlink", "link", "unlink", "rmdir", "scandir", "readlink")
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EACCES": errno.EACCES}
_OURS = ".calib8-"  # only calls about our own files, and folders that are synced
NAMES = ("a", "b", "c", "d")


def old_and_new(folder: Path) -> dict[str, dict[str, bytes | None]]:
    """What the four names hold before and after: one of them is new."""
    return {
        "old": {n: f"old {n}".encode() if n != "d" else None for n in NAMES},
        "new": {n: f"new {n}".encode() for n in NAMES},
    }


def prepare(folder: Path) -> None:
    """The old files, `b` of them a link of the user's."""
    folder.mkdir()
    (folder / "elsewhere").write_bytes(b"old b")
    (folder / "b").symlink_to("elsewhere")
    for name in ("a", "c"):
        (folder / name).write_bytes(f"old {name}".encode())


def write_set(folder: Path) -> None:
    """Replace the files."""
    with write_together():
        for name in NAMES:
            with write_atomically(folder / name) as file:
                file.write(f"new {name}".encode())


def prepare_database(folder: Path) -> None:
    """An old database."""
    (folder / "lmdb").mkdir(parents=True)
    (folder / "lmdb" / "data.mdb").write_bytes(b"old")


def write_database(folder: Path) -> None:
    """Replace it."""
    with write_folder(folder / "lmdb", replace=True) as made:
        (made / "data.mdb").write_bytes(b"new")


def state_of_set(folder: Path) -> str:
    """ "old", "new", or what is there instead, as a reader finds it."""
    found = {name: read(folder / name) for name in NAMES}
    for state, files in old_and_new(folder).items():
        if found == files:
            return state
    return repr(found)


def state_of_database(folder: Path) -> str:
    """The same."""
    return (read(folder / "lmdb" / "data.mdb") or b"none").decode()


def read(path: Path) -> bytes | None:
    """What a reader gets."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


WORKS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], Callable[[Path], str]]] = {
    "set": (prepare, write_set, state_of_set),
    "database": (prepare_database, write_database, state_of_database),
}


@contextlib.contextmanager
def trouble_at(moment: int, trouble: str) -> Iterator[list[int]]:
    """Count the calls, and have one of them, or all from it on, go wrong."""
    count = [0]
    before = {name: getattr(os, name) for name in CALLS}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if os.environ.get("NO_LINKS") and name in ("symlink", "link"):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM), "a file")
            count[0] += 1
            if count[0] == moment or (count[0] > moment and trouble.endswith(" on")):
                happens(trouble.removesuffix(" on"), name)
            return before[name](*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield count
    finally:
        for name, function in before.items():
            setattr(os, name, function)


def happens(trouble: str, call: str) -> None:
    """What goes wrong before a call."""
    if trouble == "kill":
        os._exit(9)  # as SIGKILL: no handler, no `finally`, no lock kept
    if trouble in ERRORS:
        named = () if call == "fsync" else ("a file",)  # as the system's own: fsync knows no names
        raise OSError(ERRORS[trouble], os.strerror(ERRORS[trouble]), *named)
    if trouble == "interrupt":
        signal.raise_signal(signal.SIGINT)


def run(folder: Path, work: str, moment: int, trouble: str) -> dict[str, Any]:
    """One moment in a child, and what is there afterwards; then what the next run leaves."""
    prepare_it, do_it, state_of = WORKS[work]
    prepare_it(folder)
    report = folder / "report"
    child = os.fork()
    if child == 0:
        outcome = "done"
        try:
            with trouble_at(moment, trouble) as count:
                try:
                    do_it(folder)
                except (Calib8Error, KeyboardInterrupt) as why:
                    outcome = f"{type(why).__name__}: {why}"
        except BaseException as why:  # noqa: BLE001
            outcome = f"escaped: {why!r}"
        report.write_text(json.dumps({"outcome": outcome, "calls": count[0]}))
        os._exit(0)
    os.waitpid(child, 0)
    found = json.loads(report.read_text()) if report.exists() else {"outcome": "killed"}
    seen = state_of(folder)
    with trouble_at(0, "none"), write_atomically(folder / "next run") as file:  # on the same kind of file system
        file.write(b"")
    return {
        **found,
        "moment": moment,
        "seen": seen,
        "after the next run": state_of(folder),
        "litter": sorted(p.name for p in folder.rglob("*") if p.name.startswith(_OURS)),
        "links": sorted(p.name for p in folder.iterdir() if p.is_symlink()),
    }


def main(folder: Path, work: str, trouble: str) -> None:
    """All moments until there are no more calls."""
    moment, more = 1, True
    while more:
        found = run(folder / f"{moment}", work, moment, trouble)
        print(json.dumps(found), flush=True)
        more = found["outcome"] == "killed" or found["calls"] >= moment
        moment += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
