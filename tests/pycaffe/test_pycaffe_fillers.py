"""What is in weights that no caffemodel gives."""

from __future__ import annotations

import numpy as np
import pytest
from pycaffe_texts import input_layer

import caffe
from calib8.errors import UnsupportedError
from calib8.proto import caffe_pb2
from calib8.pycaffe.fillers import fill


def filler(**fields):
    return caffe_pb2.FillerParameter(**fields)


def test_constant():
    assert fill(filler(value=2.5), (2, 1)).tolist() == [[2.5], [2.5]]
    assert fill(filler(), ()).tolist() == 0


def test_gaussian():
    values = fill(filler(type="gaussian", mean=3, std=0.5), (100, 200))
    assert values.mean() == pytest.approx(3, abs=0.02)
    assert values.std() == pytest.approx(0.5, abs=0.02)
    sparse = fill(filler(type="gaussian", sparse=10), (100, 200))
    assert (sparse != 0).mean() == pytest.approx(10 / 100, abs=0.02)


def test_uniform_and_unitball():
    values = fill(filler(type="uniform", min=-2, max=6), (100, 200))
    assert values.min() == pytest.approx(-2, abs=0.01)
    assert values.max() == pytest.approx(6, abs=0.01)
    rows = fill(filler(type="positive_unitball"), (4, 3, 5))
    assert rows.min() >= 0
    np.testing.assert_allclose(rows.sum(axis=(1, 2)), 1, rtol=1e-6)


@pytest.mark.parametrize(("norm", "fan"), [("FAN_IN", 40), ("FAN_OUT", 160), ("AVERAGE", 100)])
def test_scaled_by_the_neurons_connections(norm, fan):
    shape = (800, 200, 4)  # 800 numbers go into a neuron, 3200 come out
    fan *= 20
    xavier = fill(filler(type="xavier", variance_norm=norm), shape)
    assert np.abs(xavier).max() == pytest.approx(np.sqrt(3 / fan), rel=0.01)
    msra = fill(filler(type="msra", variance_norm=norm), shape)
    assert msra.std() == pytest.approx(np.sqrt(2 / fan), rel=0.01)


def test_bilinear_is_a_tent():
    kernel = fill(filler(type="bilinear"), (2, 1, 4, 4))
    row = [0.25, 0.75, 0.75, 0.25]
    assert kernel.tolist() == [[[[a * b for b in row] for a in row]]] * 2
    assert fill(filler(type="bilinear"), (1, 1, 3, 3))[0, 0, 1].tolist() == [0.5, 1, 0.5]
    with pytest.raises(UnsupportedError, match="square kernel"):
        fill(filler(type="bilinear"), (1, 1, 3, 4))


def test_unknown_type(make_net):
    with pytest.raises(UnsupportedError, match=r"layer 'ip' \(InnerProduct\) has a filler of type 'magic'; Caffe has"):
        make_net(
            input_layer("x", 1, 2) + 'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" '
            'inner_product_param { num_output: 2 weight_filler { type: "magic" } } }'
        )


@pytest.mark.parametrize(
    ("kind", "param", "values"),
    [
        ("Scale", "scale_param { bias_term: true }", [1, 0]),
        ("Scale", "scale_param { bias_term: true filler { value: 3 } bias_filler { value: 4 } }", [3, 4]),
        ("PReLU", "", [0.25]),
        ("PReLU", "prelu_param { filler { value: 0.5 } }", [0.5]),
        ("Normalize", "", [1]),
        ("BatchNorm", "", [0, 0, 0]),
        ("InnerProduct", "inner_product_param { num_output: 1 bias_filler { value: 9 } }", [0, 9]),
    ],
)
def test_defaults_of_layer_types(make_net, kind, param, values):
    net = make_net(input_layer("x", 1, 2, 3, 4) + f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {param} }}')
    assert [set(p.data.ravel().tolist()) for p in net.params["l"]] == [{value} for value in values]


def test_the_seed_repeats_the_numbers(make_net):
    text = input_layer("x", 1, 2) + (
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" '
        'inner_product_param { num_output: 2 weight_filler { type: "gaussian" } } }'
    )

    def weights(seed):
        caffe.set_random_seed(seed)
        return make_net(text).params["ip"][0].data.tolist()

    assert weights(3) == weights(3) != weights(4)
