"""One ONNX node while it is converted: its inputs, and its attributes, of which every one must be read.

A set attribute that nobody reads would silently mean nothing; so every read is remembered, as `layer_kit.fields` does
it for Caffe's fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto

from calib8.graph import Array
from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.values import Blob, Value, integers

_SLICES_BY_INPUTS = 10


class Node:
    """A node with its inputs.

    Attributes:
        op_type: the operator.
        opset: the version of the operators.
        inputs: None for one that is left out.
        outputs: names, "" for one that is left out.
    """

    def __init__(
        self, proto: NodeProto, opset: int, inputs: Sequence[Value | None], read: Callable[[TensorProto], Array]
    ) -> None:
        self.op_type: str = proto.op_type
        self.opset = opset
        self.inputs = tuple(inputs)
        self.outputs: tuple[str, ...] = tuple(proto.output)
        self._attributes = {a.name: a for a in proto.attribute}
        self._tensor = read
        self._read: set[str] = set()

    def has(self, index: int) -> bool:
        """Tell whether input `index` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Return input `index`. Raise RefusedError where it is missing."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise RefusedError(f"has no input {index}")
        return found

    def blob(self, index: int) -> Blob:
        """Return input `index` as what layers compute. Raise RefusedError for a constant."""
        found = self.value(index)
        if not isinstance(found, Blob):
            raise RefusedError(f"its input {index} is a constant; calib8 takes a value of the network there")
        return found

    def constant(self, index: int, what: str) -> Array:
        """Return input `index` as numbers. Raise RefusedError for what layers compute."""
        found = self.value(index)
        if isinstance(found, Blob):
            raise RefusedError(f"its {what} is computed by the network ({found.name!r}); calib8 takes a constant there")
        return found

    def floats(self, index: int, what: str) -> Array:
        """Return input `index` as float32. Raise RefusedError for what is no constant of float32."""
        array = self.constant(index, what)
        if array.dtype != np.float32:
            raise RefusedError(f"its {what} is {array.dtype}; calib8 computes in float32")
        return array

    def number(self, index: int, what: str) -> float:
        """Return input `index`, one float."""
        array = self.constant(index, what)
        if array.size != 1:
            raise RefusedError(f"its {what} has the shape {list(array.shape)}; expected one number")
        return float(array.reshape(()))

    def optional_number(self, index: int, name: str, before: int, default: float, attribute: str = "") -> float:
        """Read a float that is an attribute below opset `before`, and an input from there on.

        Args:
            attribute: what the attribute is called, if not `name`.
        """
        if self.opset < before:
            return self.real(attribute or name, default)
        return self.number(index, name) if self.has(index) else default

    def optional_integers(self, index: int, name: str, before: int) -> tuple[int, ...] | None:
        """Read whole numbers that are an attribute below opset `before`, and an input from there on."""
        if self.opset < before:
            return self.ints(name) if name in self._attributes else None
        return integers(self.constant(index, name), name) if self.has(index) else None

    def whole(self, name: str, default: int) -> int:
        """Read an attribute."""
        return int(self._get(name, AttributeProto.INT, "i", default))

    def real(self, name: str, default: float) -> float:
        """Read an attribute."""
        return float(self._get(name, AttributeProto.FLOAT, "f", default))

    def text(self, name: str, default: str) -> str:
        """Read an attribute."""
        found = self._get(name, AttributeProto.STRING, "s", default)
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)

    def ints(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """Read an attribute."""
        return tuple(self._get(name, AttributeProto.INTS, "ints", default))

    def real_numbers(self, name: str) -> tuple[float, ...]:
        """Read an attribute; () where it is missing."""
        return tuple(self._get(name, AttributeProto.FLOATS, "floats", ()))

    def tensor(self, name: str) -> Array | None:
        """Read an attribute; None where it is missing."""
        found = self._get(name, AttributeProto.TENSOR, "t", None)
        return None if found is None else self._tensor(found)

    def has_attribute(self, name: str) -> bool:
        """Tell whether it is set."""
        return name in self._attributes

    def only(self, name: str, *allowed: str) -> str:
        """Read a text that must be one of these; the first is the default."""
        found = self.text(name, allowed[0])
        if found not in allowed:
            raise RefusedError(f"{name} is {found!r}; calib8 takes {' or '.join(map(repr, allowed))}")
        return found

    def ignore(self, *names: str) -> None:
        """Declare attributes without an effect on the result."""
        self._read.update(names)

    def unread(self) -> list[str]:
        """List the attributes that nobody has read."""
        return [name for name in self._attributes if name not in self._read]

    def _get(self, name: str, kind: int, field: str, default: Any) -> Any:
        self._read.add(name)
        attribute = self._attributes.get(name)
        if attribute is None:
            return default
        if attribute.type != kind or attribute.ref_attr_name:
            raise RefusedError(f"attribute {name} is of another type than ONNX has for it")
        return getattr(attribute, field)


def slices(node: Node) -> list[tuple[int, int, int, int]]:
    """Read what a Slice takes, as (axis, start, end, step): attributes below opset 10, inputs from there on.

    Raises:
        RefusedError: it is no constant, or not of one length.
    """
    starts, ends, axes, steps = (
        node.optional_integers(index, name, _SLICES_BY_INPUTS)
        for index, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if starts is None or ends is None:
        raise RefusedError("has no starts or no ends")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise RefusedError("starts, ends, axes and steps are not of one length")
    return list(zip(axes, starts, ends, steps, strict=True))
