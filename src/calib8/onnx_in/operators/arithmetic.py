"""Sums, products and the like of two or more values, which ONNX repeats along axes of length 1.

Two values of the network become an Eltwise, or, where one of them is repeated, a layer that repeats it. With a constant
they become a Power (one number), or a Scale or a Bias (numbers along some axes).
Source: onnx/onnx, docs/Broadcasting.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib8.graph import Array, Shape
from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.node import Node
from calib8.onnx_in.operators.activations import limited
from calib8.onnx_in.operators.table import operator
from calib8.onnx_in.shaping import along, as_blob, expanded, reshaped
from calib8.onnx_in.values import Blob, broadcast
from calib8.onnx_in.writer import LayerWriter

_OPERATIONS = {
    "Add": "SUM",
    "Sub": "SUM",
    "Mul": "PROD",
    "Div": "DIV",
    "Max": "MAX",
    "Min": "MIN",
    "Sum": "SUM",
    "Mean": "SUM",
}


@operator("Add", "Sub", "Mul", "Div")
def two(node: Node, w: LayerWriter) -> Blob:
    """Two operands."""
    first, second = node.value(0), node.value(1)
    if isinstance(first, Blob) and isinstance(second, Blob):
        return _of_blobs(node.op_type, w, [first, second])
    x = node.blob(0 if isinstance(first, Blob) else 1)
    constant = node.floats(1 if isinstance(first, Blob) else 0, "constant operand")
    return _with_constant(node.op_type, w, x, constant, is_first=not isinstance(first, Blob))


@operator("Max", "Min", "Sum", "Mean")
def many(node: Node, w: LayerWriter) -> Blob:
    """Any number of operands; limits, where one of two is a number."""
    values = [node.value(i) for i in range(len(node.inputs))]
    blobs, constants = [v for v in values if isinstance(v, Blob)], [v for v in values if not isinstance(v, Blob)]
    if len(values) == 1:
        return blobs[0]
    if node.op_type in ("Max", "Min") and len(blobs) == len(constants) == 1 and constants[0].size == 1:
        limit = float(constants[0].reshape(()))
        wide = expanded(w, blobs[0], broadcast(blobs[0].shape, constants[0].shape))
        return limited(w, wide, *((limit, np.inf) if node.op_type == "Max" else (-np.inf, limit)))
    return _of_blobs(node.op_type, w, [as_blob(w, value, "operand") for value in values])


def _of_blobs(kind: str, w: LayerWriter, blobs: Sequence[Blob]) -> Blob:
    shape = broadcast(*(b.shape for b in blobs))
    param = _eltwise(kind, len(blobs))
    if len(blobs) == 2 and kind not in ("Sub", "Div") and blobs[0].shape != shape == blobs[1].shape:
        blobs = blobs[::-1]
    first, *others = [b if b.shape == shape else _repeated(w, b, shape, spans=i == 1 and len(blobs) == 2)
                      for i, b in enumerate(blobs)]  # fmt: skip
    if len(others) == 1 and others[0].shape != shape:
        param["axis"] = _axis_of(blobs[1].shape, shape)
    return w.one("Eltwise", first, *others, eltwise_param=param)


def _eltwise(kind: str, operands: int) -> dict[str, object]:
    param: dict[str, object] = {"operation": _OPERATIONS[kind]}
    if kind == "Sub":
        param["coeff"] = [1.0, -1.0]
    elif kind == "Mean":
        param["coeff"] = [1.0 / operands] * operands
    return param


def _repeated(w: LayerWriter, x: Blob, shape: Shape, *, spans: bool) -> Blob:
    """A blob in the shape of the result; or, for an Eltwise's second bottom, with the axes alone that it covers."""
    full = (1,) * (len(shape) - x.rank) + x.shape
    first, last = _run(full, shape)
    if spans and full[first:last] == shape[first:last]:
        return reshaped(w, x, full[first:last])
    return expanded(w, x, shape)


def _axis_of(operand: Shape, shape: Shape) -> int:
    return _run((1,) * (len(shape) - len(operand)) + operand, shape)[0]


def _run(full: Shape, shape: Shape) -> tuple[int, int]:
    """From the first to behind the last axis that is repeated along no other one.

    Axes in front that are as long as in the result, like that of images, stay.
    """
    wide = [axis for axis, size in enumerate(full) if size != 1] or [len(full) - 1]
    first = 0 if full[: wide[0]] == shape[: wide[0]] else wide[0]
    return first, wide[-1] + 1


def _with_constant(kind: str, w: LayerWriter, x: Blob, constant: Array, *, is_first: bool) -> Blob:
    shape = broadcast(x.shape, constant.shape)
    if constant.size == 1:
        y = _with_number(kind, w, x, float(constant.reshape(())), is_first=is_first)
        return reshaped(w, y, shape)
    x = expanded(w, x, shape)
    if kind in ("Mul", "Div"):
        factor = constant if kind == "Mul" else _inverse(constant)
        if kind == "Div" and is_first:
            return along(w, w.one("Power", x, power_param={"power": -1.0}), constant, "Scale")
        return along(w, x, factor, "Scale")
    if kind == "Sub" and is_first:
        return along(w, w.one("Power", x, power_param={"scale": -1.0}), constant, "Bias")
    return along(w, x, -constant if kind == "Sub" else constant, "Bias")


def _inverse(constant: Array) -> Array:
    if not np.all(constant):
        raise RefusedError("divides by 0")
    return (1.0 / constant.astype(np.float64)).astype(np.float32)


def _with_number(kind: str, w: LayerWriter, x: Blob, number: float, *, is_first: bool) -> Blob:
    if not np.isfinite(number):
        raise RefusedError(f"its constant operand is {number}")
    if kind == "Div" and is_first:
        y = w.one("Power", x, power_param={"power": -1.0})
        return y if number == 1 else w.one("Power", y, power_param={"scale": number})
    if kind == "Div" and number == 0:
        raise RefusedError("divides by 0")
    param = {
        "Add": {"shift": number},
        "Sub": {"scale": -1.0, "shift": number} if is_first else {"shift": -number},
        "Mul": {"scale": number},
        "Div": {"scale": 1.0 / number if number else 0.0},
    }[kind]
    return w.one("Power", x, power_param=param)
