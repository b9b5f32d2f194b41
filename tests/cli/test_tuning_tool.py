"""The commands of the original auto tuning tool, under their own names and with their own parameters."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8.cli.main import main
from calib8.proto import caffe_pb2

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "calibration_tool" / "tuning"


COLOUR = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 8, 8] } } }
layer {
  name: "grey" type: "Convolution" bottom: "data" top: "grey"
  convolution_param { num_output: 1 kernel_size: 1 bias_term: false }
}
"""


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The digits in colour (a first layer of 1x1 makes them grey), a list of images, and a calibration."""
    folder = tmp_path_factory.mktemp("network") / "digits"
    shutil.copytree(ROOT / "examples" / "digits", folder, ignore=shutil.ignore_patterns("bmnet_*"))
    prototxt = folder / "deploy.prototxt"
    text = prototxt.read_text()
    begin, end = text.index("layer {"), text.index("# 1x8x8")
    text = text[:begin] + COLOUR + text[end:].replace('bottom: "data"', 'bottom: "grey"')
    prototxt.write_text(text)
    weights = caffe_pb2.NetParameter.FromString((folder / "custom.caffemodel").read_bytes())
    grey = weights.layer.add(name="grey", type="Convolution").blobs.add(data=[0.3, 0.3, 0.4])
    grey.shape.dim.extend([1, 3, 1, 1])
    (folder / "custom.caffemodel").write_bytes(weights.SerializeToString())
    rng = np.random.default_rng(0)
    for index in range(6):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (16, 8, 3), np.uint8))
    (folder / "list.txt").write_text("".join(f"{index}.png\n" for index in range(6)))
    options = ["--images", str(folder / "list.txt"), "--mean", "128", "--scale", "0.0078125", "-n", "6"]
    options += ["--repair", "none"]
    assert main(["calibrate", "digits", str(folder), *options]) == 0
    return folder


PARAMS = (
    '{"size": [8, 8], "padding": true, "mirror": 1, "color_format": "bgr", "r_mean": 128, "g_mean": 120, '
    '"b_mean": 110, "scale": 0.0078}'
)


def run(script, calibrated, output, *options, table="bmnet_digits_calibration_table.pb2"):
    """The exit code of a script with all parameters that every part has."""
    given = {
        "model": calibrated / "custom.caffemodel",
        "proto": calibrated / "deploy.prototxt",
        "calibration_model": calibrated / "bmnet_digits_int8.caffemodel",
        "calibration_proto": calibrated / table,
        "output_path": output,
        "data_list": calibrated / "list.txt",
        "data_limit": 5,
        "image_params": PARAMS,
    }
    arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as code:
        patch.setattr(sys, "argv", [str(TOOL / script), *arguments, *options])
        runpy.run_path(str(TOOL / script), run_name="__main__")
    return code.value.code


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def log(folder):
    """The lines of report.log by layer."""
    return {line.split(" ")[0]: float(line.split(" ")[1]) for line in (folder / "report.log").read_text().splitlines()}


def test_main_tunes_every_layer_but_the_ignored(calibrated, tmp_path, capsys):
    assert run("main.py", calibrated, tmp_path / "new" / "out", "--ignore_layer_list", "conv1,ip") == 0
    assert names(tmp_path / "new" / "out") == [
        "bmnet_digits.calib8.json",
        "bmnet_digits_calibration_table",
        "bmnet_digits_calibration_table.pb2",
        "bmnet_digits_calibration_table.prototxt",
        "bmnet_digits_int8.caffemodel",
        "bmnet_digits_tuning.json",
        "bmnet_digits_tuning.progress",
        "report.log",
    ]
    found = log(tmp_path / "new" / "out")
    assert "pool1" in found and "conv1" not in found and "ip" not in found
    before = (calibrated / "bmnet_digits_calibration_table").read_text().splitlines()
    after = (tmp_path / "new" / "out" / "bmnet_digits_calibration_table").read_text().splitlines()
    changed = {old.split()[0] for old, new in zip(before, after, strict=True) if old != new}
    assert changed and changed.isdisjoint({"conv1", "ip"})


def test_one_layer_is_tested_and_tuned(calibrated, tmp_path):
    assert run("test.py", calibrated, tmp_path / "test") == 0
    assert names(tmp_path / "test") == ["bmnet_digits.calib8.json", "report.log"]
    everything = log(tmp_path / "test")
    assert run("test.py", calibrated, tmp_path / "test", "--layer", "relu2a") == 0
    assert log(tmp_path / "test") == {"relu2a": everything["relu2a"]}
    difference = ["--layer", "relu2a", "--difference", str(everything["relu2a"])]
    assert run("tune.py", calibrated, tmp_path / "tune", *difference) == 0
    assert log(tmp_path / "tune")["relu2a"] <= everything["relu2a"]
    assert "bmnet_digits_int8.caffemodel" in names(tmp_path / "tune")


def test_a_table_in_text_form(calibrated, tmp_path):
    assert run("test.py", calibrated, tmp_path / "a") == 0
    assert run("test.py", calibrated, tmp_path / "b", table="bmnet_digits_calibration_table.prototxt") == 0
    assert log(tmp_path / "a") == log(tmp_path / "b")


def test_ignored_layers_from_a_file(calibrated, tmp_path):
    (tmp_path / "ignored").write_text("conv1\nip\n")
    assert run("main.py", calibrated, tmp_path / "out", "--ignore_layer_list", str(tmp_path / "ignored")) == 0
    assert {"conv1", "ip"}.isdisjoint(log(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibration_proto", "nowhere.pb2"], "nowhere.pb2: cannot be read"),
        (["--model", "nowhere"], "nowhere: cannot be read"),
        (["--data_list", "nowhere.txt"], "nowhere.txt"),
        (["--data_limit", "7"], "7 images"),
        (["--image_params", '{"siez": 1}'], "'siez' is unknown"),
        (["--image_params", "{"], "image_params"),
        (["--ignore_layer_list", "nobody"], "there is no layer 'nobody'"),
    ],
)
def test_errors_leave_nothing(calibrated, tmp_path, options, message, capsys):
    assert run("main.py", calibrated, tmp_path / "out", *options) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_usage(calibrated, tmp_path):
    assert run("tune.py", calibrated, tmp_path / "out") == 2  # no layer
