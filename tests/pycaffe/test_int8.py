"""`net.int8_init` from the files of a calibration, `blob.int8`, quantised input, and `caffe.yolo()`."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

import caffe
from caffe.proto import caffe_pb2
from caffe.proto.bmnet.common_calibration_pb2 import NetCalibrationParameter
from calib8 import Calibration
from calib8.engine import run_int8
from calib8.errors import CaffemodelError, OptionError, TableError
from calib8.lowering.readings import Codes
from calib8.pycaffe import net as net_module
from calib8.pycaffe import state
from calib8.pycaffe.int8 import looks_real
from calib8.quantize import integer_setup

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A folder with the network, its int8 files and prototxts with Input layers, and the calibration itself."""
    folder = tmp_path_factory.mktemp("int8") / "digits"
    shutil.copytree(DIGITS, folder, ignore=shutil.ignore_patterns("bmnet_*"))
    calibration = Calibration(
        {
            "model_name": "digits",
            "in_prototxt": folder / "deploy.prototxt",
            "in_caffemodel": folder / "custom.caffemodel",
            "iteration": 60,
        },
        method="mse",
    )
    calibration.calc_tables()
    calibration.export(folder)
    text = (folder / "deploy.prototxt").read_text()
    begin, end = text.index("layer {"), text.index("# 1x8x8")
    for name, enable in (("real", "enable_quantize: 1"), ("codes", "")):
        parameters = f"input_param {{ shape {{ dim: [4, 1, 8, 8] }} {enable} }}"
        data = f'layer {{ name: "data" type: "Input" top: "data" {parameters} }}\n'
        (folder / f"{name}.prototxt").write_text(text[:begin] + data + text[end:])
    return folder, calibration


@pytest.fixture
def images():
    return (np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8)) - 128).astype(np.float32) / 128


def net_of(folder, name="real"):
    return caffe.Net(str(folder / f"{name}.prototxt"), str(folder / "custom.caffemodel"), caffe.TEST)


def int8_init(net, folder, layers="", name="real", table=".pb2"):
    net.int8_init(
        str(folder / f"{name}.prototxt"),
        str(folder / "bmnet_digits_int8.caffemodel"),
        str(folder / f"bmnet_digits_calibration_table{table}"),
        layers,
    )


def values_of(net, images):
    net.blobs["data"].data[...] = images
    net.forward()
    return {name: blob.data.copy() for name, blob in net.blobs.items()}


@pytest.mark.parametrize("table", [".pb2", ".prototxt", ""])
def test_files_give_the_integers_of_the_calibration_in_memory(calibrated, images, table):
    folder, calibration = calibrated
    net = net_of(folder)
    int8_init(net, folder, table=table)
    net.blobs["data"].data[...] = images
    net.forward()
    setup = integer_setup(calibration.model, calibration.plan)
    real = replace(setup, quantized_inputs=frozenset())
    values = ["pool1", "sum", "concat3", "ip"]
    batch = np.concatenate([images, np.zeros((6, 1, 8, 8), np.float32)])
    codes = run_int8(calibration.model, real, {"data": batch}, [Codes(value) for value in values])
    for value in values:
        expected = codes[Codes(value)][:4].astype(np.int16) - 128
        assert np.array_equal(net.blobs[value].int8, expected), value
        assert len(np.unique(expected)) > 10


def test_real_units_in_both_modes(calibrated, images):
    folder, _ = calibrated
    net = net_of(folder)
    fp32 = values_of(net, images)
    int8_init(net, folder)
    int8 = values_of(net, images)
    assert fp32.keys() == int8.keys()
    for name, values in fp32.items():
        assert values.shape == int8[name].shape
        noise = np.linalg.norm(values - int8[name]) / np.linalg.norm(values)
        assert noise < 0.2, name
    changed = [name for name in fp32 if name != "data" and not np.array_equal(fp32[name], int8[name])]
    assert len(changed) == len(fp32) - 1
    assert (fp32["prob"].argmax(axis=1) == int8["prob"].argmax(axis=1)).mean() >= 0.75


def test_the_guide_s_loop(calibrated, images):
    """Layer by layer, as section 5.3 of the guide writes it."""
    folder, _ = calibrated
    proto_path, model_path = str(folder / "real.prototxt"), str(folder / "custom.caffemodel")
    calibration_model = str(folder / "bmnet_digits_int8.caffemodel")
    calibration_proto = str(folder / "bmnet_digits_calibration_table.pb2")
    param = caffe_pb2.NetParameter()
    text_format.Merge(Path(proto_path).read_text(), param)
    reference = net_of(folder)
    reference.blobs["data"].data[...] = images
    fp32 = reference.forward()["prob"].copy()
    damage = []
    layer_str = ""
    for layer in param.layer:
        layer_str += str(layer.name)

        # BatchNorm and Scale layer must open int8 together.
        if layer.type == "BatchNorm":
            layer_str += ", "
            continue

        net_8 = caffe.Net(proto_path, model_path, caffe.TEST)
        net_8.int8_init(proto_path, calibration_model, calibration_proto, layer_str)

        net_8.blobs["data"].data[...] = images
        out8 = net_8.forward()
        damage.append(float(np.abs(out8["prob"] - fp32).max()))

        layer_str += ", "
    assert damage[0] == 0  # the data layer alone changes nothing
    assert damage[-1] > 0


def test_named_layers_only(calibrated, images):
    folder, _ = calibrated
    net = net_of(folder)
    fp32 = values_of(net, images)
    int8_init(net, folder, "conv3_1x1, pool3")
    some = values_of(net, images)
    unchanged = {name for name in fp32 if np.array_equal(fp32[name], some[name])}
    assert {"data", "conv1", "pool1", "sum", "conv3_3x3"} <= unchanged
    assert not {"conv3_1x1", "pool3", "ip"} & unchanged
    int8_init(net, folder, "data")  # again, for none: FP32
    none = values_of(net, images)
    assert all(np.array_equal(fp32[name], none[name]) for name in fp32)


def test_layers_by_their_names_in_caffe(calibrated, images, tmp_path):
    """A loop over `_layer_names` names the layer of the `input` fields, too."""
    folder, _ = calibrated
    text = (folder / "codes.prototxt").read_text()
    begin, end = text.index("layer {"), text.index("# 1x8x8")
    fields = 'input: "data" input_dim: 4 input_dim: 1 input_dim: 8 input_dim: 8\n'
    (tmp_path / "fields.prototxt").write_text(text[:begin] + fields + text[end:])
    codes = np.floor(images * 128)
    found = []
    for path in (folder / "codes.prototxt", tmp_path / "fields.prototxt"):
        net = caffe.Net(str(path), str(folder / "custom.caffemodel"), caffe.TEST)
        files = (str(folder / f"bmnet_digits_{name}") for name in ("int8.caffemodel", "calibration_table.pb2"))
        net.int8_init(str(path), *files, ",".join(net._layer_names))
        found.append((net._layer_names[0], values_of(net, codes)))
    assert [first for first, _ in found] == ["data", "input"]
    assert all(np.array_equal(values, found[1][1][name]) for name, values in found[0][1].items())


def test_a_net_of_a_stage(calibrated, images):
    """The prototxt of int8_init is read without its stages, which the net has."""
    folder, _ = calibrated
    text = (folder / "real.prototxt").read_text()
    assert text.count('type: "Softmax"') == 1
    staged = text.replace('type: "Softmax"', 'type: "Softmax" include { stage: "probabilities" }')
    (folder / "staged.prototxt").write_text(staged)
    weights = str(folder / "custom.caffemodel")
    net = caffe.Net(str(folder / "staged.prototxt"), caffe.TEST, stages=["probabilities"], weights=weights)
    int8_init(net, folder, name="staged")
    other = net_of(folder)
    int8_init(other, folder)
    assert np.array_equal(values_of(net, images)["prob"], values_of(other, images)["prob"])


MEASURES = """
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "silence" type: "Silence" bottom: "loss" }
"""


def test_layers_of_another_phase_can_be_named(calibrated, images):
    """The guide's loop names every layer of the file."""
    folder, _ = calibrated
    train = 'layer { name: "late" type: "Power" bottom: "prob" top: "late" include { phase: TRAIN } }\n'
    (folder / "phases.prototxt").write_text((folder / "real.prototxt").read_text() + train)
    found = []
    for layers in ("pool3", "pool3, late"):
        net = net_of(folder, "phases")
        int8_init(net, folder, layers, name="phases")
        found.append(values_of(net, images)["prob"])
    assert np.array_equal(*found)


def test_measures_are_computed_in_int8_too(tmp_path, caplog):
    """They have no rows in the table. The data layer gives real values: the factor that is missing is said."""
    folder = tmp_path / "digits"
    shutil.copytree(DIGITS, folder, ignore=shutil.ignore_patterns("bmnet_*"))
    proto, weights = folder / "deploy.prototxt", folder / "custom.caffemodel"
    proto.write_text(proto.read_text().replace('top: "data"', 'top: "data" top: "label"', 1) + MEASURES)
    calibration = Calibration({"model_name": "d", "in_prototxt": proto, "in_caffemodel": weights}, method="mse")
    calibration.calc_tables()
    model, _, table, _ = map(str, calibration.export(folder))
    factor = 128 / calibration.thresholds["data"]

    real = caffe.Net(str(proto), str(weights), caffe.TEST)
    real.int8_init(str(proto), model, table, "")
    real.forward()
    assert f"'data' (Data) gives by {factor:.6g}" in caplog.text

    proto.write_text(proto.read_text().replace("scale: 0.0078125", f"scale: {0.0078125 * factor}"))
    net = caffe.Net(str(proto), str(weights), caffe.TEST)
    net.int8_init(str(proto), model, table, "")
    found = net.forward()
    right = net.blobs["ip"].data.argmax(1) == net.blobs["label"].data
    assert found["accuracy"] == right.mean() > 0.8 and 0 < net.blobs["loss"].data < 1
    with pytest.raises(OptionError, match="measure"):
        _ = net.blobs["accuracy"].int8


def test_input_that_the_user_quantises(calibrated, images):
    folder, calibration = calibrated
    threshold = calibration.plan.thresholds["data"]
    real, codes = net_of(folder), net_of(folder, "codes")
    int8_init(real, folder)
    int8_init(codes, folder, name="codes")
    expected = values_of(real, images)
    quantised = np.clip(np.floor(images.astype(np.float64) * 128 / threshold + 0.5), -128, 127)
    found = values_of(codes, quantised)
    assert np.array_equal(codes.blobs["data"].int8, quantised)
    assert np.array_equal(real.blobs["data"].int8, quantised)
    for name in expected:
        if name != "data":
            assert np.array_equal(expected[name], found[name]), name


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (1, "no value is larger than"),
        (3, "no value is larger than 3"),
        (1000, "far outside"),
        (200, "of the values are outside"),
    ],
)
def test_real_input_that_should_be_quantised_is_warned_of_once(calibrated, images, caplog, scale, reason):
    folder, _ = calibrated
    net = net_of(folder, "codes")
    int8_init(net, folder, name="codes")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            net.blobs["data"].data[...] = images * scale
            net.forward()
    assert caplog.text.count("enable_quantize") == 1 and reason in caplog.text


def test_what_a_layer_in_place_has_made_of_quantised_input_is_not_warned_of(tmp_path, caplog):
    proto, weights = tmp_path / "deploy.prototxt", tmp_path / "custom.caffemodel"
    proto.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 4] } } }\n'
        'layer { name: "leaky" type: "ReLU" bottom: "x" top: "x" relu_param { negative_slope: 0.5 } }\n'
    )
    net = caffe.Net(str(proto), caffe.TEST)
    net.save(str(weights))
    calibration = Calibration({"model_name": "leaky", "in_prototxt": proto, "in_caffemodel": weights}, repair="none")
    calibration.tune_tables({"x": 0.5, "leaky": 0.5})
    net.int8_init(str(proto), *map(str, calibration.export(tmp_path)[::2]), "")
    net.blobs["x"].data[...] = [[64, -64, 100, 3]]
    assert net.forward()["x"].tolist() == [[0.25, -0.125, 100 / 256, 3 / 256]]
    assert not caplog.records


def test_quantised_input_is_looked_at_in_the_first_passes(calibrated, images, caplog, monkeypatch):
    folder, _ = calibrated
    net = net_of(folder, "codes")
    int8_init(net, folder, name="codes")
    looked_at = []
    monkeypatch.setattr(net_module, "looks_real", lambda values: looked_at.append(1) or looks_real(values))
    for _ in range(50):
        net.forward(data=np.rint(images * 128))
    assert len(looked_at) == 50 and not caplog.records
    for _ in range(100):
        net.forward()
    assert len(looked_at) == net_module._CHECKED_PASSES
    int8_init(net, folder, name="codes")
    net.forward()
    net.forward(data=images)
    assert caplog.text.count("enable_quantize") == 1


@pytest.mark.parametrize("values", ["whole", "unrounded", "unclipped", "nothing", "dark"])
def test_quantised_input_is_not_warned_of(calibrated, images, caplog, values):
    folder, _ = calibrated
    net = net_of(folder, "codes")
    int8_init(net, folder, name="codes")
    with caplog.at_level(logging.WARNING):
        net.blobs["data"].data[...] = {
            "whole": np.rint(images * 128),
            "unrounded": images * 127.3,
            "unclipped": images * 131,  # one value in fifty is clipped
            "nothing": 0,
            "dark": np.rint(images * 3),
        }[values]
        net.forward()
    assert "enable_quantize" not in caplog.text


def test_forward_over_some_layers(calibrated, images):
    folder, _ = calibrated
    whole, parts = net_of(folder), net_of(folder)
    int8_init(whole, folder)
    int8_init(parts, folder)
    expected = values_of(whole, images)
    parts.blobs["data"].data[...] = images
    parts.forward(end="pool1")
    parts.forward(start="conv2a", end="relu_sum")
    parts.forward(start="conv3_1x1")
    assert np.array_equal(parts.blobs["prob"].data, expected["prob"])


def test_all_wrong_names_at_once(calibrated):
    folder, _ = calibrated
    net = net_of(folder)
    with pytest.raises(OptionError, match=r"'nothing'(.|\n)*'bn1' is named and 'scale1' is not"):
        int8_init(net, folder, "conv1, nothing, bn1")


def test_files_of_another_network(calibrated, tmp_path):
    folder, _ = calibrated
    net = net_of(folder)
    other = tmp_path / "other.prototxt"
    other.write_text((folder / "real.prototxt").read_text().replace('"conv2a" type', '"conv9" type'))
    files = [str(folder / f"bmnet_digits_{f}") for f in ("int8.caffemodel", "calibration_table.pb2")]
    with pytest.raises(TableError, match="'conv2a'"):
        net.int8_init(str(other), *files, "")
    message = NetCalibrationParameter.FromString(Path(files[1]).read_bytes())
    message.layer[3].name = "conv9"
    (tmp_path / "table.pb2").write_bytes(message.SerializeToString())
    with pytest.raises(TableError, match="conv9"):
        net.int8_init(str(folder / "real.prototxt"), files[0], str(tmp_path / "table.pb2"), "")
    with pytest.raises((TableError, CaffemodelError), match="FP32 model"):
        net.int8_init(str(folder / "real.prototxt"), str(folder / "custom.caffemodel"), files[1], "")
    assert net.forward()["prob"].shape == (4, 10)  # still FP32


def test_constants_of_the_prototxt_are_real_values(tmp_path, caplog):
    shape, filler = "shape { dim: [1, 1, 2, 2] }", "data_filler { value: 0.5 }"
    proto, weights = tmp_path / "deploy.prototxt", tmp_path / "custom.caffemodel"
    proto.write_text(
        f'layer {{ name: "x" type: "Input" top: "x" input_param {{ {shape} enable_quantize: 1 }} }}\n'
        f'layer {{ name: "c" type: "DummyData" top: "c" dummy_data_param {{ {shape} {filler} }} }}\n'
        'layer { name: "sum" type: "Eltwise" bottom: "x" bottom: "c" top: "sum" }'
    )
    net = caffe.Net(str(proto), caffe.TEST)
    net.save(str(weights))
    calibration = Calibration({"model_name": "sum", "in_prototxt": proto, "in_caffemodel": weights}, repair="none")
    calibration.tune_tables({"x": 1.0, "c": 0.5, "sum": 1.5})
    net.int8_init(str(proto), *map(str, calibration.export(tmp_path)[::2]), "")
    net.blobs["x"].data[...] = [[[[-1, 0], [0.25, 0.5]]]]
    assert np.abs(net.forward()["sum"] - [[[[-0.5, 0.5], [0.75, 1]]]]).max() < 0.03
    assert not caplog.records


SEEING = """
import caffe

class Seeing(caffe.Layer):
    seen = []
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        for t in top:
            t.reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        self.seen.append(bottom[0].data.copy())
        for t in top:
            t.data[...] = bottom[0].data
"""


@pytest.mark.parametrize("tops", ['top: "y"', ""])
def test_layers_in_python_read_real_values_of_what_the_user_quantised(tmp_path, monkeypatch, tops):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeing_layers.py").write_text(SEEING)
    proto, weights = tmp_path / "deploy.prototxt", tmp_path / "custom.caffemodel"
    proto.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 4] } } }\n'
        f'layer {{ name: "see" type: "Python" bottom: "x" {tops} '
        'python_param { module: "seeing_layers" layer: "Seeing" } }\n'
        'layer { name: "z" type: "Eltwise" bottom: "x" bottom: "x" top: "z" }'
    )
    net = caffe.Net(str(proto), caffe.TEST)
    net.save(str(weights))
    calibration = Calibration({"model_name": "see", "in_prototxt": proto, "in_caffemodel": weights})
    calibration.tune_tables({"x": 4.0, "z": 8.0, **({"y": 4.0} if tops else {})})
    net.int8_init(str(proto), *map(str, calibration.export(tmp_path)[::2]), "")
    net.blobs["x"].data[...] = [[32, -64, 7.2, 300]]
    net.forward()
    assert net.blobs["x"].data.tolist() == [[32, -64, np.float32(7.2), 300]]
    assert net.layer_dict["see"].seen[-1].tolist() == [[1, -2, 7 / 32, 127 / 32]]
    if tops:
        assert net.blobs["y"].data.tolist() == [[1, -2, 7 / 32, 127 / 32]]


def test_no_integers_without_int8_init(calibrated):
    folder, _ = calibrated
    with pytest.raises(OptionError, match="int8_init"):
        _ = net_of(folder).blobs["data"].int8


@pytest.fixture
def yolo():
    caffe.yolo()
    yield
    state._state.yolo = False


def pooled(tmp_path, fields, pool="MAX"):
    (tmp_path / "pool.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 1, 5, 6] } } }\n'
        f'layer {{ name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param {{ pool: {pool} {fields} }} }}'
    )
    net = caffe.Net(str(tmp_path / "pool.prototxt"), caffe.TEST)
    x = np.random.default_rng(1).permutation(30).reshape(1, 1, 5, 6).astype(np.float32)
    net.blobs["x"].data[...] = x
    return x[0, 0], net.forward()["p"][0, 0]


@pytest.mark.parametrize(
    ("kernel", "fields"),
    [(2, "kernel_size: 2"), (2, "kernel_size: 2 pad: 1"), (3, "kernel_size: 3"), (5, "kernel_size: 5 pad: 2")],
)
def test_yolo_keeps_the_size_of_pooling_with_stride_1(tmp_path, yolo, kernel, fields):
    """Darknet's loop: window element n of cell i is i - (kernel - 1) // 2 + n, elements outside do not count."""
    x, found = pooled(tmp_path, f"{fields} stride: 1")
    before = (kernel - 1) // 2
    for i in range(5):
        for j in range(6):
            rows = [r for n in range(kernel) if 0 <= (r := i - before + n) < 5]
            columns = [c for n in range(kernel) if 0 <= (c := j - before + n) < 6]
            assert found[i, j] == x[np.ix_(rows, columns)].max()
    assert found.shape == x.shape


@pytest.mark.parametrize(("fields", "pool"), [("kernel_size: 2 stride: 2", "MAX"), ("kernel_size: 2 stride: 1", "AVE"),
                                              ("global_pooling: true", "MAX")])  # fmt: skip
def test_yolo_changes_nothing_else(tmp_path, yolo, fields, pool):
    _, with_yolo = pooled(tmp_path, fields, pool)
    state._state.yolo = False
    _, without = pooled(tmp_path, fields, pool)
    assert np.array_equal(with_yolo, without)


def test_without_yolo_the_size_is_caffe_s(tmp_path):
    assert pooled(tmp_path, "kernel_size: 2 stride: 1")[1].shape == (4, 5)


SIGNS = (1, 1, 1, -1, -1)


def test_the_width_of_the_accumulator(tmp_path):
    """Three positive terms exceed 16 bits before two negative ones bring the sum back."""
    layers = ['layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 1, 1, 4] } } }']
    layers += [
        f'layer {{ name: "s{i}" type: "Power" bottom: "x" top: "s{i}" power_param {{ scale: {sign} }} }}'
        for i, sign in enumerate(SIGNS)
    ]
    bottoms = " ".join(f'bottom: "s{i}"' for i in range(len(SIGNS)))
    layers.append(f'layer {{ name: "sum" type: "Eltwise" {bottoms} top: "sum" }}')
    proto, weights = tmp_path / "deploy.prototxt", tmp_path / "custom.caffemodel"
    proto.write_text("\n".join(layers))
    net = caffe.Net(str(proto), caffe.TEST)
    net.save(str(weights))
    calibration = Calibration({"model_name": "sum", "in_prototxt": proto, "in_caffemodel": weights})
    calibration.tune_tables({"x": 1.0, "sum": 1 / 1.9} | {f"s{i}": 1.0 for i in range(len(SIGNS))})
    model, _, table, _ = map(str, calibration.export(tmp_path))
    multiplier, shift = 121, 6  # trunc(1.9 * 64)
    codes = [127, 60, -100, 0]
    for bits in (16, 32):
        net.int8_init(str(proto), model, table, "sum", accumulator_bits=bits)
        net.blobs["x"].data[...] = np.array(codes) / 128
        net.forward()
        expected = []
        for code in codes:
            total = 0
            for sign in SIGNS:
                total += sign * code * multiplier
                total = max(-32768, min(32767, total)) if bits == 16 else total
            expected.append(max(-128, min(127, (total + (1 << shift - 1)) >> shift)))
        assert net.blobs["sum"].int8.ravel().tolist() == expected
    with pytest.raises(OptionError, match="accumulator_bits is 8"):
        net.int8_init(str(proto), model, table, "sum", accumulator_bits=8)
