"""`calib8 check` and `calib8 --version`: what they print, for people and for programs, and their exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calib8.cli.main import main
from calib8.cli.table import aligned
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import write_caffemodel
from calib8.workflow import check

ROOT = Path(__file__).resolve().parents[2]
INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 1, 4, 4] } } }\n'
CONV = (
    'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 2 kernel_size: 3 } }\n'
)


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "digits"
    shutil.copytree(ROOT / "examples" / "digits", copy, ignore=shutil.ignore_patterns("bmnet_*"))
    return copy


@pytest.fixture
def prototxt(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + CONV)
    return path


def weights(path, *blobs):
    layer = caffe_pb2.LayerParameter(name="c", type="Convolution")
    write_caffemodel(path, "n", [(layer, [np.asarray(b, np.float32) for b in blobs])])
    return path


def as_json(capsys, *arguments):
    code = main(["check", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    return code, json.loads(out)


def test_a_folder_with_its_own_data(folder, capsys):
    assert main(["check", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    header, data, *_ = out.splitlines()
    assert header.split() == [
        "layer",
        "type",
        "bottoms",
        "tops",
        "top",
        "shapes",
        "parameters",
        "multiply-adds",
        "runs",
        "in",
    ]
    assert data.split()[:2] == ["data", "Data"] and "x1x8x8" in data
    assert out.splitlines()[-1].endswith("custom.caffemodel: can be used")
    assert re.search(r"^\d+ run in INT8 \(100.0% of the multiply-adds\), 1 in FP32$", out, re.MULTILINE)


def test_structure_only(prototxt, capsys):
    assert main(["check", str(prototxt)]) == 0
    assert "weights were not checked" in capsys.readouterr().out


def test_json(prototxt, tmp_path, capsys):
    caffemodel = weights(tmp_path / "w.caffemodel", np.zeros((2, 1, 3, 3)), np.zeros(2))
    code, found = as_json(capsys, prototxt, caffemodel)
    assert code == 0
    assert found == {
        "prototxt": str(prototxt),
        "caffemodel": str(caffemodel),
        "phase": "TEST",
        "usable": True,
        "name": "",
        "inputs": [{"blob": "x", "shape": [1, 1, 4, 4]}],
        "outputs": [{"blob": "c", "shape": [1, 2, 2, 2]}],
        "layers": [
            {
                "name": "x", "type": "Input", "line": 1, "bottoms": [], "tops": ["x"], "bottom_shapes": [],
                "top_shapes": [[1, 1, 4, 4]], "parameters": 0, "multiply_adds": 0, "precision": None, "reason": "",
            },
            {
                "name": "c", "type": "Convolution", "line": 2, "bottoms": ["x"], "tops": ["c"],
                "bottom_shapes": [[1, 1, 4, 4]], "top_shapes": [[1, 2, 2, 2]], "parameters": 20, "multiply_adds": 72,
                "precision": "INT8", "reason": "",
            },
        ],
        "totals": {
            "layers": 2, "parameters": 20, "multiply_adds": 72, "int8_layers": 1, "fp32_layers": 0,
            "int8_multiply_adds": 72,
        },
        "problems": [],
        "notes": [],
        "not_run": [],
    }  # fmt: skip


def test_everything_that_is_wrong_at_once(tmp_path, prototxt, capsys):
    prototxt.write_text(
        INPUT + CONV + 'layer { name: "s" type: "Nonsense" bottom: "c" top: "s" }\n'
        'layer { name: "t" type: "TanH" bottom: "missing" top: "t" }\n'
    )
    caffemodel = weights(tmp_path / "w.caffemodel", np.zeros((2, 1, 5, 5)), np.zeros(2))
    assert main(["check", str(prototxt), str(caffemodel)]) == 1
    out = capsys.readouterr().out
    problems = out.partition("problems:\n")[2].splitlines()[:3]
    assert [p.split(": ")[1].split(" (")[0] for p in problems] == ["layer 't'", "layer 'c'", "layer 's'"]
    assert out.splitlines()[-1].endswith("cannot be used: 3 problems")
    assert out.splitlines()[2].split()[:2] == ["c", "Convolution"]


@pytest.mark.parametrize("broken", ["prototxt", "caffemodel", "both"])
def test_files_that_cannot_be_read_are_problems_too(tmp_path, prototxt, capsys, broken):
    caffemodel = weights(tmp_path / "w.caffemodel", np.zeros((2, 1, 3, 3)), np.zeros(2))
    if broken != "caffemodel":
        prototxt.write_text("layer { name: 3 }\nlayer { type: 4 }")
    if broken != "prototxt":
        caffemodel.write_bytes(b"PK\x03\x04")
    code, found = as_json(capsys, prototxt, caffemodel)
    assert code == 1 and not found["usable"]
    named = [str(prototxt)] * 2 * (broken != "caffemodel") + [str(caffemodel)] * (broken != "prototxt")
    assert [p.partition(": ")[0].partition(":")[0] for p in found["problems"]] == named
    assert len(found["layers"]) == (2 if broken == "caffemodel" else 0)


def test_no_such_file(tmp_path, capsys):
    code, found = as_json(capsys, tmp_path / "nothing.prototxt")
    assert code == 1 and "No such file" in found["problems"][0]


def test_shapes(tmp_path, prototxt, capsys):
    prototxt.write_text(INPUT.replace("Input", "ImageData") + CONV)
    code, found = as_json(capsys, prototxt)
    assert code == 1 and any("--shape" in p for p in found["problems"])
    code, found = as_json(capsys, prototxt, "--shape", "x=3,1,5,5")
    assert code == 0 and found["outputs"] == [{"blob": "c", "shape": [3, 2, 3, 3]}]
    code, found = as_json(capsys, prototxt, "--shape", "x=3,1,5,5", "--shape", "y=1")
    assert code == 1 and found["problems"] == [f"{prototxt}: no input 'y' to give a shape; inputs are 'x'"]


def test_the_input_s_own_shape_gives_way(prototxt, capsys):
    code, found = as_json(capsys, prototxt, "--shape", "x=2,1,9,9")
    assert code == 0 and found["inputs"] == [{"blob": "x", "shape": [2, 1, 9, 9]}]


def test_phase(prototxt, capsys):
    prototxt.write_text(INPUT + CONV.replace("bottom", "include { phase: TRAIN } bottom"))
    assert [len(as_json(capsys, prototxt, "--phase", phase)[1]["layers"]) for phase in ("test", "TRAIN")] == [1, 2]


def test_notes_name_what_is_left_out(prototxt, capsys):
    prototxt.write_text(INPUT + CONV + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "c" bottom: "x" top: "l" }')
    assert main(["check", str(prototxt)]) == 0
    assert "notes:\n  - layer 'l' (SoftmaxWithLoss) is left out: it only measures" in capsys.readouterr().out


@pytest.mark.parametrize("shape", ["x", "x=", "=1,2", "x=1,-2", "x=1,a", "x=1,,2", "x=1000000000000", "x=²"])
def test_shapes_that_are_none_are_usage_errors(prototxt, shape):
    with pytest.raises(SystemExit) as exit_:
        main(["check", str(prototxt), "--shape", shape])
    assert exit_.value.code == 2


def test_names_of_blobs_may_hold_an_equals_sign(prototxt):
    prototxt.write_text(INPUT.replace('top: "x"', 'top: "a=b"'))
    assert not check(prototxt, shapes={"a=b": (1, 2)}).problems


def test_names_cannot_steer_the_terminal(prototxt, capsys):
    prototxt.write_text(INPUT.replace('"x"', r'"\033[2Jx\r\n"') + 'layer { name: "\\033" type: "No" bottom: "\\a" }')
    assert main(["check", str(prototxt)]) == 1
    out = capsys.readouterr().out
    assert "\033" not in out and "\r" not in out and "\\x1b[2Jx\\r\\n" in out


def test_the_same_twice(folder, capsys):
    assert as_json(capsys, folder) == as_json(capsys, folder)


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    out = capsys.readouterr().out
    for words in ("Run this first", "--shape BLOB=N,C,H,W", "--json", "--phase", "examples:", "exit code"):
        assert words in out


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    first, second, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"calib8 \d+\.\d+\S*", first) and second.startswith("Python 3.")
    assert {line.split()[0] for line in lines} >= {"numpy", "onnx", "onnxruntime", "opencv-python-headless", "protobuf"}
    assert re.fullmatch(r"counting: (compiled|numpy.*)", lines[-1])


def test_aligned():
    assert aligned([("a", "1", "x"), ("bcd", "22", "")], right=(1,)) == "a     1  x\nbcd  22"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(prototxt):
    command = [sys.executable, "-c", "import sys, calib8.cli.main as m; sys.exit(m.main())", "check", str(prototxt)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "cannot write to stdout" in done.stderr
