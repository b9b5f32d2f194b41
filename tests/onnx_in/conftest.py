"""ONNX models of a few nodes, taken or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_models import TOLERANCE, largest_difference, model_of, opened

from calib8.errors import UnsupportedError


@pytest.fixture()
def same_as_runtime(tmp_path):
    """same_as_runtime(nodes, inputs, outputs, constants, opset): the network, when ONNX Runtime gives the same."""

    def check(nodes, inputs, outputs=("y",), constants=None, opset=17, positive=False):
        path = tmp_path / "net.onnx"
        path.write_bytes(model_of(nodes, inputs, outputs, constants, opset).SerializeToString())
        model, rng = opened(path), np.random.default_rng(3)
        arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()}
        if positive:
            arrays = {name: np.abs(x) + np.float32(0.1) for name, x in arrays.items()}
        assert largest_difference(path, model, arrays) <= TOLERANCE
        return model

    return check


@pytest.fixture()
def refusals(tmp_path):
    """refusals(nodes, inputs, outputs, constants, opset): what is said of a network that cannot be taken."""

    def refuse(nodes, inputs, outputs=("y",), constants=None, opset=17):
        path = tmp_path / "net.onnx"
        path.write_bytes(model_of(nodes, inputs, outputs, constants, opset).SerializeToString())
        with pytest.raises(UnsupportedError) as caught:
            opened(path)
        assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
        return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]

    return refuse


@pytest.fixture(scope="session")
def examples():
    """The folders of the example networks, and the shapes of inputs that their data would give."""
    root = Path(__file__).resolve().parents[2] / "examples"
    return {
        root / "digits": {"data": (1, 1, 8, 8)},
        root / "upscale": {"data": (1, 1, 16, 16)},
        root / "shapes" / "ssd": {"data": (1, 3, 64, 64)},
        root / "shapes" / "yolov3": {"data": (1, 3, 64, 64)},
    }
