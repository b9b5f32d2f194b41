"""Packages whose names are imported when they are asked for: all names are there, and what is not asked for is not."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("calib8", "calib8.export", "calib8.onnx_in", "calib8.repair", "calib8.workflow")
NOT_FOR_ALL = (
    "onnx", "yaml", "asyncio", "h5py", "calib8.repair.pipeline", "calib8.workflow.tuning", "calib8.workflow.cluster",
    "calib8.workflow.judging", "calib8.export.ncnn", "calib8.export.onnx_model", "calib8.analyze.search",
)  # fmt: skip


@pytest.mark.parametrize("name", PACKAGES)
def test_names_are_those_that_types_are_checked_with(name):
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in checked.body for alias in node.names}
    assert homes.keys() <= set(package.__all__) and "__getattr__" not in package.__all__
    for public, module in homes.items():
        assert getattr(package, public) is getattr(importlib.import_module(module), public)
    assert all(hasattr(package, public) for public in package.__all__)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nonsense'"):
        _ = package.nonsense


def test_a_calibration_imports_what_it_uses():
    script = f"import sys, calib8.cli.calibrate; print([name for name in {NOT_FOR_ALL} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
