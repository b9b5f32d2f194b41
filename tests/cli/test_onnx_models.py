"""An ONNX model in the place of NAME and PATH: calibrated, judged, and exported with QuantizeLinear."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_networks import mobilenet_v2, resnet

import caffe
from calib8.calibration import Calibration
from calib8.cli.main import main
from calib8.engine import run_float
from calib8.errors import CaffemodelError, OptionError, PrototxtError
from calib8.onnx_in import read_onnx
from calib8.workflow import Arrays, NetworkFiles, check, open_network

COUNT = 12


@pytest.fixture()
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with net.onnx and samples for it, which is where commands run."""
    (tmp_path / "net.onnx").write_bytes(resnet(17).SerializeToString())
    np.save(tmp_path / "samples.npy", np.random.default_rng(7).standard_normal((COUNT, 3, 32, 32)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> None:
    assert main(list(words)) == 0


def calibrated(*words: str) -> None:
    run("calibrate", "net.onnx", "--samples", "samples.npy", "-n", str(COUNT), "--no-verdict", *words)


def test_calibrate_and_export_for_onnx_runtime(folder, capsys):
    calibrated("--method", "mse")
    said = capsys.readouterr().out
    assert "there is no caffemodel of an ONNX model" in said and "bmnet_net_calibration_table" in said
    record = json.loads((folder / "bmnet_net.calib8.json").read_text())
    assert list(record["model"]) == ["onnx"] and record["network"] == "net"

    run("export", "net.onnx", "--format", "onnx-uint8")
    run("export", "net", "net.onnx", "--format", "onnx")
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(folder / "net_uint8.onnx", options, providers=["CPUExecutionProvider"])
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load("net_uint8.onnx").graph.node)
    samples = np.load("samples.npy")
    model = open_network("net.onnx").model
    wanted = np.concatenate([run_float(model, {"input": s[None]}, observe=["logits"])["logits"] for s in samples])
    found = np.concatenate([session.run(None, {"input": s[None]})[0] for s in samples])
    noise = ((found - wanted) ** 2).sum()
    assert 10 * np.log10((wanted**2).sum() / noise) > 20


def test_what_is_written_elsewhere_is_exported_as_it_is_said(folder, capsys):
    Path("out").mkdir()
    model = resnet(17)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"open{axis}"
    Path("net.onnx").write_bytes(model.SerializeToString())
    calibrated("--method", "max", "--repair", "none", "--shape", "input=1,3,32,32", "--output", "out")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "calib8 export" in line]
    expected = "--format onnx-uint8 --shape input=1,3,32,32 --calibration out --output out"
    assert line.endswith(f"calib8 export net.onnx {expected}")
    run(*line.split("calib8 ")[-1].split())
    assert Path("out", "net_uint8.onnx").exists()


def test_an_export_under_another_name_and_path(folder, capsys):
    Path("my nets").mkdir()
    Path("net.onnx").rename("my nets/net.onnx")
    model = ["other", "my nets/net.onnx"]
    options = ["--samples", "samples.npy", "-n", str(COUNT), "--no-verdict", "--repair", "none"]
    run("calibrate", *model, *options)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "calib8 export" in line]
    words = shlex.split(line.split("calib8 ")[-1])
    assert words == ["export", *model, "--format", "onnx-uint8"]
    run(*words)
    assert Path("my nets", "other_uint8.onnx").exists()
    Path("my nets", "bmnet_other_calibration_table.pb2").unlink()
    assert main(words) == 1
    assert "calibrate first: calib8 calibrate other 'my nets/net.onnx';" in capsys.readouterr().err


def test_the_same_model_gives_the_same_bytes(folder):
    calibrated("--method", "mse", "--threads", "1")
    first = {p.name: p.read_bytes() for p in folder.glob("bmnet_net*")}
    calibrated("--method", "mse", "--threads", "2")
    assert {p.name: p.read_bytes() for p in folder.glob("bmnet_net*")} == first and len(first) == 5


def test_histograms_are_kept_and_give_thresholds(folder, capsys):
    calibrated("--histograms", "h.hist", "--method", "mse", "--repair", "none")
    first = (folder / "bmnet_net_calibration_table.pb2").read_bytes()
    (folder / "bmnet_net_calibration_table.pb2").unlink()
    run("thresholds", "h.hist", "net.onnx", "--method", "mse")
    assert (folder / "bmnet_net_calibration_table.pb2").read_bytes() == first
    run("thresholds", "h.hist")


def test_commands_that_judge(folder, capsys):
    calibrated("--method", "mse")
    run("doctor", "net.onnx", "-n", "4")
    run("report", "net.onnx", "--samples", "2", "--examined", "4", "--shown", "1")
    assert "ONNX model" in (folder / "bmnet_net_report.html").read_text()
    Path("labels.txt").write_text("1\n" * COUNT)
    run("evaluate", "net.onnx", "--labels", "labels.txt")
    run("tune", "net.onnx", "--minutes", "0.01", "--samples", "2")
    assert (folder / "tuned" / "bmnet_net_calibration_table.pb2").exists()


def test_check_lists_layers_and_all_problems(folder, capsys):
    run("check", "net.onnx")
    said = capsys.readouterr().out
    assert "net.onnx: can be used" in said and "caffemodel" not in said and "/Conv_0" in said
    run("check", "net.onnx", "--json", "--shape", "input=2,3,32,32")
    found = json.loads(capsys.readouterr().out)
    assert found["prototxt"] == "net.onnx" and found["caffemodel"] is None and found["usable"]
    assert found["inputs"] == [{"blob": "input", "shape": [2, 3, 32, 32]}]
    Path("bad.onnx").write_bytes(b"no model")
    assert main(["check", "bad.onnx"]) == 1
    assert "cannot be used: 1 problem" in capsys.readouterr().out


def test_what_speaks_of_caffemodels_says_that_there_is_none(folder, capsys):
    calibrated("--method", "mse")
    prototxt = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    Path("examples.prototxt").write_text(prototxt)
    capsys.readouterr()
    for words in (
        ["check", "net.onnx", "custom.caffemodel"],
        ["export", "net.onnx", "--format", "tpu-mlir"],
        ["sensitivity", "net.onnx", "--model", "custom.caffemodel"],
    ):
        assert main(words) == 1
        assert "caffemodel" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(OptionError, match=r"there is no caffemodel to give with net\.onnx"):
        open_network("net.onnx", "custom.caffemodel")
    with pytest.raises(OptionError, match="an ONNX model holds its weights"):
        info = {"model_name": "net", "in_prototxt": "net.onnx", "in_caffemodel": "w.caffemodel", "iteration": 1}
        Calibration(info).calc_tables()
    with pytest.raises(PrototxtError, match="it has no prototxt and no caffemodel"):
        caffe.Net("net.onnx", caffe.TEST)
    with pytest.raises(CaffemodelError, match="an ONNX model, where a caffemodel is expected"):
        caffe.Net("examples.prototxt", "net.onnx", caffe.TEST)
    with pytest.raises(OptionError, match="a Caffe network has its weights in a caffemodel"):
        open_network("deploy.prototxt")


def test_shapes_that_a_model_leaves_open(folder, capsys):
    model = mobilenet_v2(17)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    Path("open.onnx").write_bytes(model.SerializeToString())
    words = ["calibrate", "open.onnx", "--samples", "samples.npy", "-n", "2", "--no-verdict", "--method", "max"]
    assert main(words) == 1
    assert "its shape is open (1, 3, ?, 32); say --shape BLOB=N,C,H,W" in capsys.readouterr().err
    run(*words, "--shape", "input=1,3,32,32")
    run("calibrate", "--from", "bmnet_open.calib8.json", "open.onnx", "--no-verdict")
    assert "--shape=input=1,3,32,32" in json.loads(Path("bmnet_open.calib8.json").read_text())["images"]
    shutil.copytree(
        Path(__file__).parents[2] / "examples" / "digits", "digits", ignore=shutil.ignore_patterns("bmnet_*")
    )
    assert main(["calibrate", "digits", "digits", "--shape", "data=1,1,8,8"]) == 1
    assert "--shape are for ONNX models" in capsys.readouterr().err


def test_a_name_alone_is_no_network(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "net"])
    assert ended.value.code == 2 and "required: PATH (or an ONNX model" in capsys.readouterr().err


def test_workers_open_it(folder):
    files = NetworkFiles(folder / "net.onnx", None, Arrays(folder / "samples.npy"), {"input": (1, 3, 32, 32)})
    assert files.opened().model.shapes["input"] == (1, 3, 32, 32)
    assert not check("net.onnx").problems and read_onnx("net.onnx").weights
