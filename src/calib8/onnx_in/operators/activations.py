"""Functions of one element: activations, powers, limits.

Source: onnx/onnx, docs/Operators.md; the operators' names.
"""

from __future__ import annotations

import math

import numpy as np

from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.node import Node
from calib8.onnx_in.operators.table import operator
from calib8.onnx_in.shaping import reshaped
from calib8.onnx_in.values import Blob, canonical
from calib8.onnx_in.writer import LayerWriter

_LARGEST = float(np.finfo(np.float32).max)
_PLAIN = {
    "Sigmoid": "Sigmoid", "Tanh": "TanH", "HardSwish": "HardSwish", "Mish": "Mish", "Softplus": "BNLL", "Abs": "AbsVal",
    "Exp": "Exp", "Log": "Log", "Erf": "Erf",
}  # fmt: skip
_SIX = 6.0
ALONG_ONE_AXIS = 13
"""The opset from which on a Softmax has one axis."""


@operator(*_PLAIN)
def plain(node: Node, w: LayerWriter) -> Blob:
    """Functions that a layer without parameters has."""
    return w.one(_PLAIN[node.op_type], node.blob(0))


@operator("Relu")
def relu(node: Node, w: LayerWriter) -> Blob:
    """The rectifier."""
    return w.one("ReLU", node.blob(0))


@operator("LeakyRelu")
def leaky_relu(node: Node, w: LayerWriter) -> Blob:
    """The leaky rectifier."""
    return w.one("ReLU", node.blob(0), relu_param={"negative_slope": node.real("alpha", 0.01)})


@operator("PRelu")
def prelu(node: Node, w: LayerWriter) -> Blob:
    """A slope for each channel, or one for all."""
    x, slope = node.blob(0), node.floats(1, "slope")
    if x.rank < 2:
        raise RefusedError(f"its input has {x.rank} dimensions; expected N, C and perhaps more")
    if slope.size == 1:
        return w.one("PReLU", x, blobs=[slope.reshape(())], prelu_param={"channel_shared": True})
    by_axis = (1,) * (x.rank - slope.ndim) + slope.shape
    if by_axis != (1, x.shape[1], *(1,) * (x.rank - 2)):
        raise RefusedError(f"its slope has the shape {list(slope.shape)}; calib8 takes one per channel, or one")
    return w.one("PReLU", x, blobs=[slope.reshape(-1)])


@operator("Clip")
def clip(node: Node, w: LayerWriter) -> Blob:
    """Limits: the rectifier, ReLU6, or any others."""
    x = node.blob(0)
    low, high = node.optional_number(1, "min", 11, -math.inf), node.optional_number(2, "max", 11, math.inf)
    return limited(w, x, low, high)


def limited(w: LayerWriter, x: Blob, low: float, high: float) -> Blob:
    """Bound a blob; infinite bounds are none."""
    if math.isnan(low) or math.isnan(high) or low > high:
        raise RefusedError(f"its limits are {low:g} and {high:g}; expected the lower one first")
    if low == 0 and high >= _LARGEST:
        return w.one("ReLU", x)
    if (low, high) == (0, _SIX):
        return w.one("ReLU6", x)
    return w.one("Clip", x, clip_param={"min": max(low, -_LARGEST), "max": min(high, _LARGEST)})


@operator("HardSigmoid")
def hard_sigmoid(node: Node, w: LayerWriter) -> Blob:
    """Sigmoid in straight lines."""
    param = {"alpha": node.real("alpha", 0.2), "beta": node.real("beta", 0.5)}
    return w.one("HardSigmoid", node.blob(0), hard_sigmoid_param=param)


@operator("Elu")
def elu(node: Node, w: LayerWriter) -> Blob:
    """The exponential linear unit."""
    return w.one("ELU", node.blob(0), elu_param={"alpha": node.real("alpha", 1.0)})


@operator("Gelu")
def gelu(node: Node, w: LayerWriter) -> Blob:
    """x * (1 + f(x)) / 2: f the error function of x / sqrt(2), or what a hyperbolic tangent makes of it."""
    x = node.blob(0)
    if node.only("approximate", "none", "tanh") == "none":
        inner = w.one("Erf", w.one("Power", x, power_param={"scale": math.sqrt(0.5)}))
    else:
        cube = w.one("Power", x, power_param={"power": 3.0})
        both = w.one("Eltwise", x, cube, eltwise_param={"operation": "SUM", "coeff": [1.0, 0.044715]})
        inner = w.one("TanH", w.one("Power", both, power_param={"scale": math.sqrt(2 / math.pi)}))
    half = w.one("Power", inner, power_param={"scale": 0.5, "shift": 0.5})
    return w.one("Eltwise", x, half, eltwise_param={"operation": "PROD"})


@operator("Sqrt", "Neg", "Reciprocal")
def power(node: Node, w: LayerWriter) -> Blob:
    """Fixed powers, and the other sign."""
    param = {"Sqrt": {"power": 0.5}, "Neg": {"scale": -1.0}, "Reciprocal": {"power": -1.0}}[node.op_type]
    return w.one("Power", node.blob(0), power_param=param)


@operator("Pow")
def pow_(node: Node, w: LayerWriter) -> Blob:
    """A constant power."""
    return w.one("Power", node.blob(0), power_param={"power": node.number(1, "exponent")})


@operator("Identity", "Dropout")
def nothing(node: Node, w: LayerWriter) -> Blob:
    """Nothing at all, in inference."""
    node.ignore("seed", "ratio")  # the ratio is an input from opset 12 on
    if len(node.outputs) > 1 and node.outputs[1]:
        raise RefusedError("its second output, the mask, is not taken")
    if node.has(2) and np.any(node.constant(2, "training_mode")):
        raise RefusedError("is in training mode; export the network for inference")
    return node.blob(0)


@operator("Softmax", "LogSoftmax")
def softmax(node: Node, w: LayerWriter) -> Blob:
    """Softmax along one axis, and its logarithm. Below opset 13 over all axes from one on, as if they were one."""
    x, axis = node.blob(0), node.whole("axis", 1 if node.opset < ALONG_ONE_AXIS else -1)
    shape = x.shape
    if node.opset < ALONG_ONE_AXIS and math.prod(shape[(first := canonical(axis, x.rank)) + 1 :]) != 1:
        x, axis = reshaped(w, x, (*shape[:first], math.prod(shape[first:]))), first
    y = reshaped(w, w.one("Softmax", x, softmax_param={"axis": axis}), shape)
    return y if node.op_type == "Softmax" else w.one("Log", y)
