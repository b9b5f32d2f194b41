"""Whole commands, killed and disturbed at every call of the system on their files, by strace.

`strace -e inject` needs no change of what is tested. What the commit does at each call is enumerated without it in
tests/atomic; this is the same from outside, for each command that writes a set: every open, write, fsync, rename, link,
unlink and mkdir in the folder is a moment.

    CALIB8_EVERY_MOMENT=1 pytest -s tests/cli/test_every_system_call.py     all of them, an hour; prints the figures
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8.atomic import write_atomically
from calib8.proto.text import read_prototxt

ROOT = Path(__file__).resolve().parents[2]
RUN = "import sys; from calib8.cli.main import main; sys.exit(main())"
CALLS = (
    "openat,write,pwrite64,pwritev,writev,fsync,fdatasync,ftruncate,rename,renameat,renameat2,symlink,symlinkat,link,"
    "linkat,unlink,unlinkat,mkdir,mkdirat,rmdir"
)
TROUBLES = ("signal=SIGKILL", "error=EIO", "error=ENOSPC", "error=EACCES")
ALL = bool(os.environ.get("CALIB8_EVERY_MOMENT"))
"""`make fuzz-long` sets it. A command takes some seconds under strace, so that the tests look at a few moments."""


def can_trace() -> bool:
    """strace is there, and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")


@dataclass
class Case:
    """A command that replaces a set in a folder.

    Attributes:
        words: of the command.
        folder: where it works.
        names: of the set's files, from there.
        saved: what was in the folder before.
    """

    words: list[str]
    folder: Path
    names: list[str]
    saved: Path = field(default=Path())

    def run(self, *tracer: str) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        command = [*tracer, sys.executable, "-c", RUN, *self.words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def state(self) -> tuple[str, ...]:
        """Digests of the files, as a reader finds them."""
        return tuple(_content(self.folder / name) for name in self.names)

    def restore(self) -> None:
        """Put everything back."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.saved, self.folder, symlinks=True)

    def moments(self, log: Path) -> list[tuple[str, int]]:
        """The calls that an undisturbed run makes on the folder, each with its number among those of its kind.

        Of its first thread alone: it is the one that writes.
        """
        assert self.run("strace", "-qq", "-y", "-s", "4096", "-o", str(log), "-e", f"trace={CALLS}").returncode == 0
        seen: Counter[str] = Counter()
        found = []
        for line in log.read_text(errors="replace").splitlines():
            call = line.partition("(")[0]
            seen[call] += 1
            if str(self.folder) in line and not line.startswith(("write(1<", "write(2<")):  # nor what it prints
                found.append((call, seen[call]))
        return found


def _content(path: Path) -> str:
    """What tells a file from another one; of a record, which run and which files it names.

    What it says beside that depends on files that are read again for it, and is left out where they cannot be.
    """
    if not path.exists():
        return ""
    if path.name.endswith(".calib8.json"):
        record = json.loads(path.read_text())
        return f"{record['run']} {record['files']}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def calibrated(tmp_path: Path) -> Path:
    """The digits, with the files of a calibration of round thresholds."""
    net = tmp_path / "net"
    shutil.copytree(ROOT / "examples" / "digits", net, ignore=shutil.ignore_patterns("bmnet_*", "*.py"))
    assert subprocess.run([sys.executable, "-c", RUN, *_calibration(net, 1.0)], check=False).returncode == 0
    return net


def _calibration(net: Path, factor: float) -> list[str]:
    """A calibration by given thresholds, which runs nothing."""
    file = net.with_name(f"thresholds{factor}")
    layers = read_prototxt(net / "deploy.prototxt").net.layer
    file.write_text("".join(f"{layer.name} {factor} 0\n" for layer in layers))
    return ["calibrate", "n", str(net), "--thresholds", str(file), "--repair", "none", "--no-verdict", "--threads", "1"]


TABLES = [
    "bmnet_n_int8.caffemodel",
    "bmnet_n.calib8.json",
    *(f"bmnet_n_calibration_table{s}" for s in ("", ".pb2", ".prototxt")),
]


def calibrate_case(tmp_path: Path) -> Case:
    """Other thresholds."""
    net = calibrated(tmp_path)
    return Case(_calibration(net, 1.25), net, TABLES)


def export_case(tmp_path: Path) -> Case:
    """Five files for ncnn, of another calibration than those that are there."""
    net = calibrated(tmp_path)
    words = ["export", "n", str(net), "--format", "ncnn"]
    assert subprocess.run([sys.executable, "-c", RUN, *words], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", RUN, *_calibration(net, 1.25)], check=False).returncode == 0
    return Case(words, net, ["n.param", "n.bin", "n.table", "n_ncnn.calib8.json"])


def tune_case(tmp_path: Path) -> Case:
    """One layer, in a folder with what another search has left."""
    net = calibrated(tmp_path)
    out = net / "out"
    words = ["tune", "n", str(net), "--samples", "1", "--held-out", "0", "--threads", "1", "--output", str(out)]
    words += ["--part", "tune", "--layer"]
    assert subprocess.run([sys.executable, "-c", RUN, *words, "conv1"], check=False).returncode == 0
    (out / "bmnet_n_tuning.progress").unlink()
    return Case([*words, "ip"], net, [f"out/{n}" for n in (*TABLES, "bmnet_n_tuning.json", "report.log")])


def lmdb_case(tmp_path: Path) -> Case:
    """Another database in the place of one."""
    folder = tmp_path / "work"
    (folder / "photos").mkdir(parents=True)
    words = ["lmdb", "create", str(folder / "photos"), str(folder / "lmdb"), "--force"]
    for count in (3, 5):
        for i in range(count):
            cv2.imwrite(str(folder / "photos" / f"{i}.png"), np.full((4, 4, 3), 20 * i + count, np.uint8))
        if count == 3:
            assert subprocess.run([sys.executable, "-c", RUN, *words], check=False).returncode == 0
    return Case(words, folder, ["lmdb/data.mdb"])


CASES: dict[str, Callable[[Path], Case]] = {
    "calibrate": calibrate_case,
    "export": export_case,
    "tune": tune_case,
    "lmdb create": lmdb_case,
}
FEW = {"calibrate": ("rename", 7)}
"""Of which calls the tests take every how manieth."""


def chosen(name: str, moments: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """All, or a few."""
    if ALL:
        return moments
    call, step = FEW[name]
    return [moment for moment in moments if moment[0] == call][step // 2 :: step]


@pytest.mark.parametrize("trouble", TROUBLES if ALL else TROUBLES[:1])
@pytest.mark.parametrize("name", CASES if ALL else FEW)
def test_files_of_one_run_at_any_moment(tmp_path, name, trouble):
    case = CASES[name](tmp_path)
    case.saved = Path(shutil.copytree(case.folder, tmp_path / "saved", symlinks=True))
    old = dict(zip(case.names, case.state(), strict=True))
    moments = case.moments(tmp_path / "log")
    new = dict(zip(case.names, case.state(), strict=True))
    case.names = [name for name in case.names if old[name] != new[name]]  # ncnn's .param is the same in all runs
    assert len(case.names) > 2 or name == "lmdb create"
    old, new = (tuple(state[name] for name in case.names) for state in (old, new))
    assert all(old + new) and len(moments) > (60 if len(old) > 1 else 15)
    outcomes: Counter[str] = Counter()
    for call, number in chosen(name, moments):
        case.restore()
        inject = f"inject={call}:{trouble}:when={number}"
        done = case.run("strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
        found, moment = case.state(), (call, number, done.returncode, done.stderr)
        assert found in (old, new), moment
        assert "Traceback" not in done.stderr and "a defect" not in done.stderr, moment
        is_new = found == new
        if done.returncode in (0, 1):  # what is said is what is true
            assert is_new == (done.returncode == 0), moment
            assert done.returncode == 0 or done.stderr.startswith("calib8: error: "), moment
        outcomes[f"{'new' if is_new else 'old'}, exit {done.returncode}"] += 1
        for place in {(case.folder / name).parent for name in case.names}:  # the next run puts right what was left
            with write_atomically(place / "next run") as file:
                file.write(b"")
        if name == "lmdb create":
            with write_atomically(case.folder / "next run") as file:
                file.write(b"")
        assert case.state() == found, moment
        assert not [p for p in case.folder.rglob("*") if p.name.startswith(".calib8") or p.is_symlink()], moment
    print(f"{name}, {trouble}: {sum(outcomes.values())} moments, {dict(sorted(outcomes.items()))}")
    assert {key[:3] for key in outcomes} == {"old", "new"}
