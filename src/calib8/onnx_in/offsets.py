"""Offsets that a node of its own adds, given to the layer in front that can have them.

PyTorch writes a Conv and a Gemm with their bias. TensorFlow, Keras and PaddlePaddle write MatMul and Add, Conv and Add.
As a layer of its own the Add has no integer rule: values would be made real for it, and codes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from calib8.graph import Array
from calib8.onnx_in.made import Made

_CONVOLUTIONS = ("Convolution", "Deconvolution")
_CHANNELS = 1
"""The axis of a convolution's outputs."""


def with_offsets(layers: Sequence[Made], wanted: Collection[str]) -> list[Made]:
    """Leave out layers that add what the layer in front can add; it then writes their value, under its name.

    Args:
        wanted: values that must stay, the network's outputs.
    """
    readers = Counter(blob for layer in layers for blob in layer.param.bottom)
    found: list[Made] = []
    writer: dict[str, Made] = {}
    for layer in layers:
        product = writer.get(layer.param.bottom[0]) if len(layer.param.bottom) == 1 else None
        if product is not None and product.param.top[0] not in wanted and readers[product.param.top[0]] == 1:
            offset = _offset(layer, product)
            if offset is not None:
                _give(product, offset)
                product.param.top[:] = layer.param.top
                writer[layer.param.top[0]] = product
                continue
        found.append(layer)
        writer.update(dict.fromkeys(layer.param.top, layer))
    return found


def _offset(layer: Made, product: Made) -> Array | None:
    """The numbers that `layer` adds to the outputs of `product`; None where that is not all, or they do not fit it."""
    place = _outputs(product)
    if place is None:
        return None
    axis, count = place
    if layer.param.type == "Bias" and layer.blobs:
        (blob,) = layer.blobs
        return blob if layer.param.bias_param.axis == axis and blob.shape == (count,) else None
    power = layer.param.power_param
    if layer.param.type == "Power" and power.power == 1 and power.scale == 1:
        return np.full(count, power.shift, np.float32)
    return None


def _outputs(product: Made) -> tuple[int, int] | None:
    """The axis that a layer without a bias could have one along, and how long it is; None for any other layer."""
    kind, param = product.param.type, product.param
    if kind in _CONVOLUTIONS and not param.convolution_param.bias_term:
        return _CHANNELS, param.convolution_param.num_output
    if kind == "InnerProduct" and not param.inner_product_param.bias_term:
        return len(product.shapes[0]) - 1, param.inner_product_param.num_output
    return None


def _give(product: Made, offset: Array) -> None:
    param = (
        product.param.inner_product_param if product.param.type == "InnerProduct" else product.param.convolution_param
    )
    param.bias_term = True
    product.blobs.append(np.ascontiguousarray(offset, np.float32))
