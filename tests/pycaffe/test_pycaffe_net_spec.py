"""NetSpec: names, order and text of what upstream's NetSpec gives."""
# ruff: noqa: C408, N812 - so do scripts write networks

from __future__ import annotations

import pytest
from google.protobuf import text_format

import caffe
from caffe import layers as L
from caffe import params as P
from caffe.proto import caffe_pb2
from calib8.errors import OptionError


def parsed(text: str) -> caffe_pb2.NetParameter:
    return text_format.Parse(text, caffe_pb2.NetParameter())


def lenet(n):
    """Assigned to a NetSpec, or to anything else that takes attributes."""
    n.data, n.label = L.DummyData(shape=[dict(dim=[50, 1, 28, 28]), dict(dim=[50])], ntop=2)
    n.conv = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool = L.Pooling(n.conv, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool, num_output=500, param=[dict(lr_mult=1), dict(lr_mult=2)])
    n.relu = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu, num_output=10)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label, loss_weight=2)
    return n


LENET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 50 dim: 1 dim: 28 dim: 28 } shape { dim: 50 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool" top: "ip1" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 500 } }
layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" loss_weight: 2 }
"""


def test_assigned_names(make_net):
    proto = lenet(caffe.NetSpec()).to_proto()
    assert proto == parsed(LENET)
    assert parsed(str(proto)) == proto
    net = make_net(str(proto))
    assert len(net.layers) == 7
    assert net.forward()["loss"].shape == ()


def test_names_of_what_is_not_assigned():
    class Plain:
        pass

    names = {
        "ip1": "InnerProduct1", "ip2": "InnerProduct2", "conv": "Convolution1", "pool": "Pooling1",
        "loss": "SoftmaxWithLoss1", "label": "DummyData2", "data": "DummyData1", "relu": "ReLU1",
    }  # fmt: skip
    expected = parsed(LENET)
    for layer in expected.layer:
        layer.name = names[layer.name]
        layer.bottom[:] = [names[b] for b in layer.bottom]
        layer.top[:] = [names[t] for t in layer.top]
    plain = lenet(Plain())
    assert plain.loss.to_proto() == expected
    assert caffe.to_proto(plain.loss) == expected
    both = caffe.to_proto(plain.pool, plain.loss)
    assert [x.name for x in both.layer] == [x.name for x in expected.layer]


def test_layers_without_tops(make_net):
    n = caffe.NetSpec()
    n.a, n.b = L.DummyData(shape=dict(dim=3), ntop=2)
    n.first = L.Silence(n.a, ntop=0)
    n["second"] = L.Silence(n["b"], ntop=0)
    proto = n.to_proto()
    assert [(x.name, list(x.bottom), list(x.top)) for x in proto.layer] == [
        ("a", [], ["a", "b"]),
        ("first", ["a"], []),
        ("second", ["b"], []),
    ]
    assert make_net(str(proto)).forward() == {}


def test_one_value_for_a_repeated_field_and_messages_by_name():
    top = L.Deconvolution(L.Input(shape=dict(dim=[1, 2])), convolution_param=dict(kernel_size=[3, 5], stride=2))
    layer = top.to_proto().layer[1]
    assert list(layer.convolution_param.kernel_size) == [3, 5]
    assert list(layer.convolution_param.stride) == [2]


def test_fields_of_the_layer_itself():
    layer = L.ReLU(L.Input(shape=dict(dim=[1])), include=dict(phase=caffe.TEST), negative_slope=0.5).to_proto().layer[1]
    assert layer.include[0].phase == caffe.TEST
    assert layer.relu_param.negative_slope == 0.5


def test_deep_networks():
    top = L.Input(shape=dict(dim=[1]))
    for _ in range(3000):
        top = L.ReLU(top, in_place=True)
    assert len(top.to_proto().layer) == 3001


def test_mistakes():
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair, ntop=0)
    with pytest.raises(OptionError, match=r"\(Convolution\) cannot have kernel=3"):
        L.Convolution(pair[0], kernel=3).to_proto()
    with pytest.raises(OptionError, match="num_output='many'"):
        L.Convolution(pair[0], num_output="many").to_proto()
    assert not hasattr(caffe.NetSpec(), "nothing")
    with pytest.raises(KeyError):
        caffe.NetSpec()["nothing"]


def test_constants():
    assert P.Pooling.AVE == caffe_pb2.PoolingParameter.AVE
    assert P.Eltwise.MAX == 2
