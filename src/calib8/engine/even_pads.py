"""Pads that differ between two sides as nodes of their own: what is computed on a GPU with cuDNN takes them for equal.

cuDNN's poolings have one pad for both sides of an axis, and ONNX Runtime hands over the first one: averages come out
wrong, in silence (microsoft/onnxruntime, pull request 29631). Its convolutions refuse unequal pads on some GPUs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib8.proto import onnx_messages
from calib8.proto.onnx_messages import AttributeProto, ModelProto, NodeProto, TensorProto

_FIELDS = {
    AttributeProto.INT: "i", AttributeProto.FLOAT: "f", AttributeProto.STRING: "s", AttributeProto.INTS: "ints",
    AttributeProto.FLOATS: "floats", AttributeProto.STRINGS: "strings",
}  # fmt: skip
_FILLED_WITH = {"Conv": 0.0, "AveragePool": 0.0, "MaxPool": float(np.finfo(np.float32).min)}


def with_even_pads(model: ModelProto) -> ModelProto:
    """Give float32 convolutions and poolings of a graph the same pad on both sides of every axis, in a copy.

    An AveragePool must count its pads. A MaxPool that gives places, too, is left as it is: it does not run on cuDNN.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    for node in model.graph.node:
        if _is_uneven(node):
            changed.graph.initializer.extend(_numbers(node))
            changed.graph.node.append(_pad(node))
        changed.graph.node.append(_without_pads(node) if _is_uneven(node) else node)
    return changed


def _is_uneven(node: NodeProto) -> bool:
    pads = _attributes(node).get("pads", [])
    sides = len(pads) // 2
    return node.op_type in _FILLED_WITH and len(node.output) == 1 and pads[:sides] != pads[sides:]


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: _value(a) for a in node.attribute}


def _value(attribute: AttributeProto) -> Any:
    """Numbers, texts, or lists of them."""
    field = _FIELDS[attribute.type]
    value = getattr(attribute, field)
    return list(value) if field.endswith("s") and len(field) > 1 else value.decode() if field == "s" else value


def _numbers(node: NodeProto) -> list[TensorProto]:
    """The pads of all axes, those of images and channels too, and what they are filled with."""
    pads = _attributes(node)["pads"]
    sides = len(pads) // 2
    every = np.array([0, 0, *pads[:sides], 0, 0, *pads[sides:]], np.int64)
    filling = np.float32(_FILLED_WITH[node.op_type])
    named = ((every, "pads"), (filling, "fill"))
    return [onnx_messages.tensor(np.asarray(v), f"{node.output[0]}_{name}") for v, name in named]


def _pad(node: NodeProto) -> NodeProto:
    y = node.output[0]
    return onnx_messages.node("Pad", [node.input[0], f"{y}_pads", f"{y}_fill"], [f"{y}_padded"])


def _without_pads(node: NodeProto) -> NodeProto:
    attributes = _attributes(node)
    attributes["pads"] = [0] * len(attributes["pads"])
    inputs = [f"{node.output[0]}_padded", *node.input[1:]]
    return onnx_messages.node(node.op_type, inputs, node.output, **attributes)
