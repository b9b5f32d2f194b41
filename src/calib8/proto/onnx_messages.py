"""ONNX's messages, and the few ways to make them that a graph takes, without the package around them.

`import onnx` takes 40 ms and 11 MB, more than all that calib8 does with it. So its messages are loaded here as they lie
in the package, under their own name: whoever imports onnx beside calib8 gets the same classes. What reads ONNX files of
others, and what writes them for others, imports onnx itself.

Source: onnx/onnx, onnx/helper.py and onnx/numpy_helper.py, whose messages these functions make to the byte.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_NAME = "onnx.onnx_ml_pb2"


def _messages() -> ModuleType:
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    package = importlib.util.find_spec("onnx")
    path = Path(package.origin).with_name("onnx_ml_pb2.py") if package is not None and package.origin else None
    spec = importlib.util.spec_from_file_location(_NAME, path) if path is not None else None
    if spec is None or spec.loader is None:
        return importlib.import_module(_NAME)
    module = sys.modules[_NAME] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except OSError:  # a version of onnx that has its messages elsewhere
        del sys.modules[_NAME]
        return importlib.import_module("onnx")
    return module


if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
else:
    _found = _messages()
    AttributeProto, ModelProto, NodeProto = _found.AttributeProto, _found.ModelProto, _found.NodeProto
    TensorProto, ValueInfoProto = _found.TensorProto, _found.ValueInfoProto

__all__ = [
    "AttributeProto",
    "ModelProto",
    "NodeProto",
    "TensorProto",
    "ValueInfoProto",
    "model",
    "node",
    "tensor",
    "type_of",
    "value_info",
]

_TYPES = MappingProxyType(
    {
        np.dtype(name): number
        for name, number in (
            ("float32", TensorProto.FLOAT), ("float64", TensorProto.DOUBLE), ("float16", TensorProto.FLOAT16),
            ("int8", TensorProto.INT8), ("uint8", TensorProto.UINT8), ("int16", TensorProto.INT16),
            ("uint16", TensorProto.UINT16), ("int32", TensorProto.INT32), ("uint32", TensorProto.UINT32),
            ("int64", TensorProto.INT64), ("uint64", TensorProto.UINT64), ("bool", TensorProto.BOOL),
        )
    }
)  # fmt: skip


def type_of(dtype: DTypeLike) -> int:
    """Return ONNX's number of a type of numpy's."""
    return int(_TYPES[np.dtype(dtype)])


def value_info(name: str, dtype: DTypeLike, shape: Sequence[int] | None) -> ValueInfoProto:
    """Declare an input or an output of a graph; None for a shape that is not said."""
    info = ValueInfoProto(name=name)
    tensor = info.type.tensor_type
    tensor.elem_type = type_of(dtype)
    if shape is not None:
        tensor.shape.SetInParent()  # without any axis, too
        for size in shape:
            tensor.shape.dim.add().dim_value = size
    return info


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any) -> NodeProto:
    """Make a node.

    Args:
        attributes: numbers, texts, and lists of one kind of them.
    """
    made = NodeProto(op_type=op_type, input=inputs, output=outputs, domain=domain)
    made.attribute.extend(_attribute(name, value) for name, value in sorted(attributes.items()))
    return made


def _attribute(name: str, value: Any) -> AttributeProto:
    if isinstance(value, Integral):
        return AttributeProto(name=name, type=AttributeProto.INT, i=int(value))
    if isinstance(value, Real):
        return AttributeProto(name=name, type=AttributeProto.FLOAT, f=float(value))
    if isinstance(value, str):
        return AttributeProto(name=name, type=AttributeProto.STRING, s=value.encode())
    every = list(value)
    if all(isinstance(one, Integral) for one in every):
        return AttributeProto(name=name, type=AttributeProto.INTS, ints=map(int, every))
    if all(isinstance(one, Real) for one in every):
        return AttributeProto(name=name, type=AttributeProto.FLOATS, floats=map(float, every))
    return AttributeProto(name=name, type=AttributeProto.STRINGS, strings=[one.encode() for one in every])


def tensor(array: NDArray[Any], name: str) -> TensorProto:
    """Make a constant that holds its numbers."""
    raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return TensorProto(dims=array.shape, name=name, data_type=type_of(array.dtype), raw_data=raw)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    initializers: Sequence[TensorProto],
    opsets: Sequence[tuple[str, int]],
) -> ModelProto:
    """Make a model of one graph.

    Args:
        opsets: domains and their versions.
    """
    made = ModelProto(ir_version=9, producer_name="calib8")
    graph = made.graph
    graph.node.extend(nodes)
    graph.name = "calib8"
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    graph.initializer.extend(initializers)
    for domain, version in opsets:
        made.opset_import.add(domain=domain, version=version)
    return made
