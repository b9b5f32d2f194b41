"""Constants of constants: the arithmetic on shapes that exporters leave in a graph, in numpy.

What a graph computes from the shapes of its values is known once the shapes are: `Shape`, and what follows from it.
Only these operators are computed here, with a budget: a few bytes of a file must not become a constant of gigabytes.
Source: onnx/onnx, docs/Operators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from calib8.graph import Array
from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.node import Node, slices
from calib8.onnx_in.values import MAX_RANK, Blob, Value, broadcast, canonical, integers

_KINDS = "fiub"


class Budget:
    """How many bytes constants may take that are no weights of the file."""

    def __init__(self, most: int) -> None:
        self._left = most

    def spend(self, shape: Sequence[int], itemsize: int = 8) -> None:
        """Take what an array needs. Raise RefusedError where there is no more."""
        self._left -= math.prod(shape) * itemsize
        if self._left < 0 or min(shape, default=0) < 0 or len(shape) > MAX_RANK:
            raise RefusedError(f"computes a constant of the shape {list(shape)}; constants take too much memory")


Fold = Callable[[Node, Budget], "Array | list[Array]"]


def _integer_quotient(a: Array, b: Array) -> Array:
    """Whole numbers are divided as in C: towards zero."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if not np.all(b):
        raise RefusedError("divides by 0")
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))


def _remainder(a: Array, b: Array) -> Array:
    if a.dtype.kind != "f" and not np.all(b):
        raise RefusedError("divides by 0")
    return np.asarray(np.mod(a, b))


_TWO: dict[str, Callable[[Array, Array], Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _integer_quotient, "Mod": _remainder,
    "Pow": lambda a, b: np.power(a, b).astype(a.dtype), "Equal": np.equal, "Greater": np.greater, "Less": np.less,
    "GreaterOrEqual": np.greater_equal, "LessOrEqual": np.less_equal, "And": np.logical_and, "Or": np.logical_or,
    "Max": np.maximum, "Min": np.minimum,
}  # fmt: skip
_ONE: dict[str, Callable[[Array], Any]] = {
    "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log, "Floor": np.floor,
    "Ceil": np.ceil, "Round": np.rint, "Reciprocal": np.reciprocal, "Not": np.logical_not, "Sign": np.sign,
}  # fmt: skip
_REDUCED: dict[str, Callable[..., Any]] = {
    "ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMin": np.min, "ReduceMax": np.max, "ReduceMean": np.mean
}  # fmt: skip


def _two(node: Node, budget: Budget) -> Array:
    arrays = [node.constant(i, "operand") for i in range(len(node.inputs))]
    node.ignore("fmod")
    result = arrays[0]
    for other in arrays[1:]:
        shape = broadcast(result.shape, other.shape)
        budget.spend(shape, max(result.itemsize, other.itemsize))
        result = np.asarray(_TWO[node.op_type](result, other))
    return result


def _one(node: Node, budget: Budget) -> Array:
    x = node.constant(0, "operand")
    budget.spend(x.shape, x.itemsize)
    return np.asarray(_ONE[node.op_type](x))


def _reduced(node: Node, budget: Budget) -> Array:
    x = node.constant(0, "operand")
    axes = node.optional_integers(1, "axes", 13 if node.op_type == "ReduceSum" else 18)
    keeps = bool(node.whole("keepdims", 1))
    if not axes and node.whole("noop_with_empty_axes", 0):
        return x
    gone = tuple({canonical(a, x.ndim, "axes") for a in axes}) if axes else None
    return np.asarray(_REDUCED[node.op_type](x, axis=gone, keepdims=keeps)).astype(x.dtype)


def _shape(node: Node, budget: Budget) -> Array:
    found = node.value(0)
    shape = found.shape
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    start, end = node.whole("start", 0), node.whole("end", len(shape))
    return np.array(shape[slice(start, end)], np.int64)


def _constant(node: Node, budget: Budget) -> Array:
    found = node.tensor("value")
    if found is not None:
        return found
    for name, kind in (("value_float", np.float32), ("value_int", np.int64)):
        if node.has_attribute(name):
            return np.array(node.real(name, 0) if kind is np.float32 else node.whole(name, 0), kind)
    if node.has_attribute("value_ints"):
        return np.array(node.ints("value_ints"), np.int64)
    return np.array(node.real_numbers("value_floats"), np.float32)


def _constant_of_shape(node: Node, budget: Budget) -> Array:
    shape = integers(node.constant(0, "shape"), "shape")
    budget.spend(shape)
    value = node.tensor("value")
    return np.full(shape, np.float32(0) if value is None else value.reshape(-1)[0])


def _identity(node: Node, budget: Budget) -> Array:
    node.ignore("seed", "ratio")
    return node.constant(0, "input")


def _cast(node: Node, budget: Budget) -> Array:
    x, to = node.constant(0, "input"), node.whole("to", 0)
    node.ignore("saturate", "round_mode")
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(to))
    except KeyError:
        raise RefusedError(f"casts to type {to}, which ONNX does not have") from None
    if dtype.kind not in _KINDS:
        raise RefusedError(f"casts a constant to {dtype}")
    budget.spend(x.shape, dtype.itemsize)
    return x.astype(dtype)


def _reshape(node: Node, budget: Budget) -> Array:
    x, wanted = node.constant(0, "data"), integers(node.constant(1, "shape"), "shape")
    if not node.whole("allowzero", 0):
        wanted = tuple(x.shape[i] if d == 0 else d for i, d in enumerate(wanted))
    return x.reshape(wanted)


def _squeeze(node: Node, budget: Budget) -> Array:
    x, axes = node.constant(0, "data"), node.optional_integers(1, "axes", 13)
    return np.squeeze(x, axes)


def _unsqueeze(node: Node, budget: Budget) -> Array:
    x, axes = node.constant(0, "data"), node.optional_integers(1, "axes", 13)
    return np.expand_dims(x, axes or ())


def _flatten(node: Node, budget: Budget) -> Array:
    x, axis = node.constant(0, "data"), node.whole("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _transpose(node: Node, budget: Budget) -> Array:
    x = node.constant(0, "data")
    return np.transpose(x, node.ints("perm", tuple(reversed(range(x.ndim)))))


def _concat(node: Node, budget: Budget) -> Array:
    arrays = [node.constant(i, "input") for i in range(len(node.inputs))]
    for array in arrays:
        budget.spend(array.shape, array.itemsize)
    return np.concatenate(arrays, canonical(node.whole("axis", 0), arrays[0].ndim))


def _gather(node: Node, budget: Budget) -> Array:
    x, indices = node.constant(0, "data"), node.constant(1, "indices")
    axis = canonical(node.whole("axis", 0), x.ndim)
    budget.spend((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.itemsize)
    return np.take(x, indices, axis)


def _slice(node: Node, budget: Budget) -> Array:
    x = node.constant(0, "data")
    parts = [slice(None)] * x.ndim
    for axis, start, end, step in slices(node):
        # What lies before the first element stands for "beyond the beginning" where one goes backwards.
        last = None if step < 0 and end < -x.shape[axis] else end
        parts[canonical(axis, x.ndim)] = slice(start, last, step)
    return x[tuple(parts)]


def _range(node: Node, budget: Budget) -> Array:
    start, limit, delta = (node.constant(i, what).reshape(()) for i, what in enumerate(("start", "limit", "delta")))
    if not delta:
        raise RefusedError("goes in steps of 0")
    length = max(math.ceil((float(limit) - float(start)) / float(delta)), 0)
    budget.spend((length,))
    return (start + delta * np.arange(length)).astype(start.dtype)


def _expand(node: Node, budget: Budget) -> Array:
    x = node.constant(0, "data")
    shape = broadcast(x.shape, integers(node.constant(1, "shape"), "shape"))
    budget.spend(shape, x.itemsize)
    return np.broadcast_to(x, shape)


def _tile(node: Node, budget: Budget) -> Array:
    x, repeats = node.constant(0, "data"), integers(node.constant(1, "repeats"), "repeats")
    budget.spend([d * n for d, n in zip(x.shape, repeats, strict=True)], x.itemsize)
    return np.tile(x, repeats)


def _where(node: Node, budget: Budget) -> Array:
    condition, x, y = (node.constant(i, "operand") for i in range(3))
    budget.spend(broadcast(condition.shape, x.shape, y.shape), x.itemsize)
    return np.where(condition, x, y)


def _split(node: Node, budget: Budget) -> list[Array]:
    x, parts = node.constant(0, "data"), len(node.outputs)
    axis = canonical(node.whole("axis", 0), x.ndim)
    node.ignore("num_outputs")
    lengths = node.optional_integers(1, "split", 13)
    longest = -(-x.shape[axis] // parts)
    points = np.cumsum(lengths)[:-1] if lengths else [longest * i for i in range(1, parts)]
    return np.split(x, points, axis)


FOLDS: dict[str, Fold] = {
    **dict.fromkeys(_TWO, _two), **dict.fromkeys(_ONE, _one), **dict.fromkeys(_REDUCED, _reduced),
    "Shape": _shape, "Size": _shape, "Constant": _constant, "ConstantOfShape": _constant_of_shape,
    "Identity": _identity, "Dropout": _identity, "Cast": _cast, "Reshape": _reshape, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Flatten": _flatten, "Transpose": _transpose, "Concat": _concat, "Gather": _gather,
    "Slice": _slice, "Range": _range, "Expand": _expand, "Tile": _tile, "Where": _where, "Split": _split,
}  # fmt: skip
"""What is computed where all inputs are constants; `Shape` and `Size` of anything."""
_OF_SHAPES = ("Shape", "Size")


def is_constant(node: Node) -> bool:
    """Tell whether a node gives constants: all that it reads is known, or only the shape of it counts."""
    return node.op_type in _OF_SHAPES or not any(isinstance(value, Blob) for value in node.inputs)


def fold(node: Node, budget: Budget) -> list[Value]:
    """Compute a node of constants.

    Raises:
        RefusedError: an operator that is not computed here, inputs that do not fit it, or results that are too large.
    """
    function = FOLDS.get(node.op_type)
    if function is None:
        raise RefusedError("reads constants alone, and calib8 does not compute it; simplify the model before")
    try:
        with np.errstate(all="ignore"):
            found = function(node, budget)
    except (ValueError, IndexError, TypeError, OverflowError) as why:
        raise RefusedError(f"its constants do not fit it: {why}") from None
    return [np.asarray(a) for a in found] if isinstance(found, list) else [np.asarray(found)]
