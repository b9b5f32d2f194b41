"""Weights and tables of different runs are told apart, and everything else is taken as before."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from calib8.errors import TableError
from calib8.export import (
    read_plan,
    write_calibration_files,
    write_calibration_table,
    write_format,
    write_weights,
)
from calib8.export.record import parse_record, record_path, run_of, strangers_in
from calib8.quantize import make_plan, observed_values

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 4, 4] } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "y" inner_product_param { num_output: 2 } }
"""
WEIGHTS, TABLE = "bmnet_net_int8.caffemodel", "bmnet_net_calibration_table"


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(NET)


def plan_of(model, factor):
    return make_plan(model, {v: factor * 1.5**i for i, v in enumerate(observed_values(model, False))})


@pytest.fixture
def runs(model, tmp_path):
    """Two folders with the files of two runs."""
    folders = tmp_path / "one", tmp_path / "two"
    for factor, folder in zip((1.0, 1.3), folders, strict=True):
        folder.mkdir()
        write_calibration_files(folder, "net", model, plan_of(model, factor))
    return folders


@pytest.mark.parametrize("table", [TABLE, f"{TABLE}.pb2", f"{TABLE}.prototxt"])
def test_files_of_one_run_are_read(model, runs, table):
    for folder in runs:
        read_plan(model, folder / table, folder / WEIGHTS)


def test_the_record_has_one_identity_and_the_digests_of_all_files(model, runs):
    found = [json.loads((folder / "bmnet_net.calib8.json").read_text()) for folder in runs]
    assert found[0]["run"] != found[1]["run"]
    assert found[0]["run"] == run_of("net", model, plan_of(model, 1.0))
    names = [TABLE, f"{TABLE}.pb2", f"{TABLE}.prototxt", WEIGHTS]
    assert list(found[0]["files"]) == names
    assert found[0]["network"] == "net" and found[0]["calib8_record"] == 1


@pytest.mark.parametrize("copied", [WEIGHTS, f"{TABLE}.pb2"])
@pytest.mark.parametrize("with_record", [False, True])
def test_files_of_two_runs_are_refused(model, runs, caplog, copied, with_record):
    """New weights beside an old table, or the other way round, whichever record stands beside them."""
    one, two = runs
    shutil.copy(one / copied, two)
    if with_record:
        shutil.copy(one / "bmnet_net.calib8.json", two)
    with pytest.raises(TableError, match=r"of different runs: .*has been changed or replaced since.*remove the record"):
        read_plan(model, two / f"{TABLE}.pb2", two / WEIGHTS)
    (two / "bmnet_net.calib8.json").unlink()  # what the message says
    read_plan(model, two / f"{TABLE}.pb2", two / WEIGHTS)


def test_files_in_two_folders(model, runs):
    one, two = runs
    with pytest.raises(TableError, match="they have two records"):
        read_plan(model, one / f"{TABLE}.pb2", two / WEIGHTS)


def test_files_that_no_record_knows_are_read_with_a_warning(model, runs, tmp_path, caplog):
    one, two = runs
    shutil.copy(one / "bmnet_net.calib8.json", two)
    read_plan(model, two / f"{TABLE}.pb2", two / WEIGHTS)
    assert "is not the file that it tells of" in caplog.text


def test_the_guides_two_calls_make_one_record(model, tmp_path):
    plan = plan_of(model, 1.0)
    write_weights(tmp_path / WEIGHTS, "net", model, plan)
    write_calibration_table(tmp_path / TABLE, "net", model, plan)
    assert len(json.loads((tmp_path / "bmnet_net.calib8.json").read_text())["files"]) == 4
    read_plan(model, tmp_path / f"{TABLE}.pb2", tmp_path / WEIGHTS)
    write_weights(tmp_path / WEIGHTS, "net", model, plan_of(model, 1.3))
    with pytest.raises(TableError, match="of different runs"):
        read_plan(model, tmp_path / f"{TABLE}.pb2", tmp_path / WEIGHTS)


def test_weights_alone_change_the_identity(model, random_model):
    other = random_model(NET, seed=1)
    thresholds = dict.fromkeys(observed_values(model, False), 1.0)
    plans = [make_plan(m, thresholds) for m in (model, other)]
    assert not all(np.array_equal(a, b) for a, b in zip(plans[0].forms["ip"].blobs, plans[1].forms["ip"].blobs))  # noqa: B905
    assert run_of("net", model, plans[0]) != run_of("net", other, plans[1])


@pytest.mark.parametrize(
    ("file", "record"),
    [
        ("a/bmnet_x_int8.caffemodel", "a/bmnet_x.calib8.json"),
        ("a/bmnet_x_calibration_table", "a/bmnet_x.calib8.json"),
        ("a/bmnet_x_calibration_table.pb2", "a/bmnet_x.calib8.json"),
        ("a/bmnet_x_calibration_table.prototxt", "a/bmnet_x.calib8.json"),
        ("net.caffemodel", "net.calib8.json"),
        ("net.pb2", "net.calib8.json"),
        ("net", "net.calib8.json"),
        ("_calibration_table", "_calibration_table.calib8.json"),
    ],
)
def test_where_the_record_stands(file, record):
    assert str(record_path(file)) == record


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"calib8_record": 2, "network": "", "run": "", "files": {}}',
     b'{"calib8_record": 1, "network": "", "run": "", "files": 3}', b'{"calib8_record": 1, "run": "", "files": {}}',
     b'{"calib8_record": 1, "network": "", "run": "", "files": {"a": 1}}', b'{"calib8_record": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_a_damaged_record(data):
    with pytest.raises(TableError, match="t: no record of a run"):
        parse_record(data, "t")


def test_keys_of_later_versions_stay(model, runs):
    data = json.loads((runs[0] / "bmnet_net.calib8.json").read_text())
    found = parse_record(json.dumps({**data, "samples": [1]}).encode(), "t")
    assert found.further == {"samples": [1]} and b'"samples"' in found.to_bytes()


@pytest.mark.parametrize("format", ["onnx", "ncnn", "tpu-mlir", "tensorrt", "onnx-int8", "onnx-uint8"])
def test_an_export_names_the_calibration_that_it_was_made_of(model, runs, format):
    """Of a plan that was read back, as of the one that was written: reading loses nothing."""
    one, _ = runs
    plan = read_plan(model, one / f"{TABLE}.pb2", one / WEIGHTS)
    paths = write_format(one, format, "net", model, plan)
    record = parse_record((one / f"net_{format}.calib8.json").read_bytes(), "r")
    assert record.run == run_of("net", model, plan_of(model, 1.0))
    assert set(record.files) == {path.name for path in paths}
    assert strangers_in(one) == ()
    write_calibration_files(one, "net", model, plan_of(model, 1.3))  # calibrated anew, and not exported
    (line,) = strangers_in(one)
    assert f"net_{format}.calib8.json: of another calibration than the bmnet_net files" in line


def test_an_export_of_a_network_in_fp32_has_an_identity_too(model, random_model, tmp_path):
    write_format(tmp_path, "onnx", "net", model)
    first = parse_record((tmp_path / "net_onnx.calib8.json").read_bytes(), "r")
    assert first.run == run_of("net", model, None) != run_of("net", random_model(NET, seed=1), None)
    assert list(first.files) == ["net_float.onnx"]


def test_files_that_were_mixed_are_named(model, runs):
    one, two = runs
    for folder, factor in ((one, 1.0), (two, 1.3)):
        write_format(folder, "ncnn", "net", model, plan_of(model, factor))
    shutil.copy(one / "net.bin", two)
    shutil.copy(one / WEIGHTS, two)
    lines = strangers_in(two)
    assert [line.partition(":")[0] for line in lines] == [WEIGHTS, "net.bin"]
    (two / "net.bin").unlink()  # whoever takes a file away knows it
    assert len(strangers_in(two)) == 1


def test_a_record_that_names_files_elsewhere_asks_for_none(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("1")
    folder = tmp_path / "model"
    folder.mkdir()
    names = ["../outside", str(outside), "..", ".", ""]
    content = {"calib8_record": 1, "network": "../x", "run": "r", "files": dict.fromkeys(names, "sha256:0")}
    (folder / "a.calib8.json").write_text(json.dumps(content))
    (folder / "b.calib8.json").write_text("{")
    assert strangers_in(folder) == () == strangers_in(folder / "nowhere")
