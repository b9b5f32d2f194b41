"""Two commands in one folder exclude each other: the second is told at once, before it works."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from calib8.cli.main import main

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
HOLDER = """
import sys
from calib8.atomic import claim_folder
with claim_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
SAMPLES = ["--samples", "2"]
COMMANDS = {
    "calibrate": ["calibrate", "n", "NET", "-n", "2"],
    "export": ["export", "n", "NET", "--format", "onnx"],
    "sensitivity": ["sensitivity", "n", "NET", *SAMPLES],
    "tune": ["tune", "n", "NET", *SAMPLES, "--output", "NET"],
    "report": ["report", "n", "NET", *SAMPLES],
    "lmdb create": ["lmdb", "create", "NET", "NET/lmdb"],
    "lmdb mean": ["lmdb", "mean", "NET/calibration_lmdb", "NET/mean.binaryproto"],
}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A network's folder in which another process is at work."""
    net = tmp_path_factory.mktemp("held") / "net"
    shutil.copytree(DIGITS, net, ignore=shutil.ignore_patterns("bmnet_*"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, net], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        yield net
        holder.communicate("")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_second_command_is_told_and_changes_nothing(held, capsys, command):
    before = sorted(p.name for p in held.rglob("*"))
    assert main([word.replace("NET", str(held)) for word in COMMANDS[command]]) == 1
    assert f"{held}: another calib8 command is writing there; wait for its end" in capsys.readouterr().err
    assert sorted(p.name for p in held.rglob("*")) == before
