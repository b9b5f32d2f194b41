"""The calibration table for tpu-mlir: its lines, its names, its signs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.engine import run_float
from calib8.errors import TableError
from calib8.export import tpu_mlir_files, tpu_mlir_names
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


def table_of(text, model, thresholds, name="net"):
    return tpu_mlir_files(name, model, thresholds).calibration_table.decode()


def rows_of(table):
    return {line.split(" ")[0]: line.split(" ")[1:] for line in table.splitlines() if not line.startswith("#")}


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


def test_layers_of_other_phases_count_in_names(random_model):
    """As ERFNet's prototxt has its BatchNorms; seen in a .mlir of tpu-mlir 1.30."""
    text = DATA + layer("Convolution", "data", "x", "convolution_param { num_output: 4 kernel_size: 3 }")
    for phase in ("TRAIN", "TEST"):
        text += layer("BatchNorm", "x", "x", f"include {{ phase: {phase} }}", f"bn_{phase}")
    text += layer("ReLU", "x", "x")
    found = tpu_mlir_names(random_model(text))
    assert list(found.values()) == ["data", "x/3", "x/2", "x/1"]


def test_dropouts_count_in_names_of_v1(random_model):
    """As tpu-mlir 1.30 does it."""
    text = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n' + "".join(
        f'layers {{ name: "{kind}" type: {kind} bottom: "{bottom}" top: "x" {param} }}\n'
        for kind, bottom, param in (
            ("CONVOLUTION", "data", "convolution_param { num_output: 4 kernel_size: 3 }"),
            ("RELU", "x", ""),
            ("DROPOUT", "x", ""),
        )
    )
    found = tpu_mlir_names(random_model(text))
    assert list(found.values()) == ["data", "x/2", "x/1"]


def test_a_relu_behind_a_concat_has_lines_for_where_it_goes(random_model):
    """Names as tpu-mlir 1.30 gives them, seen in RetinaFace's .mlir."""
    text = DATA + layer("Sigmoid", "data", "a") + layer("TanH", "data", "b")
    text += layer("Concat", 'a" bottom: "b', "c") + layer("ReLU", "c", "c")
    model = random_model(text)
    rows = rows_of(table_of(text, model, {"data": 1.0, "a": 2.0, "b": 3.0, "c@Concat": 4.0, "c": 5.0}))
    for name, threshold in (("a_move_ahead_relu", 2), ("b_move_ahead_relu", 3), ("c/1_relu", 5)):
        assert list(map(float, rows[name])) == [threshold, 0, threshold]
    shared = text.replace('"ReLU" bottom: "c" top: "c"', '"ReLU" bottom: "c" top: "r"') + layer("AbsVal", "c", "d")
    model = random_model(shared)
    assert not any("ahead" in name for name in rows_of(table_of(shared, model, dict.fromkeys(model.shapes, 1.0))))


def test_parts_of_a_normalize_stay_out_of_int8(random_model):
    """Names as tpu-mlir 1.30 gives them, seen in an SSD's .mlir."""
    text = DATA + layer("Normalize", "data", "n", "norm_param { across_spatial: false }")
    model = random_model(text)
    files = tpu_mlir_files("net", model, {"data": 3.0, "n": 7.0})
    rows = rows_of(files.calibration_table.decode())
    assert float(rows["n_scale"][0]) == 7
    lines = [line for line in files.quantize_table.decode().splitlines() if not line.startswith("#")]
    assert lines == [f"n_{part} F32" for part in ("square", "conv", "sqrt", "reciprocal", "mul")]
    assert {line.split()[0] for line in lines} < set(rows)
    plain = tpu_mlir_files("net", random_model(DATA), {"data": 1.0})
    assert plain.quantize_table == b""


def test_lines(random_model):
    text = DATA + layer("Convolution", "data", "c", "convolution_param { num_output: 2 kernel_size: 1 }")
    text += layer("ReLU", "c", "c") + layer("Softmax", "c", "prob")
    model = random_model(text)
    thresholds = {"data": 2.5, "c@Convolution": 3.0, "c": 1 / 3, "prob": 1.0}
    table = table_of(text, model, thresholds, "my net")
    header = [line for line in table.splitlines() if line.startswith("#")]
    assert header and "my net" in header[0]
    assert table.splitlines()[len(header) :] == [
        "data 2.5000000 -2.5000000 2.5000000",
        "c/1 3.0000000 -3.0000000 3.0000000",
        "c 0.3333333 0.0000000 0.3333333",
        "prob 1.0000000 0.0000000 1.0000000",
    ]
    assert table_of(text, model, thresholds, "my net") == table


@given(threshold=st.floats(2.0**-120, 2.0**120))
def test_thresholds_keep_six_digits(random_model, threshold):
    numbers = rows_of(table_of(DATA, random_model(DATA), {"data": threshold}))["data"]
    assert all(re.fullmatch(r"-?\d+\.\d{7,}", number) for number in numbers)
    found, low, high = map(float, numbers)
    assert found == pytest.approx(threshold, rel=1e-5) and (low, high) == (-found, found)


def test_names_that_the_table_cannot_hold(random_model):
    text = DATA + layer("ReLU", "data", "a b") + layer("Sigmoid", "a b", "c")
    model = random_model(text)
    with pytest.raises(TableError, match="'a b' has a blank"):
        table_of(text, model, dict.fromkeys(model.shapes, 1.0))
    with pytest.raises(TableError, match="cannot hold"):
        table_of(DATA, random_model(DATA), {"data": 1.0}, "two\nlines")


def test_two_values_of_one_name(random_model):
    text = DATA + layer("ReLU", "data", "x/1") + layer("ReLU", "x/1", "x", name="a") + layer("ReLU", "x", "x", name="b")
    model = random_model(text)
    with pytest.raises(TableError, match="two values would be called 'x/1'"):
        table_of(text, model, dict.fromkeys(model.shapes, 1.0))


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
