"""What `calib8 sensitivity` and `calib8 tune` begin with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8 import calibrate_given
from calib8.cli import start
from calib8.cli.main import main
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import write_caffemodel
from calib8.proto.text import read_prototxt

SOFTMAX = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }
layer { name: "prob" type: "Softmax" bottom: "x" top: "prob" }
"""


@pytest.mark.parametrize("command", ["sensitivity", "tune"])
def test_a_network_without_int8_layers_is_refused(tmp_path, capsys, command):
    (tmp_path / "deploy.prototxt").write_text(SOFTMAX)
    write_caffemodel(
        tmp_path / "custom.caffemodel", "softmax", [(caffe_pb2.LayerParameter(name="prob", type="Softmax"), [])]
    )
    cv2.imwrite(str(tmp_path / "a.png"), np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    arguments = [command, "s", str(tmp_path), "--images", str(tmp_path / "a.png"), "--samples", "1", "-n", "1"]
    assert main(arguments) == 1
    assert "no layer of this network runs in INT8" in capsys.readouterr().err


@pytest.mark.parametrize("level", ["standard", "none"])
def test_given_thresholds_are_kept_and_their_integers_repaired(tmp_path, monkeypatch, level):
    digits, found = Path(__file__).resolve().parents[2] / "examples" / "digits", []
    layers = read_prototxt(digits / "deploy.prototxt").net.layer
    (tmp_path / "table").write_text("".join(f"{layer.name} 8.0 0\n" for layer in layers))

    def noted(*arguments, **options):
        found.append(calibrate_given(*arguments, **options))
        return found[0]

    monkeypatch.setattr(start, "calibrate_given", noted)
    command = ["sensitivity", "digits", str(digits), "--thresholds", str(tmp_path / "table"), "--output", str(tmp_path)]
    assert main([*command, "--samples", "2", "-n", "10", "--repair", level]) == 0
    assert set(found[0].plan.thresholds.values()) == {8.0} and found[0].origin.endswith("table")
    assert (found[0].repaired is None) == (level == "none")
