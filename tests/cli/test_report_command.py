"""`calib8 report`: one file; errors leave none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from calib8.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--samples", "2", "-n", "10", "--examined", "10", "--shown", "1", "--threads", "1"]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(ROOT / "examples" / "digits", tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))


def test_a_report(folder, tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))
    assert main(["report", "digits", str(folder), *FEW, "--classes", str(classes)]) == 0
    out, err = capsys.readouterr()
    path = folder / "bmnet_digits_report.html"
    assert err == "" and out.splitlines()[-1] == str(path)
    text = path.read_text()
    assert text.startswith("<!DOCTYPE html>") and any(f">{name}<" in text for name in ("zero", "one", "eight"))


def test_errors_leave_no_file(folder, tmp_path, capsys):
    for options in (["--shown", "0"], ["--classes", str(tmp_path / "no")], ["--output", str(tmp_path / "no")]):
        assert main(["report", "digits", str(folder), *FEW, *options]) == 1
        assert capsys.readouterr().err.startswith("calib8: error: ")
    assert not list(folder.glob("*.html"))
