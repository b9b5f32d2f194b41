"""A model in other shapes, its batches of one, and its inputs: compared with models that are built anew."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.errors import CaffemodelError, DataError, PrototxtError, UnsupportedError
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt, read_prototxt

NET = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: [{n}, 2, {h}, 6] }} }} }}
layer {{ name: "size" type: "Input" top: "size" input_param {{ shape {{ dim: [{n}, 3] }} }} }}
layer {{ name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param {{ num_output: 3 kernel_size: 3 }} }}
layer {{ name: "r" type: "ReLU" bottom: "c" top: "c" }}
layer {{ name: "gp" type: "Pooling" bottom: "c" top: "gp" pooling_param {{ pool: AVE global_pooling: true }} }}
layer {{ name: "f" type: "Flatten" bottom: "gp" top: "f" }}
layer {{ name: "both" type: "Concat" bottom: "f" bottom: "size" top: "both" }}
"""
WITH_LABELS = """
layer { name: "data" type: "Data" top: "data" top: "label" }
layer { name: "a" type: "AbsVal" bottom: "data" top: "a" }
"""
SET_UP_ONCE = """
import caffe

class Fixed(caffe.Layer):
    def setup(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def reshape(self, bottom, top):
        pass
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + 1
"""


def text_of(n=4, h=5):
    return NET.format(n=n, h=h)


def test_other_shapes_are_those_of_a_network_that_is_written_so(random_model):
    model = random_model(text_of())
    found = model.reshaped({"data": (2, 2, 9, 6), "size": (2, 3)})
    expected = build_model(parse_prototxt(text_of(2, 9)))
    assert list(found.shapes.items()) == list(expected.shapes.items())
    assert model.shapes == build_model(parse_prototxt(text_of())).shapes
    for layer, own in zip(model.net.layers, found.net.layers, strict=True):
        assert all(np.shares_memory(x, y) for x, y in zip(layer.blobs, own.blobs, strict=True))


def test_inputs_that_are_not_named_keep_their_shapes(random_model):
    model = random_model(text_of()).reshaped({"data": (4, 2, 9, 6)})
    again = model.reshaped({"size": (4, 7)})
    assert again.shapes["data"] == (4, 2, 9, 6) and again.shapes["both"] == (4, 10)


def test_labels_that_nobody_reads_follow_the_images():
    model = build_model(parse_prototxt(WITH_LABELS), None, {"data": (8, 2)})
    assert model.shapes["label"] == (8,)
    assert model.reshaped({"data": (3, 2)}).shapes == {"data": (3, 2), "label": (3,), "a": (3, 2)}


def test_all_layers_that_do_not_fit_are_named(random_model):
    model = random_model(
        text_of()
        + 'layer { name: "sum" type: "Eltwise" bottom: "both" bottom: "both" top: "sum" }'
        + 'layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip" inner_product_param { num_output: 2 } }'
    )
    with pytest.raises(CaffemodelError, match="ip") as refused:
        model.reshaped({"data": (4, 2, 9, 6)})
    assert len(refused.value.problems) == 1 and "has blob 0 of shape 2x36 in the caffemodel" in str(refused.value)
    with pytest.raises(UnsupportedError) as refused:
        model.reshaped({"data": (4, 2, 2, 6), "size": (3, 3)})
    assert "layer 'c' (Convolution)" in refused.value.problems[0]


def test_names_that_are_no_inputs_are_refused(random_model):
    with pytest.raises(PrototxtError, match="no input 'c' to give a shape; inputs are 'data', 'size'"):
        random_model(text_of()).reshaped({"c": (1, 2, 3, 4)})


def test_a_batch_of_one(random_model):
    model = random_model(text_of(4))
    one = model.batch_of_one()
    assert one.shapes == build_model(parse_prototxt(text_of(1))).shapes
    assert one.batch_of_one() is one


@pytest.mark.parametrize(
    "more",
    [
        'layer { name: "x" type: "Reshape" bottom: "c" top: "x" reshape_param { shape { dim: 2 dim: -1 } } }',
        'layer { name: "x" type: "Permute" bottom: "c" top: "x" permute_param { order: [1, 0, 2, 3] } }',
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 5] } } }',
    ],
)
def test_no_batch_of_one_where_images_do_not_go_through_one_by_one(random_model, more):
    assert random_model(text_of(4) + more).batch_of_one() is None


def test_a_layer_of_the_user_s_is_set_up_anew(tmp_path):
    """Its `setup` alone fixes a shape: an instance that was set up for the batch would keep it."""
    (tmp_path / "fixed.py").write_text(SET_UP_ONCE)
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [4, 3] } } }\n'
        'layer { name: "y" type: "Python" bottom: "x" top: "y" python_param { module: "fixed" layer: "Fixed" } }'
    )
    model = build_model(read_prototxt(tmp_path / "net.prototxt"), {})
    one = model.batch_of_one()
    assert one.shapes["y"] == (1, 3)
    for network in (model, one):
        x = np.ones(network.shapes["x"], np.float32)
        assert np.array_equal(run_float(network, {"x": x})["y"], x + 1)


def test_inputs_of_a_sample(random_model):
    silent = 'layer { name: "s" type: "Silence" bottom: "size" }'
    model = random_model(text_of(2).replace(' bottom: "size"', "") + silent)
    data = np.arange(120).reshape(2, 2, 5, 6)
    found = model.inputs_of({"data": data, "name": np.zeros(2)})
    assert list(found) == ["data", "size"] and {x.dtype for x in found.values()} == {np.dtype(np.float32)}
    assert np.array_equal(found["data"], data) and np.array_equal(found["size"], np.zeros((2, 3)))
    with pytest.raises(DataError, match="the data give 'size'; the network also needs 'data'"):
        model.inputs_of({"size": np.zeros((2, 3))})


def test_inputs_of_a_sample_are_named_by_value(random_model):
    """A layer in place overwrites the input's blob: the input is the value before."""
    text = 'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: [1, 2] } } }\n'
    model = random_model(text + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }')
    assert list(model.inputs_of({"x": np.ones((1, 2))})) == list(model.inputs) == ["x@i"]
