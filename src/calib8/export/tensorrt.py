"""TensorRT's calibration cache: what its calibrators write, and read instead of calibrating.

A line `TRT-VERSION-EntropyCalibration2`, then `TENSOR: SCALE` for every tensor of the network, SCALE the eight
hexadecimal digits of a float32: real units per code, threshold / 127. Tensors are those of the ONNX file in FP32, which
the cache belongs to; TensorRT computes in FP32 or FP16 where a tensor has no line.

TensorRT 8 to 10 read it; 11 has no calibrators and takes networks with QuantizeLinear and DequantizeLinear alone.
VERSION is NV_TENSORRT_VERSION of the writer: 1000 * major + 100 * minor + patch up to TensorRT 9 (8.6.1 is 8601), 10000
* major from TensorRT 10 on (10.9.0 is 100900). Public writers put any into it, even `8XXX`.
The format is not documented. Source: caches in public issues (NVIDIA/TensorRT 2036, ultralytics 14121), public
readers and writers of them (NVIDIA-AI-IOT's samples for YOLO), and the calibrators of TensorRT's samples, whose
`read_calibration_cache` and `write_calibration_cache` hand it over as it is.
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
