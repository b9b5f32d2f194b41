"""ONNX models made in tests, and run by ONNX Runtime and by calib8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calib8.engine import run_float
from calib8.lowering import Model, build_model
from calib8.onnx_in import read_onnx

TOLERANCE = 1e-5
_OTHERWISE_IN_1_23 = {("AveragePool", 5), ("LayerNormalization", 2), ("ReduceSum", 2)}


def needs_a_right_reference(name: str, case: int) -> None:
    """Skip a case which ONNX Runtime 1.23, the oldest that is allowed, refuses or computes in another way.

    Ceil mode with counted pads and a stride that is not the kernel's; a scale of one number over all axes; no axes to
    reduce and `noop_with_empty_axes`. calib8 gives what ONNX says and newer versions do.
    """
    if (name, case) in _OTHERWISE_IN_1_23 and ort.__version__.startswith("1.23."):
        pytest.skip(f"ONNX Runtime {ort.__version__} is no reference for {name} here")


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
):
    """A ModelProto; constants are initializers."""
    graph = helper.make_graph(
        list(nodes), "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def opened(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Model:
    """The network of a file."""
    found = read_onnx(path, shapes)
    return build_model(found.prototxt, found.weights)


def largest_difference(path: Path, model: Model, arrays: Mapping[str, np.ndarray]) -> float:
    """Of all outputs, beside ONNX Runtime's own and relative to the largest of each."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert sorted(model.net.outputs) == sorted(names)
    found = run_float(model, arrays, observe=names)
    worst = 0.0
    for name, wanted in zip(names, session.run(None, dict(arrays)), strict=True):
        assert found[name].shape == wanted.shape
        worst = max(worst, float(np.abs(found[name] - wanted).max() / max(np.abs(wanted).max(), 1e-12)))
    return worst
