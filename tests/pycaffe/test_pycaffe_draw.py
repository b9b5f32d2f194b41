"""caffe.draw."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from google.protobuf import text_format

import caffe.draw
from caffe.proto import caffe_pb2
from calib8.errors import OptionError

TEXT = """
name: "my net"
layer { name: "data" type: "Data" top: "data" data_param { batch_size: 8 } include { phase: TEST } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 3 }
  convolution_param { num_output: 20 kernel_size: 5 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "a\\"b" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "a\\"b" top: "ip" inner_product_param { num_output: 7 } }
"""


@pytest.fixture
def net():
    return text_format.Parse(TEXT, caffe_pb2.NetParameter())


def test_text(net):
    lines = caffe.draw.draw_net(net, "LR", "dot").decode().splitlines()
    assert lines[:2] == ['digraph "my net" {', "rankdir=LR;"]
    assert lines[-1] == "}"
    nodes = {line.partition(" [")[0]: line for line in lines if "->" not in line and "[" in line}
    blobs = {'"data_blob"', '"conv_blob"', '"a\\"b_blob"', '"ip_blob"'}
    assert set(nodes) == {
        '"data_Data"', '"conv_Convolution"', '"relu_ReLU"', '"pool_Pooling"', '"ip_InnerProduct"', *blobs
    }  # fmt: skip
    assert r'label="conv\n(Convolution)\nkernel size: 5\nstride: 1\npad: 1"' in nodes['"conv_Convolution"']
    assert r"(Pooling AVE)\nkernel size: 2\nstride: 2\npad: 0" in nodes['"pool_Pooling"']
    assert 'fillcolor="#90EE90"' in nodes['"relu_ReLU"']
    edges = [line for line in lines if "->" in line]
    assert edges == [
        '"data_Data" -> "data_blob" [label="Batch 8"];',
        '"data_blob" -> "conv_Convolution" [label=""];',
        '"conv_Convolution" -> "conv_blob" [label="20"];',
        '"conv_blob" -> "relu_ReLU" [label=""];',
        '"relu_ReLU" -> "conv_blob" [label=""];',
        '"conv_blob" -> "pool_Pooling" [label=""];',
        '"pool_Pooling" -> "a\\"b_blob" [label=""];',
        '"a\\"b_blob" -> "ip_InnerProduct" [label=""];',
        '"ip_InnerProduct" -> "ip_blob" [label="7"];',
    ]


def test_phase_and_rates(net):
    text = caffe.draw.draw_net(net, "BT", "raw", phase=caffe_pb2.TRAIN, display_lrm=True).decode()
    assert "Data" not in text
    assert 'label="conv (Convolution) kernel size: 5 stride: 1 pad: 1 lr mult: 3.0, 1.0"' in text
    with pytest.raises(OptionError, match="rankdir is 'UP'"):
        caffe.draw.draw_net(net, "UP", "dot")


def test_text_files_need_nothing(net, tmp_path):
    caffe.draw.draw_net_to_file(net, tmp_path / "net.gv")
    assert (tmp_path / "net.gv").read_bytes() == caffe.draw.draw_net(net, "LR", "gv")


def test_pictures_need_pydot(net, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(OptionError, match=r"pip install calib8\[draw\]"):
        caffe.draw.draw_net_to_file(net, str(tmp_path / "net.png"))
    assert not list(tmp_path.iterdir())


def test_pictures_are_pydots(net, monkeypatch):
    class Graph:
        def __init__(self, text):
            self.text = text

        def create(self, format):
            if format == "xyz":
                raise FileNotFoundError("dot not found")
            return f"{format} of {self.text}".encode()

    pydot = ModuleType("pydot")
    pydot.graph_from_dot_data = lambda text: [Graph(text)]
    monkeypatch.setitem(sys.modules, "pydot", pydot)
    text = caffe.draw.draw_net(net, "LR", "dot").decode()
    assert caffe.draw.draw_net(net, "LR") == f"png of {text}".encode()
    with pytest.raises(OptionError, match="Graphviz cannot draw the network as 'xyz': dot not found"):
        caffe.draw.draw_net(net, "LR", "xyz")


@pytest.mark.shared
def test_every_prototxt_has_a_graph(shared):
    drawn = 0
    for path in sorted((shared / "models").rglob("*.prototxt")):
        net = text_format.Parse(path.read_text(), caffe_pb2.NetParameter(), allow_unknown_field=True)
        text = caffe.draw.draw_net(net, "LR", "dot").decode()
        assert text.count("\n") > len(net.layer)
        drawn += 1
    assert drawn


def test_what_labels_are_made_of():
    conv = caffe_pb2.LayerParameter(name="c", type="Convolution")
    conv.convolution_param.num_output = 7
    conv.param.add().lr_mult = 3
    assert caffe.draw.get_layer_lr_mult(conv) == (3, 1)
    assert caffe.draw.get_edge_label(conv) == "7"
    assert caffe.draw.get_edge_label(caffe_pb2.LayerParameter(type="ReLU")) == '""'
    assert caffe.draw.get_layer_label(conv, "LR", display_lrm=True).startswith('"c\\n(Convolution)\\nkernel size: 1')
    assert caffe.draw.get_layer_label(conv, "TB").startswith('"c (Convolution) kernel size: 1')
    assert caffe.draw.get_pooling_types_dict()[1] == "AVE"
    assert caffe.draw.choose_color_by_layertype("Pooling") != caffe.draw.choose_color_by_layertype("ReLU")
    with pytest.raises(ValueError, match="ReLU layers do not have a learning rate multiplier"):
        caffe.draw.get_layer_lr_mult(caffe_pb2.LayerParameter(type="ReLU"))
