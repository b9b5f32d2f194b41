"""`import caffe`: every name where scripts look for it; devices."""

from __future__ import annotations

import importlib

import pytest
from google.protobuf import text_format
from pycaffe_texts import input_layer

import caffe
from calib8.errors import DeviceError, OptionError


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("caffe", "Net SGDSolver get_solver Layer Classifier Detector NetSpec io layers params to_proto TRAIN TEST"),
        ("caffe", "set_mode_cpu set_mode_gpu set_device set_random_seed layer_type_list __version__"),
        ("caffe", "classifier coord_map detector net_spec pycaffe proto"),
        ("caffe.pycaffe", "Net SGDSolver"),
        ("caffe.io", "load_image resize_image Transformer oversample blobproto_to_array array_to_blobproto"),
        ("caffe.io", "array_to_datum datum_to_array arraylist_to_blobprotovector_str blobprotovector_str_to_arraylist"),
        ("caffe.net_spec", "NetSpec Top Function layers params to_proto"),
        ("caffe.io", "caffe_pb2"),
        ("caffe.coord_map", "coord_map_from_to crop"),
        ("caffe.draw", "draw_net draw_net_to_file get_pydot_graph"),
        ("caffe.classifier", "Classifier"),
        ("caffe.detector", "Detector"),
        ("caffe.proto", "caffe_pb2"),
        ("caffe.proto.caffe_pb2", "NetParameter LayerParameter BlobProto Datum TRAIN TEST DESCRIPTOR"),
        ("caffe.proto.bmnet.common_calibration_pb2", "NetCalibrationParameter LayerCalibrationParameter"),
    ],
)
def test_names(module, names):
    found = importlib.import_module(module)
    assert [name for name in names.split() if not hasattr(found, name)] == []


def test_messages_are_one_and_the_same():
    ours = importlib.import_module("calib8.proto.caffe_pb2")
    assert importlib.import_module("caffe.proto.caffe_pb2").NetParameter is ours.NetParameter
    net = text_format.Merge('name: "n" layer { name: "l" type: "ReLU" }', caffe.proto.caffe_pb2.NetParameter())
    assert net.layer[0].type == "ReLU"
    assert (caffe.TRAIN, caffe.TEST) == (ours.TRAIN, ours.TEST)


def test_layer_types():
    types = caffe.layer_type_list()
    assert {"Data", "Convolution", "InnerProduct", "Python", "DetectionOutput", "DummyData"} <= set(types)
    assert types == sorted(types)


def test_a_gpu_is_never_replaced_in_silence(make_net):
    text = input_layer("x", 1) + 'layer { name: "p" type: "Power" bottom: "x" top: "y" }'
    net = make_net(text)
    caffe.set_device(3)
    net.forward()
    caffe.set_mode_gpu()
    with pytest.raises(DeviceError, match="GPU 3 is asked for"):
        make_net(text)
    with pytest.raises(DeviceError, match="GPU 3 is asked for"):
        net.forward()
    caffe.set_mode_cpu()
    assert net.forward()["y"].shape == (1,)
    with pytest.raises(OptionError, match="numbered from 0"):
        caffe.set_device(-1)
