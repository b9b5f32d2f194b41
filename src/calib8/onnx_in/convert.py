"""From an ONNX graph to a network of Caffe's layers, node by node, or to everything that cannot be taken."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto

from calib8.errors import UnsupportedError
from calib8.graph import Array, Shape
from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.file import OnnxFile, read_file_of
from calib8.onnx_in.folding import FOLDS, Budget, fold, is_constant
from calib8.onnx_in.node import Node
from calib8.onnx_in.operators import OPERATORS
from calib8.onnx_in.shaping import as_blob
from calib8.onnx_in.tensors import Tensors
from calib8.onnx_in.values import Blob, Value
from calib8.onnx_in.writer import LayerWriter
from calib8.proto.text import Prototxt
from calib8.proto.textformat import NOWHERE

_DOMAINS = ("", "ai.onnx")
_FOLDED_BYTES = 64 * 2**20
"""What constants of constants may take, and four times the file's size on top."""
_CHANNELS = (1, 3)
"""Of images, as a model's input has them."""
_ADVICE = {
    **dict.fromkeys(("NonMaxSuppression", "TopK"), "cut the network in front of it (onnx.utils.extract_model)"),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"),
        "the network is quantised already; take the one in float32",
    ),
}


@dataclass(frozen=True)
class OnnxNetwork:
    """What an ONNX model is in Caffe's layers.

    Attributes:
        prototxt: the layers; its source is the model's path. Blobs have the names of ONNX's values, layers those of
            nodes, with a number behind it where a node becomes several.
        weights: float32, by layer.
    """

    prototxt: Prototxt
    weights: Mapping[str, Sequence[Array]]


def read_onnx(
    path: str | os.PathLike[str], shapes: Mapping[str, Shape] | None = None, size: tuple[int, int] | None = None
) -> OnnxNetwork:
    """Read an ONNX model. Nothing in it is executed; files beside it are read where its weights lie in them.

    Args:
        shapes: of inputs, by name, in the place of the model's own.
        size: height and width of images, for inputs whose own are open.

    Raises:
        OnnxError: the file cannot be read, or means nothing.
        UnsupportedError: operators, or ways to use them, that no layer computes; all of them.
    """
    return _Conversion(read_file_of(path), dict(shapes or {}), size).run()


def open_inputs(path: str | os.PathLike[str]) -> list[str]:
    """List the inputs of an ONNX model that leave the length of an axis open.

    Raises:
        OnnxError: the file cannot be read.
    """
    graph = read_file_of(path).graph
    known = {tensor.name for tensor in graph.initializer}
    dims = {x.name: _dims(x) for x in graph.input if x.name not in known}
    return [name for name, sizes in dims.items() if not sizes or None in sizes]


class _Conversion:
    """One model while it is converted."""

    def __init__(self, file: OnnxFile, shapes: dict[str, Shape], size: tuple[int, int] | None) -> None:
        self._file, self._graph, self._shapes, self._size = file, file.graph, shapes, size
        self._needed = _needed_nodes(file)
        self._outputs = [output.name for output in file.graph.output]
        self._tensors = Tensors(file.source, file.folder)
        self._values: dict[str, Value] = {}
        self._failed: set[str] = set()
        self._problems: list[str] = []
        self._budget = Budget(_FOLDED_BYTES + 4 * file.size)
        self._initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in file.graph.initializer}
        self._writer = LayerWriter({name for node in file.graph.node for name in node.output} | set(self._initializers))
        self._is_read = {name for node in self._needed for name in node.input}

    def run(self) -> OnnxNetwork:
        self._problems += _unknown(self._file.source, self._needed)
        if self._graph.sparse_initializer:
            self._problems.append(f"{self._file.source}: has sparse weights; calib8 takes plain ones")
        self._read_inputs()
        for name in sorted(self._is_read & set(self._initializers)):
            self._values[name] = self._tensors.array(self._initializers[name])
        for node in self._needed:
            self._visit(node)
        ends = self._ends()
        if self._problems:
            raise UnsupportedError(f"{self._file.source}: the network cannot be taken", self._problems)
        net, weights = self._writer.closed(ends)
        net.name = self._graph.name
        prototxt = Prototxt(self._file.source, net, (), (), (NOWHERE,) * len(net.layer))
        return OnnxNetwork(prototxt, weights)

    def _read_inputs(self) -> None:
        inputs = [x for x in self._graph.input if x.name not in self._initializers]
        unknown = sorted(set(self._shapes) - {x.name for x in inputs})
        if unknown:
            names = ", ".join(repr(x.name) for x in inputs)
            self._problems.append(f"{self._file.source}: no input {', '.join(map(repr, unknown))}; inputs are {names}")
        for x in inputs:
            if x.name not in self._is_read and x.name not in self._shapes:
                continue  # whatever it is, no output needs it
            try:
                self._values[x.name] = self._writer.input(x.name, self._shape_of(x))
            except RefusedError as why:
                self._problems.append(f"{self._file.source}: input {x.name!r}: {why}")
                self._failed.add(x.name)

    def _shape_of(self, x: ValueInfoProto) -> Shape:
        """The shape of an input: what was asked for, or the model's own, an open axis of images being 1."""
        tensor = x.type.tensor_type
        if not x.type.HasField("tensor_type") or tensor.elem_type != TensorProto.FLOAT:
            raise RefusedError(f"is of the type {_kind(x)}; calib8 computes in float32")
        dims = _dims(x)
        if x.name in self._shapes:
            shape = self._shapes[x.name]
            free = {0, *_image_axes(dims)}  # an export for one size of images mostly computes with any
            fits = not dims or (
                len(shape) == len(dims)
                and all(i in free or d in (None, s) for i, (d, s) in enumerate(zip(dims, shape, strict=True)))
            )
            if not fits:
                raise RefusedError(f"has the shape {_with_open(dims)} in the model, not {list(shape)}")
            return shape
        if dims and dims[0] is None:
            dims[0] = 1
        for axis, given in zip(_image_axes(dims), self._size or (), strict=False):
            dims[axis] = dims[axis] or given
        if not tensor.HasField("shape") or None in dims:
            raise RefusedError(f"its shape is open ({_with_open(dims)}); say `shapes=..`")
        return tuple(d for d in dims if d is not None)

    def _visit(self, proto: NodeProto) -> None:
        outputs = [name for name in proto.output if name]
        if (proto.op_type not in OPERATORS and proto.op_type not in FOLDS) or proto.domain not in _DOMAINS:
            self._failed.update(outputs)  # said before
            return
        if any(name in self._failed for name in proto.input):
            self._failed.update(outputs)  # the reason is said further in front
            return
        try:
            for name, value in self._results(proto):
                if name in self._values:
                    raise RefusedError(f"writes {name!r}, as an earlier node does")
                self._values[name] = value
        except RefusedError as why:
            self._writer.give_up()
            self._failed.update(outputs)
            self._problems.append(f"{self._file.source}: {_titled(proto)}: {why}")

    def _results(self, proto: NodeProto) -> list[tuple[str, Value]]:
        node = Node(proto, self._file.opset, [self._input(name) for name in proto.input], self._tensors.array)
        self._writer.start(proto.name or next((name for name in proto.output if name), proto.op_type))
        if is_constant(node):
            results = fold(node, self._budget)
        elif node.op_type in OPERATORS:
            found = OPERATORS[node.op_type](node, self._writer)
            results = list(found) if isinstance(found, Sequence) else [found]
        else:
            raise RefusedError("computes something of the network's values, which calib8 takes for constants alone")
        if node.unread():
            raise RefusedError(f"sets {', '.join(node.unread())}, which calib8 does not implement")
        names = list(proto.output[: len(results)])
        named = self._writer.finish(results[: len(names)], [self._inner(name) for name in names])
        return [(name, value) for name, value in zip(names, named, strict=True) if name]

    def _input(self, name: str) -> Value | None:
        if not name:
            return None
        if name not in self._values:
            raise RefusedError(f"reads {name!r}, which no earlier node writes")
        return self._values[name]

    def _inner(self, name: str) -> str:
        """What a value is called within the network: an output that nodes read, too, is given by a layer of its own."""
        return f"{name}:value" if name in self._outputs and name in self._is_read else name

    def _ends(self) -> list[str]:
        """Give every output of the graph a blob of its name that nothing reads."""
        ends = []
        given = [self._values.get(name) for name in self._outputs]
        uses = Counter(value.name for value in given if isinstance(value, Blob))
        for name in self._outputs:
            value = self._values.get(name)
            if isinstance(value, np.ndarray) and value.dtype == np.float32:  # prior boxes
                self._writer.start(name)
                value = as_blob(self._writer, value, "output")
                (value,) = self._writer.finish([value], [name])
            if isinstance(value, Blob):
                if value.name != name and not (uses[value.name] == 1 and self._writer.called(value.name, name)):
                    self._writer.start(name)
                    self._writer.finish(self._writer.add("Split", value), [name])
                ends.append(name)
            elif name not in self._failed:
                what = "is a constant" if value is not None else "is written by no node"
                self._problems.append(f"{self._file.source}: output {name!r} {what}")
        return ends


def _needed_nodes(file: OnnxFile) -> list[NodeProto]:
    """The nodes that outputs need, in order."""
    needed, kept = {output.name for output in file.graph.output}, []
    for node in reversed(file.graph.node):
        if needed.intersection(name for name in node.output if name):
            kept.append(node)
            needed.update(name for name in node.input if name)
    return kept[::-1]


def _unknown(source: str, nodes: Iterable[NodeProto]) -> list[str]:
    """One problem for each operator that is not known, with its first node and how many there are."""
    strange = [n for n in nodes if n.domain not in _DOMAINS or (n.op_type not in OPERATORS and n.op_type not in FOLDS)]
    counts = Counter(_full_name(node) for node in strange)
    first = {_full_name(node): node for node in reversed(strange)}
    problems = []
    for name, number in counts.items():
        more = f" and {number - 1} more" if number > 1 else ""
        advice = _ADVICE.get(name, "")
        problems.append(f"{source}: {_titled(first[name])}{more}: calib8 does not take {name}{advice and ': '}{advice}")
    return problems


def _full_name(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in _DOMAINS else str(node.op_type)


def _titled(node: NodeProto) -> str:
    name = node.name or next((output for output in node.output if output), "")
    return f"node {name!r} ({node.op_type})"


def _kind(x: ValueInfoProto) -> str:
    kind = x.type.tensor_type.elem_type
    return TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else f"number {kind}"


def _dims(x: ValueInfoProto) -> list[int | None]:
    """The lengths of an input's axes; None for one that is open, which some exporters write as -1."""
    return [d.dim_value if d.dim_value > 0 else None for d in x.type.tensor_type.shape.dim]


def _image_axes(dims: Sequence[int | None]) -> tuple[int, ...]:
    """Height and width of an input of images; none for others. What came from TensorFlow has channels last."""
    if len(dims) != 4:
        return ()
    return (1, 2) if dims[3] in _CHANNELS and dims[1] not in _CHANNELS else (2, 3)


def _with_open(dims: Sequence[int | None]) -> str:
    return ", ".join("?" if d is None else str(d) for d in dims)
