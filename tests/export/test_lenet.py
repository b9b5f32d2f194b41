"""The original's own files of a LeNet: given its thresholds, ours are the same."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format

from calib8.export import read_plan, write_calibration_files, write_calibration_table, write_int8_model
from calib8.layers import same_integers
from calib8.lowering import build_model
from calib8.proto import calibration_pb2
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.quantize import make_plan, observed_values

pytestmark = pytest.mark.shared
TABLE = "bmnet_lenet_calibration_table"


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "golden" / "bm1880_lenet"


@pytest.fixture(scope="module")
def model(golden):
    shapes = {"data": (1, 1, 28, 28), "label": (1,)}
    return build_model(read_prototxt(golden / "deploy.prototxt"), read_caffemodel(golden / "fp32.caffemodel"), shapes)


@pytest.fixture(scope="module")
def message(golden):
    return calibration_pb2.NetCalibrationParameter.FromString((golden / f"{TABLE}.pb2").read_bytes())


@pytest.fixture(scope="module")
def plan(model, message):
    thresholds = {blob.name: blob.threshold_y for row in message.layer for blob in row.blob_param}
    return make_plan(model, thresholds)


def test_every_blob_keeps_a_threshold_of_its_own(model):
    assert observed_values(model) == (
        "data", "label", "conv1", "pool1", "conv2", "pool2", "ip1", "customized1", "ip2", "customized2",
    )  # fmt: skip


def test_weights_and_biases_are_identical(golden, model, plan, tmp_path):
    write_int8_model(tmp_path / "ours", model, plan)
    ours = read_caffemodel(tmp_path / "ours")
    theirs = read_caffemodel(golden / "bmnet_lenet_int8.caffemodel")
    assert ours.name == theirs.name
    assert [(x.name, x.type) for x in ours.layers] == [(x.name, x.type) for x in theirs.layers]
    compared = 0
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        for a, b in zip(mine.blobs, other.blobs, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
            compared += 1
    assert compared == 8


def test_tables_are_the_same(golden, model, plan, message, tmp_path):
    write_calibration_table(tmp_path / TABLE, "lenet", model, plan)
    assert (tmp_path / f"{TABLE}.pb2").read_bytes() == (golden / f"{TABLE}.pb2").read_bytes()
    ours = text_format.Parse((tmp_path / f"{TABLE}.prototxt").read_text(), calibration_pb2.NetCalibrationParameter())
    theirs = text_format.Parse((golden / f"{TABLE}.prototxt").read_text(), calibration_pb2.NetCalibrationParameter())
    assert ours == theirs == message
    our_lines, their_lines = ((d / TABLE).read_text().splitlines() for d in (tmp_path, golden))
    assert sorted(our_lines) == sorted(their_lines)
    assert [line.split()[0] for line in our_lines] == [layer.name for layer in model.net.layers]


@pytest.mark.parametrize("suffix", ["", ".pb2", ".prototxt"])
def test_the_original_files_are_read_back(golden, model, plan, suffix):
    read = read_plan(model, golden / f"{TABLE}{suffix}", golden / "bmnet_lenet_int8.caffemodel")
    tops = [layer.tops[0] for layer in model.net.layers]
    assert [read.thresholds[t] for t in tops] == [plan.thresholds[t] for t in tops]
    assert read.warnings == ()
    for name, own in plan.forms.items():
        other = read.forms[name]
        assert same_integers(own, other), name


def test_weights_come_from_the_file_not_from_the_thresholds(golden, model):
    read = read_plan(model, golden / f"{TABLE}.pb2", golden / "run.caffemodel")
    stored = {layer.name: layer.blobs for layer in read_caffemodel(golden / "run.caffemodel").layers}
    different = read_plan(model, golden / f"{TABLE}.pb2")
    for name in ("ip1", "ip2"):
        np.testing.assert_array_equal(read.forms[name].blobs[0], stored[name][0])
        assert (read.forms[name].blobs[0] != different.forms[name].blobs[0]).any()


def test_all_files_are_the_same_twice(model, plan, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths = write_calibration_files(tmp_path / folder, "lenet", model, plan)
        assert [p.name for p in paths] == [
            "bmnet_lenet_int8.caffemodel", TABLE, f"{TABLE}.pb2", f"{TABLE}.prototxt",
        ]  # fmt: skip
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
