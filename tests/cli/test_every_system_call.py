"""Whole commands, killed and disturbed at every call of the system that changes files, by strace.

`strace -e inject` needs no change of what is tested. What the commit does at each call is enumerated without it in
tests/atomic; this is the same from outside, with the files of a calibration.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = "import sys; from calib8.cli.main import main; sys.exit(main())"
NAMES = [
    "bmnet_n_int8.caffemodel",
    "bmnet_n.calib8.json",
    *(f"bmnet_n_calibration_table{s}" for s in ("", ".pb2", ".prototxt")),
]
# Every one of them that a run makes is a moment; what only reads changes nothing.
CALLS = "rename,renameat2,symlink,symlinkat,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync"


def can_trace() -> bool:
    """strace is there, and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")


@pytest.fixture
def folder(tmp_path):
    """A network that is calibrated; the next calibration gives other files."""
    path = Path(
        shutil.copytree(ROOT / "examples" / "digits", tmp_path / "net", ignore=shutil.ignore_patterns("bmnet_*"))
    )
    assert calibrate(path, "max").returncode == 0
    return path


def calibrate(folder, method, *tracer):
    command = [*tracer, sys.executable, "-c", RUN, "calibrate", "n", str(folder), "-n", "2", "--method", method]
    command += ["--no-verdict", "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def state(folder):
    """Digests of the five files, as a reader finds them."""
    return tuple(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES)


def traced(folder, inject):
    """A calibration with one disturbance, in the process's own calls alone: they are made by its first thread."""
    return calibrate(
        folder, "percentile", "strace", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", f"inject={inject}"
    )


def moments(folder, tmp_path):
    """How many calls of each kind a calibration makes."""
    log = tmp_path / "log"
    assert calibrate(folder, "percentile", "strace", "-qq", "-o", str(log), "-e", f"trace={CALLS}").returncode == 0
    found: dict[str, int] = {}
    for call in re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE):
        found[call] = found.get(call, 0) + 1
    return found


ALL = bool(os.environ.get("CALIB8_EVERY_MOMENT"))
"""`make fuzz-long` sets it. A command takes some seconds under strace, so that the tests look at a few moments."""


@pytest.mark.parametrize(
    "trouble", ["signal=SIGKILL", "error=EIO", "error=ENOSPC", "error=EACCES"] if ALL else ["signal=SIGKILL"]
)
def test_files_of_one_run_at_any_moment(folder, tmp_path, trouble):
    old = state(folder)
    calls = moments(folder, tmp_path)
    new = state(folder)
    assert old != new and len(set(zip(old, new, strict=True))) == 5 and calls["rename"] > 8 and calls["fsync"] > 5
    every = [(call, moment) for call, count in calls.items() for moment in range(1, count + 1)]
    outcomes = []
    for call, moment in every if ALL else [m for m in every if m[0] == "rename"][1::4]:
        assert calibrate(folder, "max").returncode == 0
        assert state(folder) == old
        done = traced(folder, f"{call}:{trouble}:when={moment}")
        found = state(folder)
        assert found in (old, new), (call, moment)
        outcomes.append("new" if found == new else "old")
        if done.returncode in (0, 1):  # what is said is what is true
            assert found == (new if done.returncode == 0 else old), (call, moment, done.stderr)
            assert done.returncode == 0 or done.stderr.startswith("calib8: error: cannot write "), done.stderr
    print(f"{trouble}: {len(outcomes)} moments, {outcomes.count('old')} old, {outcomes.count('new')} new")
    assert set(outcomes) == {"old", "new"}
    assert calibrate(folder, "max").returncode == 0
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".calib8")]
    assert not [p for p in folder.iterdir() if p.is_symlink()]
