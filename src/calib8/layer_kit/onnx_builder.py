"""A small builder of ONNX graphs: nodes, constants, and weights that stay where they are in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from calib8.graph import Array, Shape
from calib8.proto import onnx_messages
from calib8.proto.onnx_messages import ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSET = 18
_INLINE_BYTES = 1024


class OnnxBuilder:
    """Collects the nodes of one ONNX graph.

    Names of values are made here (`t0`, `t1`, ...), so Caffe's names never clash with ONNX's rules.

    Args:
        integer_kernels: whether sums of codes may become nodes over integers. GPUs have none; there they become nodes
            over float32 with the same results.
        accumulator_bits: of the sums of an Eltwise: the chip's 16, which saturate after every term, or 32.

    Attributes:
        wider: of values that are there with more channels, too: name and channels, by the value's name (`narrowed`).
        ways: how to make a value with more channels, where nobody has asked for it yet; None where that cannot be.
    """

    def __init__(self, *, integer_kernels: bool = True, accumulator_bits: int = 16) -> None:
        self.integer_kernels = integer_kernels
        self.accumulator_bits = accumulator_bits
        self._nodes: list[NodeProto] = []
        self._arrays: dict[str, Array] = {}
        self._constants: dict[tuple[str, Shape, bytes], str] = {}
        self._weights: dict[int, str] = {}
        self._inputs: list[ValueInfoProto] = []
        self._next = 0
        self._givers: dict[str, NodeProto] = {}
        self.wider: dict[str, tuple[str, int]] = {}
        self.ways: dict[str, Callable[[int], str | None]] = {}

    def input(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> str:
        """Declare a graph input; return its name."""
        name = self._name("in")
        self._inputs.append(onnx_messages.value_info(name, dtype, shape))
        return name

    def node(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name. Attributes that are None are left out."""
        return self.nodes(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def nodes(self, op_type: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        names = [self._name("t") for _ in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        self._nodes.append(onnx_messages.node(op_type, inputs, names, domain, **given))
        self._givers.update(dict.fromkeys(names, self._nodes[-1]))
        return names

    def narrowed(self, wide: str, has: int, channels: int) -> str:
        """Take the first channels (axis 1) of a value that has more; who can do with all finds it in `wider`."""
        narrow = self.node("Slice", wide, self.ints(0), self.ints(channels), self.ints(1))
        self.wider[narrow] = wide, has
        return narrow

    def widened(self, name: str, channels: int) -> str | None:
        """Return a value with so many channels, what is in the further ones being nobody's business; None for none."""
        if name not in self.wider and (wide := self.ways.get(name, _no_way)(channels)) is not None:
            self.wider[name] = wide, channels
        wide, has = self.wider.get(name, (None, 0))
        return wide if has == channels else None

    def giver(self, name: str) -> NodeProto | None:
        """Return the node that makes a value; None for an input or a constant."""
        return self._givers.get(name)

    def has(self, op_type: str) -> bool:
        """Tell whether there is a node of this type so far."""
        return any(node.op_type == op_type for node in self._nodes)

    def constant(self, value: ArrayLike, dtype: DTypeLike | None = None) -> str:
        """Add a constant; equal ones are stored once."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype)).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._store(array)
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """Add a constant int64 vector: shapes, axes, pads."""
        return self.constant(np.array(values, dtype=np.int64))

    def scalar(self, value: float) -> str:
        """Add a constant float32 without dimensions."""
        return self.constant(np.float32(value))

    def weight(self, array: Array) -> str:
        """Add a weight: not copied; the same array given twice is stored once."""
        if id(array) not in self._weights:
            self._weights[id(array)] = self._store(array)
        return self._weights[id(array)]

    def _store(self, array: Array) -> str:
        name = self._name("w")
        self._arrays[name] = array
        return name

    def _name(self, prefix: str) -> str:
        self._next += 1
        return f"{prefix}{self._next}"

    def model(self, outputs: Sequence[tuple[str, DTypeLike]]) -> tuple[ModelProto, dict[str, Array]]:
        """Return the ONNX model and the arrays of its external initializers, by name.

        What no output needs is left out.

        Args:
            outputs: names of the graph's outputs with their numpy dtypes.
        """
        nodes, read = self._needed([name for name, _ in outputs])
        initializers, external = [], {}
        for name, array in self._arrays.items():
            if name not in read:
                continue
            if array.nbytes <= _INLINE_BYTES:
                initializers.append(onnx_messages.tensor(np.asarray(array), name))
            else:
                initializers.append(_external(name, array))
                external[name] = array
        outs = [onnx_messages.value_info(name, dtype, None) for name, dtype in outputs]
        opsets = [("", OPSET), ("com.microsoft", 1)]
        return onnx_messages.model(nodes, self._inputs, outs, initializers, opsets), external

    def _needed(self, outputs: Sequence[str]) -> tuple[list[NodeProto], set[str]]:
        """The nodes that outputs need, in their order, and the names of all that is read."""
        nodes, read = [], set(outputs)
        for node in reversed(self._nodes):
            if any(name in read for name in node.output):
                nodes.append(node)
                read.update(node.input)
        return nodes[::-1], read


def _no_way(channels: int) -> None:
    return None


def _external(name: str, array: Array) -> TensorProto:
    """A TensorProto without bytes: the array is handed to the session beside the model."""
    proto = TensorProto(name=name, data_type=onnx_messages.type_of(array.dtype), dims=array.shape)
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "calib8-weights"), ("offset", "0"), ("length", str(array.nbytes))):
        proto.external_data.add(key=key, value=value)
    return proto


__all__ = ["OPSET", "OnnxBuilder"]
