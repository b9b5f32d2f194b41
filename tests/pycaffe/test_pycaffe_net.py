"""caffe.Net: structure, forward, reshape, errors. The expectations are what a real Caffe's pycaffe does."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from pycaffe_texts import input_layer

import caffe
from calib8.engine import run_float
from calib8.errors import DataError, OptionError, PrototxtError, UnsupportedError
from calib8.lowering import build_model
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt

LABELLED = """
name: "labelled"
layer { type: "DummyData" name: "data" top: "data" top: "label"
  dummy_data_param { num: 5 channels: 2 height: 3 width: 4 num: 5 channels: 1 height: 1 width: 1
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
layer { type: "Convolution" name: "conv" bottom: "data" top: "conv"
  convolution_param { num_output: 11 kernel_size: 2 pad: 3 weight_filler { type: "gaussian" std: 1 }
    bias_filler { type: "constant" value: 2 } } param { decay_mult: 1 } param { decay_mult: 0 } }
layer { type: "InnerProduct" name: "ip" bottom: "conv" top: "ip_blob"
  inner_product_param { num_output: 13 weight_filler { type: "gaussian" std: 2.5 }
    bias_filler { type: "constant" value: -3 } } }
layer { type: "SoftmaxWithLoss" name: "loss" bottom: "ip_blob" bottom: "label" top: "loss" }
"""
TWO_OUTPUTS = (
    input_layer("data", 2, 3)
    + """
layer { name: "z" type: "Power" bottom: "data" top: "z" power_param { scale: 2 } }
layer { name: "in_place" type: "ReLU" bottom: "z" top: "z" }
layer { name: "a" type: "Power" bottom: "data" top: "a" power_param { shift: 1 } }
"""
)


@pytest.fixture
def net(make_net):
    return make_net(LABELLED, caffe.TRAIN)


def test_names(net):
    assert list(net.blobs) == ["data", "label", "conv", "ip_blob", "loss"]
    assert net._layer_names == ["data", "conv", "ip", "loss"]
    assert net.inputs == []
    assert net.outputs == ["loss"]
    assert net.top_names == OrderedDict(data=["data", "label"], conv=["conv"], ip=["ip_blob"], loss=["loss"])
    assert net.bottom_names == OrderedDict(data=[], conv=["data"], ip=["conv"], loss=["ip_blob", "label"])


def test_layers(net):
    assert [layer.type for layer in net.layers] == ["DummyData", "Convolution", "InnerProduct", "SoftmaxWithLoss"]
    assert [len(layer.blobs) for layer in net.layers] == [0, 2, 2, 0]
    assert list(net.layer_dict) == net._layer_names
    assert net.layer_dict["conv"] is net.layers[1]
    assert list(net.params) == ["conv", "ip"]
    assert [p.data.shape for p in net.params["conv"]] == [(11, 2, 2, 2), (11,)]
    assert net.params["conv"] is net.layers[1].blobs


FIELDS = """
input: "data" input_shape { dim: 1 dim: 2 }
input: "info" input_shape { dim: 1 dim: 2 }
"""
SUM = 'layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "info" top: "sum" }\n'


def test_input_fields_are_one_layer_as_in_caffe(make_net):
    net = make_net(FIELDS + SUM)
    assert net._layer_names == list(net.layer_dict) == list(net.top_names) == ["input", "sum"]
    assert [layer.type for layer in net.layers] == ["Input", "Eltwise"]
    assert net.top_names["input"] == ["data", "info"] and net.bottom_names["input"] == []
    assert net.inputs == ["data", "info"] and list(net.blobs) == ["data", "info", "sum"]
    net.blobs["data"].data[...], net.blobs["info"].data[...] = 1, 2
    assert list(net.forward(end="input")) == ["data", "info"]
    assert net.blobs["sum"].data.max() == 0
    assert net.forward(start="input")["sum"].min() == 3
    net.blobs["info"].data[...] = 5
    assert net.forward(start="sum", end="sum")["sum"].min() == 6


def test_input_layers_keep_their_names(make_net):
    shape = "input_param { shape { dim: 1 dim: 2 } }"
    layers = [f'layer {{ name: "{n}" type: "Input" top: "{n}" {shape} }}\n' for n in ("data", "info")]
    assert make_net("".join(layers) + SUM)._layer_names == ["data", "info", "sum"]
    taken = FIELDS + SUM.replace('name: "sum"', 'name: "input"')
    assert make_net(taken)._layer_names == ["data", "info", "input"]


def test_outputs_are_in_alphabetical_order(make_net):
    net = make_net(TWO_OUTPUTS)
    assert net.outputs == ["a", "z"]
    assert net.inputs == ["data"]


def test_start_and_end_run_some_layers_on_what_is_there(net):
    sample = np.random.default_rng(1).random(net.blobs["conv"].data.shape).astype(np.float32)
    net.blobs["conv"].data[...] = sample
    found = net.forward(start="ip", end="ip")
    assert list(found) == ["ip_blob"]
    weights, bias = (p.data for p in net.params["ip"])
    expected = [[np.dot(w, image.ravel()) + b for w, b in zip(weights, bias, strict=True)] for image in sample]
    np.testing.assert_allclose(net.blobs["ip_blob"].data, expected, rtol=1e-3, atol=1e-4)


def test_in_place_blobs_show_the_last_value_of_the_layers_that_ran(make_net):
    net = make_net(TWO_OUTPUTS)
    net.blobs["data"].data[...] = -1
    assert net.forward()["z"].tolist() == [[0] * 3] * 2
    assert net.forward(end="z")["z"].tolist() == [[-2] * 3] * 2
    assert net.forward(start="in_place", end="in_place")["z"].tolist() == [[0] * 3] * 2


def test_inputs_as_arguments(make_net):
    net = make_net(TWO_OUTPUTS)
    found = net.forward(blobs=["data"], data=[[1, 2, 3], [4, 5, 6]])
    assert list(found) == ["a", "z", "data"]
    assert found["z"].tolist() == [[2, 4, 6], [8, 10, 12]]
    assert net.blobs["data"].data.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_no_layer_between_end_and_start(make_net):
    net = make_net(TWO_OUTPUTS)
    net.forward(data=np.ones((2, 3)))
    net.blobs["data"].data[...] = 5
    assert net.forward(start="a", end="z")["z"].tolist() == [[2] * 3] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"dat": np.zeros((2, 3))}, OptionError, r"given are \['dat'\], the net has \['data'\]"),
        ({"data": np.zeros((1, 3))}, DataError, r"not batch sized \(2\)"),
        ({"data": np.zeros((2, 4))}, DataError, r"has the shape \(2, 4\); the blob has \(2, 3\): reshape it first"),
        ({"start": "nowhere"}, OptionError, "no layer 'nowhere'"),
        ({"end": "nowhere"}, OptionError, "no layer 'nowhere'"),
        ({"blobs": ["nothing"]}, OptionError, "no blobs 'nothing'"),
    ],
)
def test_wrong_arguments(make_net, arguments, error, text):
    with pytest.raises(error, match=text):
        make_net(TWO_OUTPUTS).forward(**arguments)


def test_forward_all_fills_the_last_batch_and_cuts_the_result(make_net):
    net = make_net(TWO_OUTPUTS)
    images = np.arange(15, dtype=np.float32).reshape(5, 3)
    found = net.forward_all(blobs=["data"], data=images)
    assert found["z"].tolist() == (images * 2).tolist()
    assert found["data"].tolist() == images.tolist()
    with pytest.raises(OptionError, match="do not match"):
        net.forward_all()


def test_reshape_of_blob_and_net(make_net):
    net = make_net(TWO_OUTPUTS)
    net.forward()
    net.blobs["data"].reshape(1, 2)
    net.reshape()
    assert {name: blob.data.shape for name, blob in net.blobs.items()} == {"data": (1, 2), "z": (1, 2), "a": (1, 2)}
    net.blobs["data"].reshape(4, 5)  # forward alone does it, too
    net.blobs["data"].data[...] = 3
    assert net.forward()["z"].tolist() == [[6] * 5] * 4


def test_shapes_that_come_back(make_net):
    net = make_net(TWO_OUTPUTS)
    for n, value in ((2, 1), (3, 2), (2, 3), (3, 4)):
        net.blobs["data"].reshape(n, 3)
        net.blobs["data"].data[...] = value
        assert net.forward()["z"].tolist() == [[2 * value] * 3] * n


def test_a_shape_that_the_weights_do_not_fit(make_net):
    net = make_net(
        input_layer("data", 1, 4) + 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
        "inner_product_param { num_output: 2 } }"
    )
    net.blobs["data"].reshape(1, 5)
    with pytest.raises(UnsupportedError, match=r"layer 'ip' \(InnerProduct\) has weights of the shapes"):
        net.reshape()


def test_phase_level_and_stages(make_net):
    text = input_layer("data", 1) + "".join(
        f'layer {{ name: "{name}" type: "Power" bottom: "data" top: "{name}" {rule} }}\n'
        for name, rule in {
            "always": "",
            "train": "include { phase: TRAIN }",
            "level0": "include { min_level: 0 max_level: 0 }",
            "level1": "include { min_level: 1 }",
            "a": 'include { stage: "A" }',
            "a_and_b": 'include { stage: "A" stage: "B" }',
            "not_a": 'exclude { stage: "A" }',
        }.items()
    )
    assert list(make_net(text).blobs)[1:] == ["always", "level0", "not_a"]
    assert list(make_net(text, caffe.TRAIN).blobs)[1:] == ["always", "train", "level0", "not_a"]
    assert list(make_net(text, level=1).blobs)[1:] == ["always", "level1", "not_a"]
    assert list(make_net(text, stages=["A", "B"]).blobs)[1:] == ["always", "level0", "a", "a_and_b"]


def test_measures_are_computed(make_net):
    net = make_net(
        input_layer("x", 2, 3)
        + input_layer("label", 2)
        + 'layer { name: "acc" type: "Accuracy" bottom: "x" bottom: "label" top: "acc" }\n'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" }\n'
        'layer { name: "hinge" type: "HingeLoss" bottom: "x" bottom: "label" top: "hinge" }'
    )
    net.blobs["x"].data[...] = [[0, 1, 0], [2, 0, 0]]
    net.blobs["label"].data[...] = [1, 1]
    found = net.forward()
    assert list(found) == ["acc", "loss"]  # a hinge loss is left out
    assert found["acc"] == 0.5
    expected = -(np.log(np.e / (np.e + 2)) + np.log(1 / (np.e**2 + 2))) / 2
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


def test_nothing_to_compute(make_net):
    net = make_net(
        'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 3 } } }\n'
        'layer { name: "s" type: "Silence" bottom: "d" }'
    )
    assert net.forward() == {}


@pytest.mark.parametrize(
    ("what", "arguments"),
    [("backward", ()), ("forward_backward_all", ()), ("clear_param_diffs", ()), ("before_backward", (print,)),
     ("after_backward", (print,))],
)  # fmt: skip
def test_training_is_refused(make_net, what, arguments):
    with pytest.raises(UnsupportedError, match=f"Net.{what} is for training; calib8 is for inference only"):
        getattr(make_net(TWO_OUTPUTS), what)(*arguments)


@pytest.mark.parametrize(
    ("what", "argument"),
    [("SGDSolver", "solver.prototxt"), ("AdamSolver", "solver.prototxt"), ("get_solver", "solver.prototxt"),
     ("set_solver_count", 2), ("set_solver_rank", 1), ("set_multiprocess", True)],
)  # fmt: skip
def test_solvers_are_refused(what, argument):
    with pytest.raises(UnsupportedError, match=f"{what} is for training"):
        getattr(caffe, what)(argument)
    assert not caffe.has_nccl()


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_net_is_no_value(make_net, duplicate):
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        duplicate(make_net(TWO_OUTPUTS))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PrototxtError, match="nowhere"):
        caffe.Net(str(tmp_path / "nowhere.prototxt"), caffe.TEST)
    with pytest.raises(RuntimeError):  # what pycaffe raises
        caffe.Net(str(tmp_path / "nowhere.prototxt"), caffe.TEST)


def test_wrong_phase(write_prototxt):
    with pytest.raises(OptionError, match=r"phase is 7; expected caffe\.TEST"):
        caffe.Net(write_prototxt(TWO_OUTPUTS), 7)
    with pytest.raises(OptionError, match="the phase is missing"):
        caffe.Net(write_prototxt(TWO_OUTPUTS), "weights.caffemodel")


def test_subclasses(write_prototxt):
    class Mine(caffe.Net):
        def __init__(self, path):
            caffe.Net.__init__(self, path, caffe.TEST)
            self.note = "mine"

    net = Mine(str(write_prototxt(TWO_OUTPUTS)))
    assert net.note == "mine"
    assert list(net.forward()) == ["a", "z"]


@pytest.mark.shared
def test_squeezenet_shows_the_same_blobs_as_one_executor(shared):
    folder = shared / "models" / "squeezenet_v1.1"
    prototxt, caffemodel = str(folder / "deploy.prototxt"), str(folder / "custom.caffemodel")
    net = caffe.Net(prototxt, caffemodel, caffe.TEST)
    shape = (1, *net.blobs["data"].shape[1:])
    net.blobs["data"].reshape(*shape)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    net.blobs["data"].data[...] = image
    net.forward()
    model = build_model(read_prototxt(prototxt), read_caffemodel(caffemodel), {"data": shape})
    expected = run_float(model, {"data": image}, list(net.blobs))
    for name, blob in net.blobs.items():
        assert np.array_equal(blob.data, expected[name]), name
