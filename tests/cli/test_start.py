"""What `calib8 sensitivity` and `calib8 tune` begin with."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from calib8.cli.main import main
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import write_caffemodel

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
