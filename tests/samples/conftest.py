"""Samples are run as a user runs them, but in this process: loading the libraries takes longer than most of them."""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from calib8.cli.main import main as calib8
from calib8.pycaffe import state

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "calibration_tool" / "samples"
EXAMPLES = ROOT / "examples"
OWN_MODULES = ("drawing", "sample_net", "yolo_data_layer", "yolov3")


class Result(NamedTuple):
    """What a sample did: exit code, what it printed, what it complained about."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a script changes in its process is as before afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(state._state, "yolo", False)
    yield
    for name in OWN_MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def run_sample(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """run_sample("detection/ssd/ssd.py", argument, ...), in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(script: str, *arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.syspath_prepend((SAMPLES / script).parent)  # as Python does for a script
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SAMPLES / script), run_name="__main__")
        return Result(int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def yolov3(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The detector as a module, for its parts."""
    monkeypatch.syspath_prepend(SAMPLES / "detection" / "yolov3")
    return importlib.import_module("yolov3")


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """calibrated("shapes/ssd", iteration, *options): a copy of an example's model folder, calibrated, with images."""
    done: dict[tuple[str, ...], Path] = {}

    def calibrate(name: str, iteration: int, *options: str) -> Path:
        key = (name, *options)
        if key not in done:
            top, _, rest = name.partition("/")
            copy = tmp_path_factory.mktemp("examples") / top
            shutil.copytree(EXAMPLES / top, copy, ignore=shutil.ignore_patterns("bmnet_*", "*.py"))
            done[key] = copy / rest
            if rest == "yolov3":
                shutil.copy(SAMPLES / "detection" / "yolov3" / "yolo_data_layer.py", done[key])
            command = ["calibrate", "it", str(done[key]), "-n", str(iteration), "--method", "mse", *options]
            assert calib8(command) == 0
        return done[key]

    return calibrate
