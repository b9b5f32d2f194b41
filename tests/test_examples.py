"""The carried network and its data are what their README says; the demo runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calib8.data.lmdb_env import LmdbRecords
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt

_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_DIGITS = _EXAMPLES / "digits"


def _datums(name: str) -> list[caffe_pb2.Datum]:
    return [caffe_pb2.Datum.FromString(record) for _, record in LmdbRecords(_DIGITS / name, "the example")]


@pytest.mark.parametrize(("name", "count"), [("calibration_lmdb", 150), ("evaluation_lmdb", 300)])
def test_lmdb_holds_raw_labelled_images_of_every_digit(name, count):
    datums = _datums(name)
    assert len(datums) == count
    assert {(d.channels, d.height, d.width, len(d.data), d.encoded) for d in datums} == {(1, 8, 8, 64, False)}
    assert {d.label for d in datums} == set(range(10))


def test_no_image_is_both_calibrated_and_evaluated_on():
    assert not {d.data for d in _datums("calibration_lmdb")} & {d.data for d in _datums("evaluation_lmdb")}


def test_weights_are_those_of_the_prototxt():
    types = {layer.name: layer.type for layer in read_prototxt(_DIGITS / "deploy.prototxt").net.layer}
    stored = read_caffemodel(_DIGITS / "custom.caffemodel").layers
    with_weights = {"Convolution", "BatchNorm", "Scale", "InnerProduct"}
    assert {w.name: w.type for w in stored} == {n: t for n, t in types.items() if t in with_weights}
    for weights in stored:
        assert all(np.isfinite(blob).all() for blob in weights.blobs)
        if weights.type == "BatchNorm":  # sums that Caffe divides by the third blob
            assert weights.blobs[2].shape == (1,)
            assert weights.blobs[2][0] > 900


def test_nothing_carried_is_large():
    assert max(path.stat().st_size for path in _DIGITS.rglob("*") if path.is_file()) < 60_000


def test_demo_shows_both_accuracies_and_where_the_files_are(tmp_path):
    before = sorted(_DIGITS.rglob("*"))
    done = subprocess.run(
        [sys.executable, str(_EXAMPLES / "demo.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    share = {
        name.strip(): float(value) for name, value in re.findall(r"^  ((?:FP32|INT8).*?) +([\d.]+)%", done.stdout, re.M)
    }
    assert share["FP32"] > 96
    assert share["INT8, these files"] > share["FP32"] - 2
    assert share["INT8, --original"] > 85
    for suffix in ("_int8.caffemodel", "_calibration_table", "_calibration_table.pb2", "_calibration_table.prototxt"):
        path = tmp_path / "digits" / f"bmnet_digits{suffix}"
        assert path.stat().st_size > 0
        assert str(path) in done.stdout
    assert sorted(_DIGITS.rglob("*")) == before


def test_demo_says_in_one_line_why_it_cannot_run(tmp_path):
    shutil.copytree(_EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("bmnet_*"))
    (tmp_path / "examples" / "digits" / "custom.caffemodel").write_bytes(b"no model")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "examples" / "demo.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "custom.caffemodel" in done.stderr
    assert "Traceback" not in done.stderr
