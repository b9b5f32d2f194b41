"""TensorRT's calibration cache: what its calibrators write, and read instead of calibrating.

A line `TRT-VERSION-EntropyCalibration2`, then `TENSOR: SCALE` for every tensor of the network, SCALE the eight
hexadecimal digits of a float32: real units per code, threshold / 127. Tensors are those of the ONNX file in FP32, which
the cache belongs to; TensorRT computes in FP32 or FP16 where a tensor has no line.

TensorRT 8 to 10 read it; 11 has no calibrators and takes networks with QuantizeLinear and DequantizeLinear alone.
The format is not documented. Source: caches in public issues of NVIDIA/TensorRT (2036), and the calibrators of its
samples, whose `read_calibration_cache` and `write_calibration_cache` hand it over as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

HEADER = "TRT-8601-EntropyCalibration2"
_LEVELS = 127


def tensorrt_cache(proto: Any, thresholds: Mapping[str, float]) -> str:
    """Write the cache of an ONNX network.

    Args:
        proto: the network, as `onnx_export` makes it: its tensors have the names of values.
        thresholds: of every value, in real units.
    """
    graph = proto.graph
    tensors = [*(x.name for x in graph.input), *(name for node in graph.node for name in node.output)]
    scales = {name: thresholds[name] / _LEVELS for name in tensors if name in thresholds}
    return "\n".join([HEADER, *(f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()), ""])
