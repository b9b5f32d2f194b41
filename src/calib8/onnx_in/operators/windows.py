"""Convolutions and poolings: windows that slide over the axes behind the channels.

Source: onnx/onnx, docs/Operators.md, Conv, ConvTranspose, MaxPool, AveragePool; onnxruntime, core/providers/cpu/nn/
pool_attributes.h (the length of a top with ceil_mode, and the pads of auto_pad).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calib8.graph import Array, Shape
from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.node import Node
from calib8.onnx_in.operators.table import operator
from calib8.onnx_in.values import Blob
from calib8.onnx_in.writer import LayerWriter


@dataclass(frozen=True)
class _Window:
    """Numbers for each axis that the window slides over."""

    kernel: Shape
    stride: Shape
    dilation: Shape
    before: Shape
    after: Shape

    @property
    def has_pads(self) -> bool:
        return any(self.before + self.after)

    @property
    def is_even(self) -> bool:
        """Whether there is as much in front as behind."""
        return self.before == self.after


def _window(node: Node, x: Blob, kernel: Sequence[int], *, transposed: bool = False) -> _Window:
    axes = x.rank - 2
    if axes < 1:
        raise RefusedError(f"its input has {x.rank} dimensions; expected N, C and axes behind them")
    own = node.ints("kernel_shape", tuple(kernel))
    stride, dilation = (node.ints(name, (1,) * axes) for name in ("strides", "dilations"))
    pads = node.ints("pads", (0,) * 2 * axes)
    if {len(own), len(stride), len(dilation), len(pads) // 2} != {axes} or len(pads) % 2:
        raise RefusedError(f"kernel_shape, strides, dilations or pads are not those of {axes} axes")
    if min(own + stride + dilation) < 1 or min(pads) < 0:
        raise RefusedError(f"kernel_shape {own}, strides {stride}, dilations {dilation}, pads {pads}: expected above 0")
    window = _Window(own, stride, dilation, pads[:axes], pads[axes:])
    how = node.only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    if how == "NOTSET":
        return window
    if transposed:
        raise RefusedError(f"auto_pad is {how!r}; write the pads")
    if window.has_pads:
        raise RefusedError(f"sets both auto_pad {how!r} and pads; keep one of them")
    return window if how == "VALID" else _same(window, x.shape[2:], upper=how == "SAME_UPPER")


def _same(window: _Window, sizes: Shape, *, upper: bool) -> _Window:
    """The pads that give ceil(size / stride) places."""
    before, after = [], []
    for size, kernel, stride, dilation in zip(sizes, window.kernel, window.stride, window.dilation, strict=True):
        needed = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        less, more = needed // 2, needed - needed // 2
        before.append(less if upper else more)
        after.append(more if upper else less)
    return _Window(window.kernel, window.stride, window.dilation, tuple(before), tuple(after))


def _pads(window: _Window, *, pair: bool) -> dict[str, Any]:
    """The pads as a layer's parameter has them: one number per axis, or the four sides of an image.

    Args:
        pair: whether the message has `pad_h` and `pad_w`, instead of a list.
    """
    if window.is_even:
        return {"pad_h": window.before[0], "pad_w": window.before[1]} if pair else {"pad": window.before}
    if len(window.before) != 2:
        raise RefusedError(
            f"pads {window.before} and {window.after} differ in front and behind; calib8 takes that for images alone"
        )
    (top, left), (bottom, right) = window.before, window.after
    return {"pad_t": top, "pad_l": left, "pad_b": bottom, "pad_r": right}


def _weights(node: Node, x: Blob) -> tuple[Array, Array | None]:
    weights = node.floats(1, "weight")
    if weights.ndim != x.rank:
        raise RefusedError(f"its weight has the shape {list(weights.shape)} for an input of {x.rank} dimensions")
    bias = node.floats(2, "bias") if node.has(2) else None
    if bias is not None and bias.ndim != 1:
        raise RefusedError(f"its bias has the shape {list(bias.shape)}; expected one axis")
    return weights, bias


def _convolution(window: _Window, outputs: int, group: int, bias: Array | None) -> dict[str, Any]:
    return {
        "num_output": outputs, "group": group, "bias_term": bias is not None, "kernel_size": window.kernel,
        "stride": window.stride, "dilation": window.dilation, **_pads(window, pair=False),
    }  # fmt: skip


def _checked(weights: Array, expected: Shape, bias: Array | None, outputs: int) -> list[Array]:
    if weights.shape != expected or (bias is not None and bias.shape != (outputs,)):
        raise RefusedError(f"its weight has the shape {list(weights.shape)}; expected {list(expected)}")
    return [weights] if bias is None else [weights, bias]


@operator("Conv")
def conv(node: Node, w: LayerWriter) -> Blob:
    """Convolution."""
    x = node.blob(0)
    weights, bias = _weights(node, x)
    window, group = _window(node, x, weights.shape[2:]), node.whole("group", 1)
    outputs = weights.shape[0]
    if group < 1 or x.shape[1] % group:
        raise RefusedError(f"its input has {x.shape[1]} channels, not a multiple of group {group}")
    blobs = _checked(weights, (outputs, x.shape[1] // group, *window.kernel), bias, outputs)
    return w.one("Convolution", x, blobs=blobs, convolution_param=_convolution(window, outputs, group, bias))


@operator("ConvTranspose")
def conv_transpose(node: Node, w: LayerWriter) -> Blob:
    """Deconvolution. `output_padding` are rows that the pad behind cuts off less."""
    x = node.blob(0)
    weights, bias = _weights(node, x)
    window, group = _window(node, x, weights.shape[2:], transposed=True), node.whole("group", 1)
    more = node.ints("output_padding", (0,) * len(window.kernel))
    if node.has_attribute("output_shape"):
        raise RefusedError("sets output_shape; write the pads")
    after = tuple(p - m for p, m in zip(window.after, more, strict=True)) if len(more) == len(window.after) else (-1,)
    if min(after) < 0:
        raise RefusedError(f"output_padding {more} is larger than the pads {window.after}, which no layer has")
    window = _Window(window.kernel, window.stride, window.dilation, window.before, after)
    outputs = weights.shape[1] * group
    blobs = _checked(weights, (x.shape[1], weights.shape[1], *window.kernel), bias, outputs)
    return w.one("Deconvolution", x, blobs=blobs, convolution_param=_convolution(window, outputs, group, bias))


@operator("MaxPool")
def max_pool(node: Node, w: LayerWriter) -> Blob:
    """Pooling by maximum."""
    x, window = _pooled(node)
    node.ignore("storage_order")  # of the second output
    if len(node.outputs) > 1 and node.outputs[1]:
        raise RefusedError("its second output, the places of the maxima, is not taken")
    return _pool(node, w, x, window, "MAX")


@operator("AveragePool")
def average_pool(node: Node, w: LayerWriter) -> Blob:
    """Pooling by average, with the pads in the divisor or without; never what hangs over them."""
    x, window = _pooled(node)
    counts_pads = bool(node.whole("count_include_pad", 0))
    if not (counts_pads and window.has_pads):
        return _pool(node, w, x, window, "AVE_EXC_PAD" if window.has_pads or node.whole("ceil_mode", 0) else "AVE")
    if not node.whole("ceil_mode", 0):
        return _pool(node, w, x, window, "AVE")
    lengths = _lengths(window, x.shape[2:], up=True)
    (top, left), (bottom, right) = window.before, window.after
    padded = w.one("Padding", x, padding_param={"pad_t": top, "pad_l": left, "pad_b": bottom, "pad_r": right})
    return _pool(
        node, w, padded, _Window(window.kernel, window.stride, window.dilation, (0, 0), (0, 0)), "AVE_EXC_PAD", lengths
    )


def _pooled(node: Node) -> tuple[Blob, _Window]:
    x = node.blob(0)
    if x.rank != 4:
        raise RefusedError(f"its input has {x.rank} dimensions; calib8 pools N, C, H, W")
    if not node.has_attribute("kernel_shape"):
        raise RefusedError("has no kernel_shape")
    window = _window(node, x, ())
    if window.dilation != (1, 1):
        raise RefusedError(f"dilations are {window.dilation}; calib8 pools without any")
    return x, window


def _lengths(window: _Window, sizes: Shape, *, up: bool) -> Shape:
    """Height and width of the top, as ONNX Runtime has them."""
    found = []
    for size, kernel, stride, before, after in zip(
        sizes, window.kernel, window.stride, window.before, window.after, strict=True
    ):
        room = size + before + after - kernel
        length = (-(-room // stride) if up else room // stride) + 1
        if up and (length - 1) * stride >= size + before:  # a window that begins behind the image
            length -= 1
        found.append(length)
    return tuple(found)


def _pool(node: Node, w: LayerWriter, x: Blob, window: _Window, how: str, lengths: Shape | None = None) -> Blob:
    up = bool(node.whole("ceil_mode", 0))
    param = {
        "pool": how, "kernel_h": window.kernel[0], "kernel_w": window.kernel[1], "stride_h": window.stride[0],
        "stride_w": window.stride[1], "round_mode": "CEIL" if up else "FLOOR", **_pads(window, pair=True),
    }  # fmt: skip
    y = w.one("Pooling", x, pooling_param=param)
    expected = lengths or _lengths(window, x.shape[2:], up=up)
    if y.shape[2:] != expected:
        raise RefusedError(f"ceil_mode gives {list(expected)} places, and Caffe's rule {list(y.shape[2:])}")
    return y


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node, w: LayerWriter) -> Blob:
    """Pooling over the whole image."""
    x = node.blob(0)
    if x.rank != 4:
        raise RefusedError(f"its input has {x.rank} dimensions; calib8 pools N, C, H, W")
    return w.one(
        "Pooling", x, pooling_param={"pool": "AVE" if "Average" in node.op_type else "MAX", "global_pooling": True}
    )
