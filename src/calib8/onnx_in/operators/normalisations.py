"""Normalisations.

Source: onnx/onnx, docs/Operators.md, BatchNormalization, InstanceNormalization, LayerNormalization, LRN,
LpNormalization.
"""

from __future__ import annotations

import math

import numpy as np

from calib8.graph import Array
from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.node import Node
from calib8.onnx_in.operators.table import operator
from calib8.onnx_in.shaping import along, reshaped
from calib8.onnx_in.values import Blob, broadcast, canonical
from calib8.onnx_in.writer import LayerWriter


def _of_channels(node: Node, x: Blob, index: int, what: str) -> Array:
    found = node.floats(index, what)
    if found.shape != (x.shape[1],):
        raise RefusedError(f"its {what} has the shape {list(found.shape)}; expected one number for each channel")
    return found


def _image(node: Node) -> Blob:
    x = node.blob(0)
    if x.rank < 2:
        raise RefusedError(f"its input has {x.rank} dimensions; expected N, C and perhaps more")
    return x


@operator("BatchNormalization")
def batch_normalization(node: Node, w: LayerWriter) -> Blob:
    """BatchNorm, and Scale behind it."""
    x = _image(node)
    node.ignore("momentum")
    if node.opset < 9 and node.whole("spatial", 1) != 1:
        raise RefusedError("spatial is 0: numbers for each pixel; calib8 takes one for each channel")
    if node.whole("training_mode", 0) or any(node.outputs[1:]):
        raise RefusedError("is in training mode; export the network for inference")
    gamma, beta, mean, variance = (
        _of_channels(node, x, i, what) for i, what in enumerate(("scale", "B", "input_mean", "input_var"), 1)
    )
    blobs = [mean, variance, np.ones(1, np.float32)]
    y = w.one(
        "BatchNorm", x, blobs=blobs, batch_norm_param={"eps": node.real("epsilon", 1e-5), "use_global_stats": True}
    )
    return w.one("Scale", y, blobs=[gamma, beta], scale_param={"bias_term": True})


@operator("InstanceNormalization")
def instance_normalization(node: Node, w: LayerWriter) -> Blob:
    """MVN, and Scale behind it."""
    x = _image(node)
    if x.rank != 4:
        raise RefusedError(f"its input has {x.rank} dimensions; calib8 takes N, C, H, W")
    gamma, beta = _of_channels(node, x, 1, "scale"), _of_channels(node, x, 2, "B")
    y = w.one("MVN", x, mvn_param={"eps": node.real("epsilon", 1e-5), "add_eps_before_sqrt": True})
    return w.one("Scale", y, blobs=[gamma, beta], scale_param={"bias_term": True})


@operator("LayerNormalization")
def layer_normalization(node: Node, w: LayerWriter) -> Blob:
    """The last axes as the pixels of a channel: MVN, and Scale and Bias behind it."""
    x = node.blob(0)
    axis = canonical(node.whole("axis", -1), x.rank)
    if any(node.outputs[1:]) or node.whole("stash_type", 1) != 1:
        raise RefusedError("its second and third output, and other types than float32 in between, are not taken")
    images = x.shape[0] if axis else 1
    rows, length = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
    y = reshaped(w, x, (images, rows // images, 1, length))
    y = w.one("MVN", y, mvn_param={"eps": node.real("epsilon", 1e-5), "add_eps_before_sqrt": True})
    y = reshaped(w, y, x.shape)
    for index, kind in ((1, "Scale"), (2, "Bias")):
        if node.has(index):
            numbers = node.floats(index, "scale" if index == 1 else "B")
            if broadcast(x.shape[axis:], numbers.shape) != x.shape[axis:]:
                raise RefusedError(f"its scale or B has the shape {list(numbers.shape)} for {list(x.shape)}")
            y = along(w, y, np.broadcast_to(numbers, x.shape[axis:]), kind)
    return y


@operator("LRN")
def lrn(node: Node, w: LayerWriter) -> Blob:
    """Local response normalisation across channels."""
    param = {
        "local_size": node.whole("size", 0), "alpha": node.real("alpha", 1e-4), "beta": node.real("beta", 0.75),
        "k": node.real("bias", 1.0),
    }  # fmt: skip
    return w.one("LRN", node.blob(0), lrn_param=param)


@operator("LpNormalization")
def lp_normalization(node: Node, w: LayerWriter) -> Blob:
    """Channels of a pixel divided by their norm."""
    x = _image(node)
    axis, p = canonical(node.whole("axis", -1), x.rank), node.whole("p", 2)
    if axis != 1 or p != 2:
        raise RefusedError(f"axis is {axis} and p {p}; calib8 takes the channels (1) and 2")
    param = {"across_spatial": False, "channel_shared": True, "eps": 0.0}
    return w.one("Normalize", x, blobs=[np.ones(1, np.float32)], norm_param=param)
