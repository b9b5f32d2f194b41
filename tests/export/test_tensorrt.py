"""TensorRT's calibration cache, read back as its public readers do: a name, a colon, eight hexadecimal digits."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

from calib8.errors import OptionError
from calib8.export import onnx_export, write_format
from calib8.export.tensorrt import HEADER, tensorrt_cache
from calib8.lowering import fold_channel_affines
from calib8.quantize import make_plan

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 4, 8, 8] } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "a/b" type: "Pooling" bottom: "c" top: "a/b" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "prob" type: "Softmax" bottom: "a/b" top: "prob" }
"""


def read(text):
    header, *lines = text.splitlines()
    found = {}
    for line in lines:
        name, digits = re.fullmatch(r"(.+): ([0-9a-f]{8})", line).groups()
        (found[name],) = struct.unpack("!f", bytes.fromhex(digits))
    return header, found


def test_every_tensor_of_the_network_in_fp32_has_its_scale(random_model):
    model = random_model(NET)
    thresholds = {"data": 2.0, "c@c": 9.0, "c@bn": 3.0, "c": 3.0, "a/b": 1e-4, "prob": 1.0}
    proto = onnx_export("net", fold_channel_affines(model)).proto
    header, scales = read(tensorrt_cache(proto, thresholds))
    assert header == HEADER and re.fullmatch(r"TRT-8\d{3}-EntropyCalibration2", header)
    tensors = {*(x.name for x in proto.graph.input), *(name for node in proto.graph.node for name in node.output)}
    assert set(scales) == tensors == {"data", "c@bn", "c", "a/b", "prob"}
    for name, scale in scales.items():
        assert scale == np.float32(thresholds[name] / 127)


PUBLISHED = """TRT-8601-EntropyCalibration2
images: 3b66eddc
168: 3dc6cf6e
193: 3dc40000
"""  # from a cache that TensorRT 8.6.1 has written, ultralytics/ultralytics issue 14121


def test_a_published_cache_is_read_as_ours_is(random_model):
    """The same reader for both: a name, a float32 with the byte that has the sign first, real units for each code."""
    header, scales = read(PUBLISHED)
    assert header == HEADER and scales["193"] == 0.095703125
    assert 0.44 < 127 * scales["images"] < 0.46 and 12 < 127 * scales["168"] < 13
    model = random_model(NET)
    thresholds = dict.fromkeys(model.shapes, 127 * scales["193"])
    cache = tensorrt_cache(onnx_export("net", model).proto, thresholds)
    assert cache.endswith("prob: 3dc40000\n") and cache.count("\n") == len(cache.splitlines())


def test_files(random_model, tmp_path):
    model = random_model(NET)
    plan = make_plan(model, dict.fromkeys(model.shapes, 2.0))
    paths = write_format(tmp_path, "tensorrt", "net", model, plan)
    assert [path.name for path in paths] == ["net_float.onnx", "net.cache"]
    _, scales = read(paths[1].read_text())
    assert scales["data"] == np.float32(plan.thresholds["data"] / 127)
    with pytest.raises(OptionError, match="calibrate it first"):
        write_format(tmp_path, "tensorrt", "net", model)
