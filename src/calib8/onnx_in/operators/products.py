"""Products with matrices of weights.

Source: onnx/onnx, docs/Operators.md, Gemm, MatMul.
"""

from __future__ import annotations

import numpy as np

from calib8.layer_kit.fields import RefusedError
from calib8.onnx_in.node import Node
from calib8.onnx_in.operators.table import operator
from calib8.onnx_in.values import Blob
from calib8.onnx_in.writer import LayerWriter


@operator("Gemm")
def gemm(node: Node, w: LayerWriter) -> Blob:
    """alpha * x * W + beta * b: InnerProduct."""
    x, weights = node.blob(0), node.floats(1, "second factor")
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if node.whole("transA", 0):
        raise RefusedError("transA is set; calib8 takes rows of samples")
    by_output = weights if node.whole("transB", 0) else weights.T
    if x.rank != 2 or by_output.ndim != 2 or by_output.shape[1] != x.shape[1]:
        raise RefusedError(f"multiplies {list(x.shape)} by {list(weights.shape)}")
    outputs = by_output.shape[0]
    blobs = [by_output if alpha == 1 else by_output * np.float32(alpha)]
    if node.has(2):
        bias = node.floats(2, "bias")
        if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1) or bias.shape[-1:] not in ((), (1,), (outputs,)):
            raise RefusedError(f"its bias has the shape {list(bias.shape)}; calib8 takes one number for each output")
        blobs.append(np.broadcast_to(bias.reshape(-1) * np.float32(beta), (outputs,)))
    param = {"num_output": outputs, "bias_term": len(blobs) == 2}
    return w.one("InnerProduct", x, blobs=blobs, inner_product_param=param)


@operator("MatMul")
def mat_mul(node: Node, w: LayerWriter) -> Blob:
    """Rows times a constant matrix: InnerProduct along the last axis."""
    x, weights = node.blob(0), node.floats(1, "second factor")
    if weights.ndim != 2 or x.rank < 2 or weights.shape[0] != x.shape[-1]:
        raise RefusedError(f"multiplies {list(x.shape)} by {list(weights.shape)}; calib8 takes a constant matrix")
    param = {"num_output": weights.shape[1], "bias_term": False, "axis": -1}
    return w.one("InnerProduct", x, blobs=[weights.T], inner_product_param=param)
