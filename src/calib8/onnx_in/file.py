"""An ONNX file that nobody has checked: its size, its version, and what could mean more than a graph."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto

from calib8.errors import OnnxError
from calib8.reading import read_file

MAX_BYTES = 2**31 - 1
"""Largest file (protobuf); larger networks have their weights in files beside it."""
OPSETS = (7, 21)
"""Versions of the operators that are read, the first and the last."""
_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxFile:
    """A parsed model.

    Attributes:
        source: the path, for messages.
        graph: its GraphProto.
        opset: the version of its operators.
        size: bytes of the file.
    """

    source: str
    graph: GraphProto
    opset: int
    size: int

    @property
    def folder(self) -> Path:
        """Where files with weights may lie."""
        return Path(self.source).parent


def read_file_of(path: str | os.PathLike[str]) -> OnnxFile:
    """Read an ONNX file.

    Raises:
        OnnxError: it cannot be read, is no ONNX model, or one of another version.
    """
    source = os.fspath(path)
    data = read_file(path, MAX_BYTES, OnnxError)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise OnnxError(f"{source}: not an ONNX model, or a damaged one: protobuf cannot read it") from None
    if not model.HasField("graph") or not model.graph.node:
        raise OnnxError(f"{source}: not an ONNX model: it has no graph with nodes")
    if model.functions:
        names = ", ".join(repr(f.name) for f in model.functions[:8])
        raise OnnxError(f"{source}: has functions of its own ({names}); inline them (onnx.inliner) before")
    if not all(isinstance(text, str) for text in _texts(model)):  # protobuf then gives bytes
        raise OnnxError(f"{source}: not an ONNX model, or a damaged one: a name in it is no UTF-8")
    return OnnxFile(source, model.graph, _opset(source, model), len(data))


def _texts(model: ModelProto) -> Iterator[object]:
    """Every name that is read of a model."""
    yield from (entry.domain for entry in model.opset_import)
    graph = model.graph
    yield graph.name
    yield from (value.name for value in (*graph.input, *graph.output))
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (text for a in node.attribute for text in (a.name, a.ref_attr_name))
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    for tensor in tensors:
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _opset(source: str, model: ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if len(versions) != 1:
        raise OnnxError(f"{source}: names {len(versions)} versions of ONNX's operators; expected one")
    if not OPSETS[0] <= versions[0] <= OPSETS[1]:
        raise OnnxError(
            f"{source}: its operators are of opset {versions[0]}; calib8 reads {OPSETS[0]} to {OPSETS[1]}: export it "
            "again, or convert it (onnx.version_converter)"
        )
    return int(versions[0])
