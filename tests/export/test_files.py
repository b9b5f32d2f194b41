"""Writing a plan and reading it back, over networks with every kind of row; and files that do not fit."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.errors import CaffemodelError, Calib8Error, OptionError, TableError
from calib8.export import read_plan, table_message, write_calibration_files, write_calibration_table, write_int8_model
from calib8.layers import same_integers
from calib8.lowering import build_model
from calib8.proto import calibration_pb2
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import parse_prototxt
from calib8.quantize import make_plan, observed_values

EVERYTHING = """
name: "everything"
layer { name: "data" type: "Input" top: "x" top: "im_info"
  input_param { shape { dim: 1 dim: 4 dim: 8 dim: 8 } shape { dim: 1 dim: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "scale" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
layer { name: "pool" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "leaky" type: "ReLU" bottom: "p" top: "l" relu_param { negative_slope: 0.25 } }
layer { name: "prelu" type: "PReLU" bottom: "p" top: "q" }
layer { name: "sum" type: "Eltwise" bottom: "l" bottom: "q" top: "e" }
layer { name: "cat" type: "Concat" bottom: "e" bottom: "q" top: "k" }
layer { name: "alone" type: "Scale" bottom: "k" top: "a" }
layer { name: "ip" type: "InnerProduct" bottom: "a" top: "i" inner_product_param { num_output: 3 } }
layer { name: "two" type: "Scale" bottom: "i" bottom: "im_info" top: "t" scale_param { axis: 0 bias_term: true } }
layer { name: "prob" type: "Softmax" bottom: "t" top: "prob" }
layer { name: "quiet" type: "Silence" bottom: "a" }
"""


@pytest.fixture(scope="module")
def everything(random_model):
    return random_model(EVERYTHING)


def plan_for(model, concat=False, factor=1.0):
    """A plan whose thresholds grow from layer to layer, so that no layer overflows."""
    observed = observed_values(model, concat)
    return make_plan(model, {v: factor * 1.37 * 1.21**i for i, v in enumerate(observed)}, concat)


def assert_same(plan, other):
    assert dict(plan.thresholds) == dict(other.thresholds)
    assert plan.enable_concat_quantize == other.enable_concat_quantize
    assert list(plan.forms) == list(other.forms)
    for name, own in plan.forms.items():
        read = other.forms[name]
        assert (own is None) == (read is None), name
        if own is None:
            continue
        assert same_integers(own, read), name
        assert [(b.dtype, b.shape, b.tobytes()) for b in own.blobs] == [
            (b.dtype, b.shape, b.tobytes()) for b in read.blobs
        ], name


def test_the_network_has_every_kind_of_row(everything):
    plans = plan_for(everything, concat=True).forms
    assert plans["two"] is None and plans["prob"] is None
    kinds = {name: type(plans[name]).__name__ for name in ("leaky", "prelu", "cat", "scale", "bn", "sum", "pool", "ip")}
    assert kinds == {
        "leaky": "LeakyForm", "prelu": "PReluForm", "cat": "ConcatForm", "scale": "Skipped", "bn": "AffineChannels",
        "sum": "EltwiseForm", "pool": "PoolingForm", "ip": "WeightedSum",
    }  # fmt: skip
    assert plans["cat"].rshifts and plans["alone"].rshift is not None


@settings(max_examples=15, deadline=None)
@given(concat=st.booleans(), factor=st.floats(2.0**-20, 2.0**20, width=32))
@pytest.mark.parametrize("suffix", [".pb2", ".prototxt"])
def test_what_is_written_is_read_back(everything, tmp_path_factory, suffix, concat, factor):
    folder = tmp_path_factory.mktemp("files")
    plan = plan_for(everything, concat, factor)
    weights, table, *_ = write_calibration_files(folder, "net", everything, plan)
    assert_same(plan, read_plan(everything, f"{table}{suffix}", weights))


def test_a_plain_table_gives_the_same_integers(everything, tmp_path):
    plan = plan_for(everything)
    write_calibration_table(tmp_path / "t", "net", everything, plan)
    read = read_plan(everything, tmp_path / "t")
    assert not [w for w in read.warnings if "for its top" in w]  # decimals are not quite the thresholds
    for name, own in plan.forms.items():
        if own is not None:
            assert [b.tobytes() for b in own.blobs] == [b.tobytes() for b in read.forms[name].blobs], name


def test_rows_of_the_table(everything):
    message = table_message("net", everything, plan_for(everything, concat=True))
    rows = {row.name: row for row in message.layer}
    assert [row.name for row in message.layer] == [layer.name for layer in everything.net.layers]
    assert [b.name for b in rows["data"].blob_param] == ["x", "im_info"]
    assert [list(rows[n].top_unsigned) for n in ("data", "conv", "quiet")] == [[False] * 2, [False], []]
    assert list(rows["sum"].bottom_unsigned) == [False] * 2
    # In place, every layer has the row of its own value under the blob's name.
    assert [rows[n].blob_param[0].name for n in ("conv", "bn", "scale", "relu")] == ["c"] * 4
    assert rows["conv"].threshold_y != rows["bn"].threshold_y
    assert rows["bn"].threshold_y == rows["scale"].threshold_y == rows["relu"].threshold_y
    assert rows["bn"].right_shift_width == rows["scale"].right_shift_width
    assert rows["scale"].fusion_skipped == 1 and not rows["bn"].HasField("fusion_skipped")
    assert rows["cat"].concat_param.need_quantize_num == 2
    with_shift = {n for n, row in rows.items() if row.HasField("right_shift_width")}
    assert with_shift == {"conv", "bn", "scale", "pool", "sum", "alone", "ip"}


def test_the_int8_model_holds_the_layers_of_the_prototxt(everything, tmp_path):
    plan = plan_for(everything)
    write_int8_model(tmp_path / "m", everything, plan)
    stored = {layer.name: layer for layer in read_caffemodel(tmp_path / "m").layers}
    assert [(x.name, x.type) for x in stored.values()] == [(x.name, x.type) for x in everything.net.layers]
    # A layer that stays in FP32 keeps its float weights.
    np.testing.assert_array_equal(stored["two"].blobs[0], everything.net.layer_by_name["two"].blobs[0])
    shift, scale, one = plan.forms["bn"].blobs
    np.testing.assert_array_equal(stored["bn"].blobs[0], shift)
    np.testing.assert_array_equal(stored["bn"].blobs[1], scale)
    assert one.tolist() == stored["bn"].blobs[2].tolist() == [1.0]
    assert stored["scale"].blobs[0].tolist() == [1.0] * 4 and stored["scale"].blobs[1].tolist() == [0.0] * 4
    assert np.abs(stored["conv"].blobs[0]).max() >= 64


def test_plain_lines_are_in_the_order_of_the_layers(everything, tmp_path):
    plan = plan_for(everything)
    write_calibration_table(tmp_path / "t", "net", everything, plan)
    lines = [line.split(" ") for line in (tmp_path / "t").read_text().splitlines()]
    with_tops = [layer for layer in everything.net.layers if layer.tops]
    assert [name for name, _, _ in lines] == [layer.name for layer in with_tops]
    for layer, (name, threshold, shift) in zip(with_tops, lines, strict=True):
        assert np.float32(threshold) == np.float32(plan.thresholds[layer.tops[0]])
        own = plan.forms[name]
        shifts = {"pool": "zero", "leaky": "le_rshift", "prelu": "le_rshift"}
        assert int(shift) == getattr(own, shifts.get(name, "rshift"), 0)


def table_with(everything, tmp_path, change):
    message = table_message("net", everything, plan_for(everything))
    change(message, {row.name: row for row in message.layer})
    path = tmp_path / "t.prototxt"
    path.write_text(text_format.MessageToString(message))
    return path


def problems_of(model, *paths) -> str:
    with pytest.raises(TableError) as error:
        read_plan(model, *paths)
    return "\n".join(error.value.problems)


def test_names_that_do_not_fit_are_all_listed(everything, tmp_path):
    def change(message, rows):
        rows["conv"].name = "convolution"
        rows["ip"].name = "fc"

    found = problems_of(everything, table_with(everything, tmp_path, change))
    for part in ("no row for layer 'conv'", "no row for layer 'ip'", "no layer 'convolution'", "no layer 'fc'"):
        assert part in found


@pytest.mark.parametrize(
    ("layer", "damage", "expected"),
    [
        ("conv", lambda r: r.ClearField("right_shift_width"), "layer 'conv' has no right_shift_width"),
        ("conv", lambda r: setattr(r, "right_shift_width", 32), "layer 'conv' has right_shift_width 32"),
        ("conv", lambda r: setattr(r, "right_shift_width", -1), "expected 0 to 31"),
        ("pool", lambda r: r.ClearField("threshold_x_quantized"), "layer 'pool' has 0 threshold_x_quantized"),
        ("sum", lambda r: r.threshold_x_quantized.append(3), "has 3 threshold_x_quantized, expected 2"),
        ("sum", lambda r: r.threshold_x_quantized.__setitem__(0, 256), "has threshold_x_quantized 256"),
        ("leaky", lambda r: r.ClearField("relu_param"), "layer 'leaky' has no relu_param"),
        ("leaky", lambda r: setattr(r.relu_param, "gt_scale", 128), "has gt_scale 128, expected -128 to 127"),
        ("leaky", lambda r: setattr(r.relu_param, "le_right_shift_width", -1), "le_right_shift_width -1, expected 0"),
        ("prelu", lambda r: r.ClearField("prelu_param"), "layer 'prelu' has no prelu_param"),
        ("prelu", lambda r: setattr(r.prelu_param, "le_right_shift_width", 32), "has le_right_shift_width 32"),
        ("alone", lambda r: setattr(r, "fusion_skipped", 1), "layer 'alone' has fusion_skipped"),
        (
            "cat",
            lambda r: setattr(r.concat_param, "need_quantize_num", 1),
            "layer 'cat' has 2 multipliers and 3 shifts",
        ),
    ],
)
def test_rows_that_do_not_fit_their_layers(everything, tmp_path, layer, damage, expected):
    def change(message, rows):
        rows["cat"].concat_param.need_quantize_num = 0
        rows["cat"].concat_param.right_shift_width[:] = [1, 2, 3]
        rows["cat"].concat_param.threshold_x_quantized[:] = [1, 2]
        damage(rows[layer])

    assert expected in problems_of(everything, table_with(everything, tmp_path, change))


def test_unsigned_codes_are_refused(everything, tmp_path):
    def change(message, rows):
        rows["conv"].top_unsigned[0] = True
        rows["sum"].bottom_unsigned[1] = True

    expected = (
        "layer 'conv' has top_unsigned true; expected false\nlayer 'sum' has bottom_unsigned true; expected false"
    )
    assert problems_of(everything, table_with(everything, tmp_path, change)) == expected


def test_parameters_of_fused_layers_are_named(everything, tmp_path):
    def change(message, rows):
        rows["conv"].convolution_param.bn_right_shift_width = 3
        rows["pool"].convolution_param.SetInParent()  # holds nothing

    warnings = read_plan(everything, table_with(everything, tmp_path, change)).warnings
    assert [w for w in warnings if "not read" in w] == ["layer 'conv': its convolution_param in the table is not read"]


def test_a_passive_layer_with_a_threshold_of_its_own_is_named(tmp_path):
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }\n'
    text += 'layer { name: "f" type: "Flatten" bottom: "x" top: "f" flatten_param { axis: 0 } }\n'
    model = build_model(parse_prototxt(text), {})
    table = tmp_path / "plain"
    table.write_text("f 2 0\nx 3 0\n")
    assert "layer 'f': the table has 2 " in read_plan(model, table).warnings[0]


def test_a_data_layer_of_another_name_is_found_by_its_blob(random_model, tmp_path):
    trained = 'layer { name: "mnist" type: "Input" top: "data" top: "label" input_param { shape { dim: 1 dim: 2 } } }\n'
    used = 'layer { name: "input" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }\n'
    rest = 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }'
    before = random_model(trained + rest)
    plan = plan_for(before)
    write_calibration_table(tmp_path / "t", "net", before, plan)
    read = read_plan(random_model(used + rest), tmp_path / "t.pb2")
    assert read.thresholds == {"data": plan.thresholds["data"], "ip": plan.thresholds["ip"]}


TWO_TOPS = (
    'layer { name: "data" type: "Input" top: "data" top: "info" '
    "input_param { shape { dim: 1 dim: 2 } shape { dim: 1 dim: 2 } } }\n"
)
TWO_LAYERS = (
    'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }\n'
    'layer { name: "info" type: "Input" top: "info" input_param { shape { dim: 1 dim: 2 } } }\n'
)


@pytest.mark.parametrize(("made_with", "used"), [(TWO_TOPS, TWO_LAYERS), (TWO_LAYERS, TWO_TOPS)])
def test_inputs_may_come_from_more_data_layers_or_fewer(random_model, tmp_path, made_with, used):
    rest = 'layer { name: "cat" type: "Concat" bottom: "data" bottom: "info" top: "cat" }'
    before = random_model(made_with + rest)
    plan = plan_for(before, concat=True)
    write_calibration_table(tmp_path / "t", "net", before, plan)
    assert dict(read_plan(random_model(used + rest), tmp_path / "t.pb2").thresholds) == dict(plan.thresholds)


def test_an_input_that_no_row_names(random_model, tmp_path):
    before = random_model(TWO_LAYERS + 'layer { name: "s" type: "Softmax" bottom: "data" top: "s" }')
    write_calibration_table(tmp_path / "t", "net", before, plan_for(before))
    other = TWO_LAYERS.replace('"info"', '"other"')
    found = problems_of(
        random_model(other + 'layer { name: "s" type: "Softmax" bottom: "data" top: "s" }'), tmp_path / "t.pb2"
    )
    assert found == "no row for layer 'other' (Input)\nthe network has no layer 'info'"


def test_rows_of_layers_that_only_measure_are_no_strangers(random_model, tmp_path):
    text = (
        'layer { name: "data" type: "Input" top: "data" top: "label" input_param { shape { dim: 1 dim: 2 } } }\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }\n'
        'layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" }\n'
    )
    model = random_model(text)
    message = table_message("net", model, plan_for(model))
    message.layer.add(name="acc").threshold_y.append(1.0)
    (tmp_path / "t.pb2").write_bytes(message.SerializeToString())
    assert "ip" in read_plan(model, tmp_path / "t.pb2").forms
    message.layer.add(name="acc2").threshold_y.append(1.0)
    (tmp_path / "t.pb2").write_bytes(message.SerializeToString())
    assert problems_of(model, tmp_path / "t.pb2") == "the network has no layer 'acc2'"


def test_a_plain_table_that_does_not_fit(everything, tmp_path):
    plan = plan_for(everything)
    write_calibration_table(tmp_path / "t", "net", everything, plan)
    lines = (tmp_path / "t").read_text().splitlines()
    (tmp_path / "t").write_text("\n".join([*lines[1:], "stranger 1.0 0", "conv one 0"]))
    found = problems_of(everything, tmp_path / "t")
    assert "no line for layer 'data' (Input)" in found
    assert "no layer 'stranger'" in found
    assert f"line {len(lines) + 1} is 'conv one 0'" in found


def test_names_with_spaces_survive_the_plain_table(random_model, tmp_path):
    model = random_model(
        'layer { name: "the data" type: "Input" top: "x y" input_param { shape { dim: 1 dim: 2 } } }\n'
        'layer { name: "a / b" type: "Softmax" bottom: "x y" top: "z" }\n'
    )
    plan = plan_for(model)
    write_calibration_table(tmp_path / "t", "net", model, plan)
    read = read_plan(model, tmp_path / "t")
    assert {v: np.float32(t) for v, t in read.thresholds.items()} == plan.thresholds


def test_the_fp32_model_is_no_int8_model(everything, tmp_path):
    plan = plan_for(everything)
    write_calibration_table(tmp_path / "t", "net", everything, plan)
    write_int8_model(tmp_path / "m", everything, replace(plan, forms=dict.fromkeys(plan.forms)))
    found = problems_of(everything, tmp_path / "t.pb2", tmp_path / "m")
    assert "layer 'conv' has" in found and "expected integers from -128 to 127" in found


@pytest.mark.parametrize("value", [0.5, 128.0, -129.0, 300.0, np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_int8(everything, tmp_path, value):
    plan = plan_for(everything)
    write_calibration_table(tmp_path / "t", "net", everything, plan)
    blobs = [b.astype(np.float32) for b in plan.forms["conv"].blobs]  # weights, bias
    blobs[0].flat[-1] = value
    damaged = plan.forms["conv"].with_blobs(blobs)
    write_int8_model(tmp_path / "m", everything, replace(plan, forms={**plan.forms, "conv": damaged}))
    assert f"layer 'conv' has {value:.6g} in blob 0" in problems_of(everything, tmp_path / "t.pb2", tmp_path / "m")


def test_the_int8_model_of_another_network(everything, random_model, tmp_path):
    other = random_model(
        EVERYTHING.replace("num_output: 3", "num_output: 7")
        .replace("dim: 3", "dim: 7")
        .replace('name: "alone"', 'name: "solo"')
    )
    write_calibration_table(tmp_path / "t", "net", everything, plan_for(everything))
    write_int8_model(tmp_path / "m", other, plan_for(other))
    found = problems_of(everything, tmp_path / "t.pb2", tmp_path / "m")
    assert "layer 'solo' is not in the network" in found
    assert "layer 'alone' is not in the caffemodel" in found
    assert "layer 'ip' has blob 0 of shape 7x" in found


BROKEN = {
    "empty": b"",
    "binary": bytes(range(256)),
    "another message": b"\x0a\x05lenet",
    "text without rows": b'name: "lenet"\n',
    "a prototxt": b'layer { name: "a" type: "Input" top: "a" }',
    "half a text": b'layer { name: "a" threshold_y: 1.0',
    "rows twice": b'layer { name: "a" } layer { name: "a" }',
    "row without a name": b"layer { threshold_y: 1 }",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_files_that_are_no_table(everything, tmp_path, kind):
    path = tmp_path / "t"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(TableError, match="t: "):
        read_plan(everything, path)


def test_a_table_that_is_not_there(everything, tmp_path):
    with pytest.raises(TableError, match="nowhere: cannot be read"):
        read_plan(everything, tmp_path / "nowhere")
    with pytest.raises(TableError, match="not a regular file"):
        read_plan(everything, tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_tables_give_errors_and_nothing_else(everything, tmp_path_factory, data):
    whole = table_message("net", everything, plan_for(everything)).SerializeToString()
    path = tmp_path_factory.mktemp("damaged") / "t.pb2"
    place = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place] + data.draw(st.binary(max_size=4)) + whole[place + data.draw(st.integers(0, 4)) :])
    try:
        read_plan(everything, path)
    except Calib8Error as error:
        assert str(error)


def test_nothing_is_written_when_one_file_cannot_be(everything, tmp_path):
    (tmp_path / "bmnet_net_calibration_table.prototxt").mkdir()
    plan = plan_for(everything)
    with pytest.raises(OptionError, match="it is a folder"):
        write_calibration_files(tmp_path, "net", everything, plan)
    assert [p.name for p in tmp_path.iterdir()] == ["bmnet_net_calibration_table.prototxt"]
    with pytest.raises(OptionError, match="choose a folder that exists"):
        write_calibration_files(tmp_path / "nowhere", "net", everything, plan)


def test_old_files_stay_when_new_ones_fail(everything, tmp_path, monkeypatch):
    plan = plan_for(everything)
    paths = write_calibration_files(tmp_path, "net", everything, plan)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(paths) < set(before)

    def no_room(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OptionError, match="No space"):
        write_calibration_files(tmp_path, "net", everything, plan_for(everything, factor=2.0))
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_model_name_that_is_no_text(everything, tmp_path):
    with pytest.raises(OptionError, match="not valid Unicode"):
        write_calibration_table(tmp_path / "t", "\udcff", everything, plan_for(everything))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_int8_model(everything, tmp_path):
    write_calibration_table(tmp_path / "t", "net", everything, plan_for(everything))
    (tmp_path / "m").write_bytes(b"\x00\x01\x02")
    with pytest.raises(CaffemodelError):
        read_plan(everything, tmp_path / "t.pb2", tmp_path / "m")


def test_text_and_binary_are_the_same_message(everything, tmp_path):
    write_calibration_table(tmp_path / "t", "net", everything, plan_for(everything))
    binary = calibration_pb2.NetCalibrationParameter.FromString((tmp_path / "t.pb2").read_bytes())
    text = (tmp_path / "t.prototxt").read_text()
    assert text_format.Parse(text, calibration_pb2.NetCalibrationParameter()) == binary
