"""ONNX models as networks of Caffe's layers: `read_onnx`.

- `file`: the file, which nobody has checked; `tensors`: its weights, from it or from files beside it
- `node`: a node with its inputs and attributes, of which every one must be read
- `operators`: ONNX operators as layers, one function each
- `folding`: constants of constants, as exporters leave them around shapes
- `writer`: the layers that come out; `shaping`: other shapes and repetition around them
- `convert`: the walk over the graph, and everything that cannot be taken

Why a conversion, and not ONNX nodes side by side with layers: docs/decisions/0025-onnx-in.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib8.lazy import lazily

if TYPE_CHECKING:
    from calib8.onnx_in.convert import OnnxNetwork, open_inputs, read_onnx

__all__ = ["OnnxNetwork", "open_inputs", "read_onnx"]

__getattr__ = lazily(
    __name__,
    {
        "convert": "OnnxNetwork open_inputs read_onnx",
    },
)
