"""The calibration table for tpu-mlir: its lines, its names, its signs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.engine import run_float
from calib8.errors import TableError
from calib8.export import tpu_mlir_names, tpu_mlir_table
from calib8.export.tpu_mlir import non_negative_values
from calib8.proto.text import parse_prototxt

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 4, 6, 6] } } }\n'
IN_PLACE = {
    "BatchNorm": "",
    "Scale": "scale_param { bias_term: true }",
    "ReLU": "",
    "Dropout": "",
    "PReLU": "",
    "Sigmoid": "",
}


def layer(kind, bottom, top, param="", name=None):
    return f'layer {{ name: "{name or kind}" type: "{kind}" bottom: "{bottom}" top: "{top}" {param} }}\n'


def vendors_names(text):
    """What tpu-mlir's converter does: every write of a blob puts a name on the blob's pile, but for Dropouts; then each
    layer in order takes the one on top."""
    piles = {}
    layers = parse_prototxt(text).net.layer
    for x in layers:
        for top in x.top if x.type != "Dropout" else ():
            pile = piles.setdefault(top, [])
            pile.append(f"{top}/{len(pile)}" if pile else top)
    return [piles[top].pop() for x in layers if x.type != "Dropout" for top in x.top]


@settings(max_examples=50)
@given(chains=st.lists(st.lists(st.sampled_from(sorted(IN_PLACE)), max_size=5), min_size=1, max_size=3))
def test_names_are_those_of_the_vendors_converter(random_model, chains):
    text, bottom = DATA, "data"
    for number, chain in enumerate(chains):
        blob = f"conv{number}"
        text += layer(
            "Convolution", bottom, blob, "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }", f"c{number}"
        )
        for place, kind in enumerate(chain):
            text += layer(kind, blob, blob, IN_PLACE[kind], f"{kind}{number}_{place}")
        bottom = blob
    model = random_model(text)
    assert list(tpu_mlir_names(model).values()) == vendors_names(text)


def test_lines(random_model):
    text = DATA + layer("Convolution", "data", "c", "convolution_param { num_output: 2 kernel_size: 1 }")
    text += layer("ReLU", "c", "c") + layer("Softmax", "c", "prob")
    model = random_model(text)
    thresholds = {"data": 2.5, "c@Convolution": 3.0, "c": 1 / 3, "prob": 1.0}
    table = tpu_mlir_table("my net", model, thresholds).decode()
    header = [line for line in table.splitlines() if line.startswith("#")]
    assert header and "my net" in header[0]
    assert table.splitlines()[len(header) :] == [
        "data 2.5000000 -2.5000000 2.5000000",
        "c/1 3.0000000 -3.0000000 3.0000000",
        "c 0.3333333 0.0000000 0.3333333",
        "prob 1.0000000 0.0000000 1.0000000",
    ]
    assert tpu_mlir_table("my net", model, thresholds).decode() == table


@given(threshold=st.floats(2.0**-120, 2.0**120))
def test_thresholds_keep_six_digits(random_model, threshold):
    model = random_model(DATA + layer("Sigmoid", "data", "y"))
    lines = tpu_mlir_table("net", model, {"data": threshold, "y": 1.0}).decode().splitlines()
    _, *numbers = next(line for line in lines if line.startswith("data")).split(" ")
    assert all(re.fullmatch(r"-?\d+\.\d{7,}", number) for number in numbers)
    found, low, high = map(float, numbers)
    assert found == pytest.approx(threshold, rel=1e-5) and (low, high) == (-found, found)


def test_names_that_the_table_cannot_hold(random_model):
    model = random_model(DATA + layer("ReLU", "data", "a b") + layer("Sigmoid", "a b", "c"))
    with pytest.raises(TableError, match="'a b' has a blank"):
        tpu_mlir_table("net", model, dict.fromkeys(model.shapes, 1.0))
    with pytest.raises(TableError, match="cannot hold"):
        tpu_mlir_table("two\nlines", random_model(DATA), {"data": 1.0})


def test_two_values_of_one_name(random_model):
    model = random_model(
        DATA + layer("ReLU", "data", "x/1") + layer("ReLU", "x/1", "x", name="a") + layer("ReLU", "x", "x", name="b")
    )
    with pytest.raises(TableError, match="two values would be called 'x/1'"):
        tpu_mlir_table("net", model, dict.fromkeys(model.shapes, 1.0))


SIGNS = DATA + "".join(
    [
        layer("ReLU", "data", "relu"),
        layer("AbsVal", "data", "abs"),
        layer("ReLU", "data", "leaky", "relu_param { negative_slope: 0.1 }", "leaky"),
        layer("ReLU", "relu", "leaky2", "relu_param { negative_slope: 0.1 }", "leaky2"),
        layer("ReLU6", "data", "relu6"),
        layer("Sigmoid", "data", "sigmoid"),
        layer("Softmax", "data", "softmax"),
        layer("LRN", "relu", "lrn"),
        layer("LRN", "data", "lrn2", name="lrn2"),
        layer("TanH", "data", "tanh"),
        layer("Pooling", "relu", "max", "pooling_param { kernel_size: 2 }", "max"),
        layer("Pooling", "data", "max2", "pooling_param { kernel_size: 2 }", "max2"),
        layer("Pooling", "relu", "ave", "pooling_param { pool: AVE kernel_size: 2 pad: 1 }", "ave"),
        layer("Eltwise", 'relu" bottom: "abs', "sum", name="sum"),
        layer("Eltwise", 'relu" bottom: "abs', "difference", "eltwise_param { coeff: 1 coeff: -1 }", "difference"),
        layer("Eltwise", 'relu" bottom: "data', "sum2", name="sum2"),
        layer("Eltwise", 'relu" bottom: "data', "largest", "eltwise_param { operation: MAX }", "largest"),
        layer("Eltwise", 'abs" bottom: "data', "product", "eltwise_param { operation: PROD }", "product"),
        layer("Concat", 'relu" bottom: "abs', "concat"),
        layer("Concat", 'relu" bottom: "data', "concat2", name="concat2"),
        layer("Flatten", "concat", "flat"),
        layer("Scale", "relu", "scale"),
    ]
)


def test_signs_are_true_and_told_where_layers_make_them(random_model):
    model = random_model(SIGNS)
    values = [value for value in model.shapes if value != "data"]
    seen = set(values)
    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal(model.shapes["data"]).astype(np.float32)
        seen -= {value for value, array in run_float(model, {"data": x}, values).items() if array.min() < 0}
    # Whatever the weights are, a Scale may turn signs.
    assert non_negative_values(model) == seen - {"scale"}
