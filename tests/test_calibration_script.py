"""calibration_tool/calibration.py keeps what the guide says of it."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from calib8.cli.main import main

_ROOT = Path(__file__).resolve().parent.parent
_FILES = (
    ".calib8.json",
    "_int8.caffemodel",
    "_calibration_table",
    "_calibration_table.pb2",
    "_calibration_table.prototxt",
)


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A folder with a network, as the guide wants it, and 25 images."""
    digits = _ROOT / "examples" / "digits"
    folder = Path(shutil.copytree(digits, tmp_path / "custom", ignore=shutil.ignore_patterns("bmnet_*", "*_lmdb")))
    with lmdb.open(str(digits / "calibration_lmdb"), readonly=True, lock=False) as env, env.begin() as transaction:
        records = list(itertools.islice(transaction.cursor(), 25))
    with lmdb.open(str(folder / "calibration_lmdb")) as env, env.begin(write=True) as transaction:
        for key, value in records:
            transaction.put(key, value)
    return folder


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "calibration.py", *map(str, arguments)]
    return subprocess.run(
        script, cwd=_ROOT / "calibration_tool", capture_output=True, text=True, timeout=120, check=False
    )


def _written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("bmnet_*")}


@pytest.mark.parametrize("repair", [[], ["--repair", "none"]])
def test_writes_the_files_that_calib8_calibrate_writes(custom, tmp_path, capsys, repair):
    assert _run("digits", custom, *repair).returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    assert main(["calibrate", "digits", str(custom), "--output", str(other), *repair]) == 0
    assert set(_written(custom)) == {f"bmnet_digits{suffix}" for suffix in _FILES}
    ours, theirs = _written(custom), _written(other)
    records = ours.pop("bmnet_digits.calib8.json"), theirs.pop("bmnet_digits.calib8.json")
    assert ours == theirs
    # Of one run; the command's record also says with which options, which the class has no names for.
    assert json.loads(records[0])["run"] == json.loads(records[1])["run"]
    capsys.readouterr()


def test_memory_option_is_shown_and_changes_no_byte(custom):
    plain = _run("digits", custom)
    files = _written(custom)
    assert "'enable_memory_opt': False" in plain.stdout
    for option in ("--memory", "--memory_opt"):
        assert "'enable_memory_opt': True" in _run("digits", custom, option).stdout
        assert files == _written(custom) != {}


def test_bad_input_is_one_line_and_exit_code_1(custom):
    (custom / "custom.caffemodel").unlink()
    done = _run("digits", custom)
    assert done.returncode == 1
    assert done.stderr.startswith("calibration.py: error: ")
    assert done.stderr.count("\n") == 1
    assert "custom.caffemodel" in done.stderr
    assert not _written(custom)


def test_wrong_usage_is_exit_code_2():
    done = _run("digits")
    assert done.returncode == 2
    assert "model-path" in done.stderr
