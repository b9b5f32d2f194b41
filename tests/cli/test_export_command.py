"""`calib8 export`: files, messages, and what happens without a calibration."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from calib8.cli.main import main
from calib8.proto.caffemodel_writer import write_caffemodel
from calib8.proto.text import parse_prototxt

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "digits"
    shutil.copytree(ROOT / "examples" / "digits", copy, ignore=shutil.ignore_patterns("bmnet_*"))
    return copy


@pytest.fixture
def calibrated(folder):
    assert main(["calibrate", "digits", str(folder), "-n", "20"]) == 0
    return folder


def test_tpu_mlir(calibrated, capsys):
    capsys.readouterr()
    assert main(["export", "digits", str(calibrated), "--format", "tpu-mlir"]) == 0
    table = calibrated / "digits_cali_table"
    out, err = capsys.readouterr()
    assert (out, err) == (f"{table}\n", "")
    first = table.read_bytes()
    assert main(["export", "digits", str(calibrated), "--format", "tpu-mlir"]) == 0
    assert table.read_bytes() == first
    rows = {line.split()[0]: line.split()[1:] for line in first.decode().splitlines() if not line.startswith("#")}
    measured = (calibrated / "bmnet_digits_calibration_table").read_text().splitlines()
    thresholds = {line.split()[0]: float(line.split()[1]) for line in measured}
    assert float(rows["pool1"][0]) == pytest.approx(thresholds["pool1"], rel=1e-6)
    assert float(rows["conv1/3"][0]) == pytest.approx(thresholds["conv1"], rel=1e-6)
    assert float(rows["conv1"][0]) == pytest.approx(thresholds["relu1"], rel=1e-6)


def test_a_calibration_in_another_folder(folder, tmp_path, capsys):
    """Of a model that lies where nobody may write, for instance."""
    results, exports = tmp_path / "results", tmp_path / "exports"
    results.mkdir()
    exports.mkdir()
    assert main(["calibrate", "digits", str(folder), "-n", "20", "--output", str(results), "--no-verdict"]) == 0
    words = ["export", "digits", str(folder), "--format", "tensorrt", "--output", str(exports)]
    capsys.readouterr()
    assert main(words) == 1
    assert "--calibration FOLDER where its files are in another one" in capsys.readouterr().err
    assert main([*words, "--calibration", str(results)]) == 0
    assert (exports / "digits.cache").exists() and not list(folder.glob("bmnet_*"))
    assert main([*words, "--calibration", str(tmp_path / "none")]) == 1
    assert "no such folder; the calibration is read from there" in capsys.readouterr().err


def test_onnx(calibrated, tmp_path, capsys):
    capsys.readouterr()
    output = tmp_path / "out"
    output.mkdir()
    assert main(["export", "digits", str(calibrated), "--format", "onnx", "--batch", "3", "--output", str(output)]) == 0
    paths = [output / "digits_float.onnx", output / "digits_qdq.onnx"]
    out, err = capsys.readouterr()
    assert (out, err) == ("".join(f"{path}\n" for path in paths), "")
    assert sorted(output.iterdir()) == sorted([*paths, output / "digits_onnx.calib8.json"])
    for path in paths:
        onnx.checker.check_model(str(path), full_check=True)
        (port,) = onnx.load(path).graph.input
        assert [d.dim_value for d in port.type.tensor_type.shape.dim] == [3, 1, 8, 8]
    assert {node.op_type for node in onnx.load(paths[1]).graph.node} >= {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("codes", ["int8", "uint8"])
def test_a_word_where_onnx_runtime_would_saturate(calibrated, capsys, monkeypatch, codes):
    words = ["export", "digits", str(calibrated), "--format", f"onnx-{codes}"]
    file = calibrated / f"digits_{codes}.onnx"
    said, written = {}, {}
    for saturates in (True, False):
        monkeypatch.setattr("calib8.export.formats.int8_products_saturate", lambda saturates=saturates: saturates)
        for reduced in ((), ("--reduce-range",)):
            capsys.readouterr()
            assert main([*words, *reduced]) == 0
            out, said[saturates, reduced] = capsys.readouterr()
            assert out == f"{file}\n"
            written[saturates, reduced] = file.read_bytes()
    word = said.pop((True, ()))
    assert word.startswith(f"calib8: warning: digits_{codes}.onnx: ONNX Runtime saturates") and word.count("\n") == 1
    assert 'session.x64quantprecision = "1"' in word and "--reduce-range" in word
    assert set(said.values()) == {""}
    assert written[True, ()] == written[False, ()] != written[True, ("--reduce-range",)]


def test_onnx_without_a_calibration_is_the_float_network_and_a_word(folder, capsys):
    assert main(["export", "digits", str(folder), "--format", "onnx"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder / 'digits_float.onnx'}\n"
    assert err.startswith("calib8: warning: ") and f"calib8 calibrate digits {folder}" in err


def test_data_need_not_be_there_if_shapes_are_given(folder, capsys):
    shutil.rmtree(folder / "calibration_lmdb")
    assert main(["export", "digits", str(folder), "--format", "onnx"]) == 1
    assert main(["export", "digits", str(folder), "--format", "onnx", "--shape", "data=7,1,8,8"]) == 0
    (port,) = onnx.load(folder / "digits_float.onnx").graph.input
    assert [d.dim_value for d in port.type.tensor_type.shape.dim] == [7, 1, 8, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tpu-mlir"], "bmnet_digits_calibration_table.pb2: no such file; calibrate first"),
        (["--format", "onnx", "--output", "nowhere/at/all"], "nowhere/at/all: no such folder"),
        (["--format", "onnx", "--batch", "0"], "batch is 0"),
        (["--format", "onnx", "--shape", "label=1"], "'label'"),
        (["--format", "onnx", "--reduce-range"], "--reduce-range is for onnx-int8, onnx-uint8; leave it out"),
    ],
)
def test_an_error_is_one_message_and_no_file(folder, capsys, arguments, message):
    before = sorted(folder.rglob("*"))
    assert main(["export", "digits", str(folder), *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("calib8: error: ") and message in err
    assert sorted(folder.rglob("*")) == before


def test_a_table_of_another_network_leaves_no_float_file(calibrated, capsys):
    table = calibrated / "bmnet_digits_calibration_table.pb2"
    table.write_bytes(table.read_bytes().replace(b"conv2a", b"conv9a"))
    assert main(["export", "digits", str(calibrated), "--format", "onnx"]) == 1
    assert "conv9a" in capsys.readouterr().err
    assert not list(calibrated.glob("*.onnx"))


def test_what_has_no_onnx_form_is_said(tmp_path, capsys):
    (tmp_path / "deploy.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 8, 8] } } }\n'
        'layer { name: "abs" type: "AbsVal" bottom: "data" top: "abs" }\n'
        'layer { name: "own" type: "Python" bottom: "abs" top: "own"\n'
        '        python_param { module: "own_layer" layer: "Own" } }\n'
    )
    (tmp_path / "own_layer.py").write_text(
        "import caffe\n"
        "class Own(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(1)\n"
        "    def forward(self, bottom, top): pass\n"
    )
    layers = parse_prototxt((tmp_path / "deploy.prototxt").read_text()).net.layer
    write_caffemodel(tmp_path / "custom.caffemodel", "net", [(layer, []) for layer in layers])
    assert main(["export", "net", str(tmp_path), "--format", "onnx"]) == 0
    assert "left out, since they have no ONNX form: 'own' (Python)" in capsys.readouterr().err
    assert [x.name for x in onnx.load(tmp_path / "net_float.onnx").graph.output] == ["abs"]


def test_ncnn(calibrated, folder, capsys):
    names = ["digits_float.param", "digits_float.bin", "digits.param", "digits.bin", "digits.table"]
    capsys.readouterr()
    assert main(["export", "digits", str(calibrated), "--format", "ncnn"]) == 0
    assert capsys.readouterr().out.split() == [str(folder / name) for name in names]
    assert all((folder / name).stat().st_size for name in names)


def test_ncnn_of_a_network_that_is_not_calibrated(folder, capsys):
    assert main(["export", "digits", str(folder), "--format", "ncnn"]) == 0
    out, err = capsys.readouterr()
    assert [Path(line).name for line in out.split()] == ["digits_float.param", "digits_float.bin"]
    assert "only the network in FP32" in err
