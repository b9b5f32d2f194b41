"""What this processor's integer kernels do: measured, since no list of processors stays true."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime as ort

from calib8.layers import OnnxBuilder

_CHANNELS = 64
_LARGEST = 127


@cache
def int8_products_saturate() -> bool:
    """Tell whether ONNX Runtime's kernels for int8 weights add pairs of products in 16 bits, which saturate.

    They do on x86 processors without VNNI. There `session.x64quantprecision` turns the weights into uint8: slower, and
    exact.
    """
    return not all(_adds_exactly(kernel) for kernel in (1, 3))


def _adds_exactly(kernel: int) -> bool:
    """Whether a convolution is right whose inputs and weights are all the largest there are; scaled, it gives them."""
    g = OnnxBuilder()
    x = g.input((1, _CHANNELS, 4, 4), np.uint8)
    zero, one = g.constant(np.uint8(128)), g.scalar(1.0)
    weights = g.constant(np.full((_CHANNELS, _CHANNELS, kernel, kernel), _LARGEST, np.int8))
    scale = g.scalar(1 / (_CHANNELS * kernel * kernel * _LARGEST))
    y = g.node("QLinearConv", x, scale, zero, weights, one, g.constant(np.int8(0)), one, zero)
    onnx, arrays = g.model([(y, np.uint8)])
    settings = ort.SessionOptions()
    settings.add_external_initializers(list(arrays), [ort.OrtValue.ortvalue_from_numpy(a) for a in arrays.values()])
    session = ort.InferenceSession(onnx.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (codes,) = session.run(None, {x: np.full((1, _CHANNELS, 4, 4), 128 + _LARGEST, np.uint8)})
    return bool((codes == 128 + _LARGEST).all())
