"""Bad input is one clear message and exit code 1, wrong usage exit code 2, for every sample."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calib8.cli.main import main as calib8
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import write_caffemodel

_ROOT = Path(__file__).resolve().parents[2]
_SAMPLES = _ROOT / "calibration_tool" / "samples"
_SCRIPTS = sorted(
    str(path.relative_to(_SAMPLES)) for path in _SAMPLES.rglob("*.py") if "__main__" in path.read_text("utf-8")
)
_IMAGE = _ROOT / "examples" / "digits" / "images" / "3.png"
_PLAIN = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 8, 8] } } }\n'
_RELU = 'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a network without weights that gives back what it gets."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "deploy.prototxt").write_text(_PLAIN + _RELU)
    write_caffemodel(folder / "custom.caffemodel", "nothing", [(caffe_pb2.LayerParameter(name="relu"), [])])
    return folder


def _is_one_line(result, script: str, *words: str) -> bool:
    assert result.code == 1, result
    assert result.err.startswith(f"{Path(script).name}: error: ")
    assert result.err.count("\n") == 1
    assert all(word in result.err for word in words), result.err
    return True


def test_all_samples_are_here():
    assert _SCRIPTS == [
        "classification/classify.py",
        "detection/ssd/ssd.py",
        "detection/yolov3/yolov3.py",
        "super_resolution/super_resolution.py",
    ]


@pytest.mark.parametrize("script", _SCRIPTS)
def test_help(run_sample, script):
    result = run_sample(script, "--help")
    assert (result.code, result.err) == (0, "")
    assert "model-path" in result.out
    assert "--int8" in result.out


def test_page_on_samples_names_options_that_exist(run_sample, capsys):
    page = re.sub(
        r"^```.*?^```$", "", (_ROOT / "docs" / "samples.md").read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    named = {o for code in re.findall(r"`([^`\n]+)`", page) for o in re.findall(r"(?<![\w-])--[a-z]\w*[\w-]*", code)}
    helped = "".join(run_sample(script, "--help").out for script in _SCRIPTS)
    with pytest.raises(SystemExit):
        calib8(["calibrate", "--help"])
    known = set(re.findall(r"--[a-z]\w*[\w-]*", helped + capsys.readouterr().out))
    assert len(named) > 8
    assert named <= known


def test_runs_as_a_command_from_any_folder(tmp_path):
    script = "detection/yolov3/yolov3.py"  # it has the most neighbours to import
    done = subprocess.run(
        [sys.executable, str(_SAMPLES / script), "nowhere", str(_IMAGE)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("yolov3.py: error: nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", _SCRIPTS)
@pytest.mark.parametrize("arguments", [[], ["folder"], ["folder", "image", "--scale", "x"], ["folder", "image", "-x"]])
def test_wrong_usage(run_sample, script, arguments):
    result = run_sample(script, *arguments)
    assert result.code == 2
    assert result.err.startswith("usage: ")


@pytest.mark.parametrize("script", _SCRIPTS)
def test_no_model_folder(run_sample, script, tmp_path):
    assert _is_one_line(run_sample(script, tmp_path / "nowhere", _IMAGE), script, "nowhere", "deploy.prototxt")


@pytest.mark.parametrize("script", _SCRIPTS)
def test_missing_weights(run_sample, script, model):
    (model / "custom.caffemodel").unlink()
    color = [] if "super" in script else ["--size", "8x8"]
    if "super" in script:
        (model / "deploy.prototxt").write_text(_PLAIN.replace("3,", "1,") + _RELU)
    assert _is_one_line(run_sample(script, model, _IMAGE, *color), script, "custom.caffemodel")


@pytest.mark.parametrize("script", _SCRIPTS)
def test_missing_image(run_sample, script, model, tmp_path):
    assert _is_one_line(run_sample(script, model, tmp_path / "no.png"), script, "no.png")


@pytest.mark.parametrize("content", [b"", b"no image at all"])
@pytest.mark.parametrize("script", _SCRIPTS)
def test_image_that_is_none(run_sample, script, model, tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    assert _is_one_line(run_sample(script, model, tmp_path / "bad.png"), script, "bad.png", "no image")


@pytest.mark.parametrize("script", [s for s in _SCRIPTS if "super" not in s])
def test_not_calibrated(run_sample, script, model):
    result = run_sample(script, model, _IMAGE, "--int8", "it")
    assert _is_one_line(result, script, str(model / "bmnet_it_int8.caffemodel"), "calibrate")


@pytest.mark.parametrize("script", [s for s in _SCRIPTS if "super" not in s])
def test_files_of_another_network(run_sample, script, model, calibrated):
    digits = calibrated("digits", 150)
    result = run_sample(script, model, _IMAGE, "--int8", digits / "it")
    assert result.code == 1
    assert "error: " in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("script", _SCRIPTS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer { name: ", ["deploy.prototxt"]),
        ("\xff", ["deploy.prototxt"]),
        (_RELU, ["deploy.prototxt", "no data layer"]),
        ('layers { name: "x" type: RELU }', ["deploy.prototxt", "`layers`"]),
        (_PLAIN + _RELU.replace("ReLU", "Sorcery"), ["deploy.prototxt", "Sorcery"]),
    ],
    ids=["torn", "binary", "no-data", "v1", "layer-type"],
)
def test_prototxt_that_cannot_be_used(run_sample, script, model, text, words):
    (model / "deploy.prototxt").write_text(text, encoding="latin-1")
    result = run_sample(script, model, _IMAGE)
    assert result.code == 1
    assert result.err.startswith(f"{Path(script).name}: error: ")
    assert "Traceback" not in result.err
    assert "/inference.prototxt" not in result.err
    assert all(word in result.err for word in words), result.err


@pytest.mark.parametrize("script", [s for s in _SCRIPTS if "super" not in s])
def test_input_of_other_channels(run_sample, script, model):
    (model / "deploy.prototxt").write_text(_PLAIN.replace("3,", "5,") + _RELU)
    assert _is_one_line(run_sample(script, model, _IMAGE), script, "'data'", "5 channels", "gives 3")


@pytest.mark.parametrize(
    "source",
    [
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8',
        'input: "data" input_shape { dim: [10, 3, 8, 8] }',
        'layer { name: "x" type: "Input" top: "data" input_param { shape { dim: [10, 3, 8, 8] } } }',
        'layer { name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param { channels: 3 } }',
    ],
    ids=["input_dim", "input_shape", "Input", "MemoryData"],
)
def test_takes_every_kind_of_input(run_sample, model, source):
    fold = 'layer { name: "f" type: "Flatten" bottom: "relu" top: "f" }\n'
    (model / "deploy.prototxt").write_text(source + "\n" + _RELU + fold)
    size = ["--size", "8x8"] if "Memory" in source else []
    result = run_sample("classification/classify.py", model, _IMAGE, *size)
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) == 5
    assert float(result.out.split()[-1]) <= 255


def test_data_layer_needs_a_size(run_sample, calibrated):
    script = "classification/classify.py"
    result = run_sample(script, calibrated("digits", 150), _IMAGE, "--color", "gray")
    assert _is_one_line(result, script, "--size")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--size", "8"), ("--size", "0x8"), ("--mean", "a,b"), ("--mean", "nan"), ("--scale", "0"), ("--scale", "inf")],
)
def test_values_that_mean_nothing(run_sample, model, option, value):
    result = run_sample("classification/classify.py", model, _IMAGE, option, value)
    assert result.code == 2
    assert option in result.err


def test_mean_of_other_channels(run_sample, model):
    script = "detection/ssd/ssd.py"
    assert _is_one_line(run_sample(script, model, _IMAGE, "--mean", "1,2"), script, "--mean", "2 values", "3 channels")


def test_output_that_is_no_detection(run_sample, model):
    script = "detection/ssd/ssd.py"
    (model / "deploy.prototxt").write_text(_PLAIN.replace("8, 8", "8, 9") + _RELU)
    assert _is_one_line(run_sample(script, model, _IMAGE), script, "'relu'", "DetectionOutput")


@pytest.mark.parametrize("anchors", ["1,2", "1,2,3,4", "1,2,3,4,5,6"])
def test_output_that_is_no_yolo_map(run_sample, model, anchors):
    script = "detection/yolov3/yolov3.py"
    assert _is_one_line(run_sample(script, model, _IMAGE, "--anchors", anchors), script, "'relu'", "--anchors")


@pytest.mark.parametrize("anchors", ["1,2,3", "1,0", "1,x", ""])
def test_anchors_that_mean_nothing(run_sample, model, anchors):
    result = run_sample("detection/yolov3/yolov3.py", model, _IMAGE, "--anchors", anchors)
    assert result.code == 2
    assert "--anchors" in result.err


def test_names_in_another_encoding(run_sample, model, tmp_path):
    (tmp_path / "names.txt").write_bytes("Käfer\n".encode("latin-1"))
    script = "classification/classify.py"
    (model / "deploy.prototxt").write_text(_PLAIN + _RELU)
    assert run_sample(script, model, _IMAGE, "--labels", tmp_path / "names.txt").code == 0


def test_output_of_another_size_is_no_super_resolution(run_sample, model):
    script = "super_resolution/super_resolution.py"
    pooled = _PLAIN.replace("3,", "1,") + (
        'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { kernel_size: 3 } }\n'
    )
    (model / "deploy.prototxt").write_text(pooled)
    assert _is_one_line(run_sample(script, model, _IMAGE), script, "(1, 1, 6, 6)", "(8, 8)")


def test_reference_of_another_size(run_sample, model, tmp_path):
    script = "super_resolution/super_resolution.py"
    (model / "deploy.prototxt").write_text(_PLAIN.replace("3,", "1,") + _RELU)
    other = shutil.copy(_ROOT / "examples" / "shapes" / "images" / "00.jpg", tmp_path)
    assert _is_one_line(run_sample(script, model, _IMAGE, "--reference", other), script, "00.jpg", "(8, 8)")


@pytest.mark.parametrize("output", ["picture.xyz", "nowhere/picture.png"])
def test_picture_that_cannot_be_written(run_sample, model, output):
    script = "super_resolution/super_resolution.py"
    (model / "deploy.prototxt").write_text(_PLAIN.replace("3,", "1,") + _RELU)
    assert _is_one_line(run_sample(script, model, _IMAGE, "--output", output), script, output)
