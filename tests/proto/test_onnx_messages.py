"""ONNX's messages without the package: the same classes, the same bytes as its own helpers make."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.proto import onnx_messages

DTYPES = (
    "float32",
    "float64",
    "float16",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
)
ATTRIBUTES = (
    {}, {"axis": 1, "alpha": 0.25, "mode": "nearest"}, {"b": np.int64(3), "a": np.float32(0.5), "keepdims": True},
    {"pads": [0, 1, 2, 3], "scales": (1.0, 2), "names": ["x", "y"], "kernel_shape": (np.int64(3), 3)}, {"axes": []},
)  # fmt: skip
IN_TURN = """
import sys
{first}
{second}
import onnx
from calib8.proto.onnx_messages import ModelProto, NodeProto
assert ModelProto is onnx.ModelProto and NodeProto is onnx.NodeProto
onnx.checker.check_node(onnx.helper.make_node("Relu", ["x"], ["y"]))
"""


def test_the_package_is_not_imported():
    script = "import sys, calib8.layers, calib8.engine; sys.exit('onnx' in sys.modules or 'ml_dtypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("order", [("import onnx", "import calib8.engine"), ("import calib8.engine", "import onnx")])
def test_classes_are_those_of_the_package_whatever_comes_first(order):
    subprocess.run([sys.executable, "-c", IN_TURN.format(first=order[0], second=order[1])], check=True)


@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_nodes(attributes, domain):
    made = onnx_messages.node("Op", ["x", ""], ["y"], domain, **attributes)
    if "axes" in attributes:  # empty: the helper cannot tell of what
        assert [a.type for a in made.attribute] == [onnx.AttributeProto.INTS]
        return
    expected = helper.make_node("Op", ["x", ""], ["y"], domain=domain, **attributes)
    assert made.SerializeToString() == expected.SerializeToString()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 1)], ids=str)
def test_tensors_and_declarations(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    assert onnx_messages.type_of(dtype) == helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made, expected = onnx_messages.tensor(array, "w"), numpy_helper.from_array(array, "w")
    assert made.SerializeToString() == expected.SerializeToString()
    for size in (shape, None):
        info = helper.make_tensor_value_info("x", onnx_messages.type_of(dtype), size)
        assert onnx_messages.value_info("x", dtype, size).SerializeToString() == info.SerializeToString()


def test_a_model():
    g = OnnxBuilder()
    x = g.input((1, 3))
    y = g.node("Add", x, g.constant(np.ones((1, 3), np.float32)))
    found, _ = g.model([(y, np.float32)])
    nodes = [helper.make_node("Add", [x, found.graph.node[0].input[1]], [y], domain="")]
    inputs = [helper.make_tensor_value_info(x, 1, (1, 3))]
    constants = [numpy_helper.from_array(np.ones((1, 3), np.float32), found.graph.node[0].input[1])]
    graph = helper.make_graph(nodes, "calib8", inputs, [helper.make_tensor_value_info(y, 1, None)], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    expected = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="calib8")
    assert found.SerializeToString() == expected.SerializeToString()


def test_a_package_that_has_its_messages_elsewhere_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "onnx.onnx_ml_pb2")
    monkeypatch.setattr("pathlib.Path.with_name", lambda path, name: path / "nowhere.py")
    assert onnx_messages._messages().ModelProto is onnx.ModelProto
