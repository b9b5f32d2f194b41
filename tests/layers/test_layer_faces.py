"""What layers tell about themselves: inputs' shapes, multiply-adds, and which of them move codes."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime as ort
import pytest

from calib8.errors import UnsupportedError
from calib8.layers import OnnxBuilder
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt


def model_of(shapes, layer_type, param="", tops=1):
    inputs = "".join(
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ '
        + " ".join(f"dim: {d}" for d in shape)
        + " } } }\n"
        for i, shape in enumerate(shapes)
    )
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(shapes)))
    names = " ".join(f'top: "y{i}"' for i in range(tops))
    return build_model(parse_prototxt(f'{inputs}layer {{ name: "l" type: "{layer_type}" {bottoms} {names} {param} }}'))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ('top: "a" input_param { shape { dim: 1 dim: 2 } }', [(1, 2)]),
        ('top: "a" top: "b" input_param { shape { dim: 3 } }', [(3,), (3,)]),
        ('top: "a" top: "b" input_param { shape { dim: 3 } shape { dim: 4 dim: 5 } }', [(3,), (4, 5)]),
        ('top: "a" input_param { shape { } }', [()]),
    ],
)
def test_shapes_of_an_input(text, shapes):
    model = build_model(parse_prototxt(f'layer {{ name: "i" type: "Input" {text} }}'))
    assert [model.shapes[v] for v in model.inputs] == shapes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('top: "a"', "has no input_param.shape"),
        ('top: "a" top: "b" top: "c" input_param { shape { dim: 1 } shape { dim: 2 } }', "has 2 shapes for 3 tops"),
        ('top: "a" input_param { shape { dim: -1 } }', "sizes must be at least 1"),
    ],
)
def test_inputs_refused(text, reason):
    with pytest.raises(UnsupportedError, match=reason):
        build_model(parse_prototxt(f'layer {{ name: "i" type: "Input" {text} }}'))


@pytest.mark.parametrize(
    ("layer_type", "shape", "param", "expected"),
    [
        ("Convolution", (2, 4, 5, 6), "num_output: 6 kernel_h: 3 kernel_w: 2 group: 2", 2 * 6 * 3 * 5 * 2 * 6),
        ("ConvolutionDepthwise", (1, 4, 5, 5), "kernel_size: 3", 4 * 9 * 9),
        ("Deconvolution", (2, 4, 5, 6), "num_output: 6 kernel_size: 3 group: 2", 2 * 4 * 5 * 6 * 3 * 9),
    ],
)
def test_multiply_adds_of_windows(layer_type, shape, param, expected):
    model = model_of([shape], layer_type, f"convolution_param {{ {param} }}")
    assert model.op_of["l"].multiply_adds(model.call(model.net.layer_by_name["l"])) == expected


def test_multiply_adds_of_an_inner_product():
    model = model_of([(3, 4, 5)], "InnerProduct", "inner_product_param { num_output: 7 }")
    assert model.op_of["l"].multiply_adds(model.call(model.net.layer_by_name["l"])) == 3 * 20 * 7


@pytest.mark.parametrize(
    ("layer_type", "shapes", "param", "tops", "passive"),
    [
        ("Concat", [(2, 3, 4), (2, 1, 4)], "", 1, False),
        ("Slice", [(2, 3, 4)], "slice_param { slice_point: 1 }", 2, True),
        ("Crop", [(2, 3, 4), (2, 2, 2)], "crop_param { axis: 1 offset: 1 }", 1, True),
    ],
)
def test_parts_move_codes(run_layer, layer_type, shapes, param, tops, passive):
    model = model_of(shapes, layer_type, param, tops)
    op = model.op_of["l"]
    assert (op.moves_data, op.passive) == (True, passive)
    codes = [(np.arange(math.prod(s)) + 100 * i).astype(np.uint8).reshape(s) for i, s in enumerate(shapes)]
    g = OnnxBuilder()
    names = [g.input(s, np.uint8) for s in shapes]
    outputs = op.lower(g, model.call(model.net.layer_by_name["l"], names))
    onnx, _ = g.model([(y, np.uint8) for y in outputs])
    session = ort.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    moved = session.run(None, dict(zip(names, codes, strict=True)))
    found = run_layer(layer_type, *codes, param=param, tops=tops)
    for ours, in_float in zip(moved, found if tops > 1 else [found], strict=True):
        assert ours.dtype == np.uint8
        assert np.array_equal(ours, in_float)
