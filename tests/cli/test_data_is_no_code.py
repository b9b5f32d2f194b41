"""What lies in a model's folder is data: only the modules that its prototxt names are executed, and by `check` not even
those. Held from outside, by an audit hook (PEP 578) in a process of its own: no code from the folder is executed, and
no file is opened that is neither the interpreter's, nor a library's, nor named.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
# Names of modules that calib8, its libraries and the interpreter import, some of them late.
TRAPS = (
    "numpy", "cv2", "yaml", "onnx", "onnxruntime", "google", "lmdb", "h5py", "caffe", "calib8", "json", "secrets",
    "sitecustomize", "usercustomize", "matplotlib", "shtab", "general_data_layer_helper", "utils", "packaging",
)  # fmt: skip

AUDITED = """
import sys, json
folder, report = sys.argv[1:3]
executed, opened = set(), set()
def hook(event, arguments):
    if event == "exec":
        executed.add(str(arguments[0].co_filename))
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.add(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode())
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"):
        executed.add(event)
sys.addaudithook(hook)
from calib8.cli.main import main
code = main(sys.argv[3:])
print(json.dumps({"code": code, "executed": sorted(executed), "opened": sorted(opened)}), file=open(report, "w"))
"""

DATA = """
layer { name: "data" type: "Python" top: "data"
  python_param { module: "%s" layer: "DataLayer"
    param_str: "{'data_list': list.txt, 'h': 8, 'w': 8, 'r_mean': 1}" } }
layer { name: "grey" type: "Convolution" bottom: "data" top: "grey"
  convolution_param { num_output: 1 kernel_size: 1 bias_term: false weight_filler { type: "constant" value: 0.3 } } }
"""


@pytest.fixture
def folder(tmp_path):
    """A calibrated network with general_data_layer, and traps beside it."""
    from calib8.cli.main import main  # noqa: PLC0415
    from calib8.proto.caffemodel import write_caffemodel  # noqa: PLC0415
    from calib8.proto.text import parse_prototxt  # noqa: PLC0415

    path = tmp_path / "model"
    path.mkdir()
    text = DATA % "general_data_layer"
    (path / "deploy.prototxt").write_text(text)
    layers = parse_prototxt(text).net.layer
    write_caffemodel(path / "custom.caffemodel", "n", [(layers[1], [np.full((1, 3, 1, 1), 0.3, np.float32)])])
    for i in range(9):
        cv2.imwrite(str(path / f"{i}.png"), np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8))
    (path / "list.txt").write_text("".join(f"{i}.png\n" for i in range(9)))
    assert main(["calibrate", "n", str(path), "-n", "3"]) == 0
    for trap in TRAPS:
        (path / f"{trap}.py").write_text("raise SystemExit('a trap was executed')\n")
    for package in ("numpy", "google", "caffe", "yaml"):
        (path / package).mkdir()
        shutil.copy(path / "json.py", path / package / "__init__.py")
    return path


def audited(folder, tmp_path, *arguments):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, folder, report, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert found["code"] == 0, done.stderr + done.stdout
    return found


def inside(names, folder):
    return {str(Path(name).relative_to(folder)) for name in names if Path(name).is_relative_to(folder)}


COMMANDS = {
    "check": ["check", "FOLDER"],
    "check with Python": ["check", "FOLDER", "--run-python"],
    "calibrate": ["calibrate", "n", "FOLDER", "-n", "3"],
    "sensitivity": ["sensitivity", "n", "FOLDER", "--samples", "3", "--no-picture"],
    "tune": ["tune", "n", "FOLDER", "--samples", "2", "--held-out", "2", "--minutes", "0.05"],
    "export": ["export", "n", "FOLDER", "--format", "onnx"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_of_the_folder_is_executed_and_only_what_is_named_is_opened(folder, tmp_path, command):
    arguments = [str(folder) if word == "FOLDER" else word for word in COMMANDS[command]]
    found = audited(folder, tmp_path, *arguments)
    assert inside(found["executed"], folder) == set()
    assert not any(name.startswith(("os.", "subprocess", "socket")) for name in found["executed"])
    named = {"deploy.prototxt", "custom.caffemodel", "list.txt", *(f"{i}.png" for i in range(9))}
    ours = {name for name in inside(found["opened"], folder) if ".calib8-" in name or "bmnet_n" in name}
    ours |= {name for name in inside(found["opened"], folder) if name in (".", "tuned", "tuned/report.log")}
    assert inside(found["opened"], folder) <= named | ours
    allowed = [sys.prefix, sys.base_prefix, str(ROOT / "src"), str(tmp_path), "/proc", "/sys", "/dev", "/etc", "/usr"]
    allowed += [str(Path(cv2.__file__).parents[1])]
    elsewhere = {n for n in found["opened"] if not any(Path(n).is_relative_to(a) for a in allowed)}
    assert {n for n in elsewhere if Path(n).is_absolute()} == set()


OWN = """
import caffe, numpy, os
from helper_of_mine import VALUE
class DataLayer(caffe.Layer):
    def setup(self, bottom, top):
        open(os.path.join(self.model_folder, "ran"), "w").close()
        top[0].reshape(1, 3, 8, 8)
    def forward(self, bottom, top):
        top[0].data[...] = VALUE + numpy.arange(64).reshape(8, 8)
"""


def test_modules_that_the_prototxt_names_are_executed_but_not_by_check(folder, tmp_path):
    (folder / "my_layer.py").write_text(OWN)
    (folder / "helper_of_mine.py").write_text("VALUE = 3\n")
    (folder / "deploy.prototxt").write_text(DATA % "my_layer")
    found = audited(folder, tmp_path, "check", str(folder), "--json")
    assert inside(found["executed"], folder) == set() and not (folder / "ran").exists()
    found = audited(folder, tmp_path, "check", str(folder), "--run-python")
    assert inside(found["executed"], folder) == {"my_layer.py", "helper_of_mine.py"} and (folder / "ran").exists()
    found = audited(folder, tmp_path, "calibrate", "n", str(folder), "-n", "2")
    assert inside(found["executed"], folder) == {"my_layer.py", "helper_of_mine.py"}


def test_check_says_what_it_could_not_measure(tmp_path, capsys):
    from calib8.cli.main import main  # noqa: PLC0415

    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }
    layer { name: "own" type: "Python" bottom: "x" top: "y" python_param { module: "mine" layer: "Own" } }
    layer { name: "relu" type: "ReLU" bottom: "y" top: "z" }
    """
    (tmp_path / "deploy.prototxt").write_text(text)
    (tmp_path / "mine.py").write_text(
        "import caffe\nclass Own(caffe.Layer):\n    def reshape(self, bottom, top): top[0].reshape(1, 2)\n"
    )
    assert main(["check", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "not measured:\n  - " in out and "layer 'own' (Python, mine.Own): not run" in out
    assert out.rstrip().endswith("no problem where it was measured; --run-python measures the rest")
    assert main(["check", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["not_run"]) == 1 and report["usable"]
    assert [row["top_shapes"] for row in report["layers"]] == [[[1, 3, 8, 8]], [None], [None]]
    assert main(["check", str(tmp_path), "--run-python"]) == 0
    assert "1x2" in capsys.readouterr().out
    (tmp_path / "deploy.prototxt").write_text(text.replace("ReLU", "NoSuchType"))
    assert main(["check", str(tmp_path)]) == 1  # what is wrong elsewhere is found all the same
