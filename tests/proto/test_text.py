"""Prototxt files of every kind of writer, and the upgrade of old ones."""

from __future__ import annotations

import os
import re

import pytest
from google.protobuf import text_format

from calib8.errors import PrototxtError
from calib8.layers import registry
from calib8.proto import caffe_pb2
from calib8.proto.text import MAX_PROTOTXT_BYTES, parse_prototxt, read_prototxt
from calib8.proto.upgrade import V1_TYPES
from calib8.proto.upgrade_v0 import V0_TYPES

_LAYER = 'layer { name: "a" type: "ReLU" bottom: "x" top: "y" }\n'


def _types(prototxt):
    return [(x.name, x.type) for x in prototxt.net.layer]


def _write(tmp_path, data):
    path = tmp_path / "net.prototxt"
    path.write_bytes(data)
    return path


def test_current_network_is_left_as_it_is(tmp_path):
    text = f'name: "n"\n# comment\n{_LAYER}layer {{ type: "Input" input_param {{ shape {{ dim: 1 }} }} }}'
    prototxt = read_prototxt(_write(tmp_path, text.encode()))
    assert prototxt.source == str(tmp_path / "net.prototxt")
    assert prototxt.net.name == "n"
    assert _types(prototxt) == [("a", "ReLU"), ("", "Input")]
    assert prototxt.notes == () and prototxt.unknown_fields == ()
    assert [place.line for place in prototxt.places] == [3, 4]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + _LAYER.encode(),
        (_LAYER + _LAYER).encode().replace(b"\n", b"\r\n"),
        b"# old Mac\r" + _LAYER.encode(),
        b"# caf\xe9 \xb0\xc0\n" + _LAYER.encode(),
        "# 网络\n".encode() + _LAYER.encode(),
        "# 网络\n".encode("gbk") + _LAYER.encode(),
    ],
    ids=["utf-8 mark", "crlf", "cr", "latin-1", "utf-8", "gbk"],
)
def test_encodings_and_line_ends(tmp_path, data):
    assert _types(read_prototxt(_write(tmp_path, data)))[0] == ("a", "ReLU")


def test_lines_are_counted_with_any_line_end(tmp_path):
    with pytest.raises(PrototxtError, match=r"net.prototxt:3: layer.type"):
        read_prototxt(_write(tmp_path, b"name: 'x'\r\n\r\nlayer { type: 1 }\r\n"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no 'layer'"),
        (b"name: 'n'", "no 'layer'"),
        (b"\xff\xfen\0a\0m\0e\0", "UTF-16"),
        (b"name: 'x'\n\n\x0a\x05\0\0", "net.prototxt:4: a binary file"),
        (b"<html><body>404</body></html>", "net.prototxt:1: expected a field name"),
        (b"version https://git-lfs.github.com/spec/v1\n", "net.prototxt:1: version needs"),
        (b" " * (MAX_PROTOTXT_BYTES + 1), f"more than {MAX_PROTOTXT_BYTES} bytes"),
    ],
    ids=["empty", "no layer", "utf-16", "binary", "html", "lfs", "size"],
)
def test_other_files_are_refused(tmp_path, data, words):
    with pytest.raises(PrototxtError) as caught:
        read_prototxt(_write(tmp_path, data))
    assert words in str(caught.value)


def test_paths_that_are_no_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in [
        (tmp_path, "regular"),
        (tmp_path / "no", "No such file"),
        (tmp_path / "pipe", "regular"),
    ]:
        with pytest.raises(PrototxtError, match=words):
            read_prototxt(path)
    with pytest.raises(PrototxtError, match="cannot be read"):
        read_prototxt("a\0b")


def test_input_fields_become_input_layers_in_front():
    prototxt = parse_prototxt(
        'name: "n" input: "data" input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 5\n'
        'input: "rois" input_dim: [2, 5, 1, 1]' + _LAYER
    )
    assert _types(prototxt) == [("data", "Input"), ("rois", "Input"), ("a", "ReLU")]
    assert [list(x.input_param.shape[0].dim) for x in prototxt.net.layer[:2]] == [[1, 3, 4, 5], [2, 5, 1, 1]]
    assert [list(x.top) for x in prototxt.net.layer[:2]] == [["data"], ["rois"]]
    assert not prototxt.net.input and not prototxt.net.input_dim
    assert prototxt.notes == ("`input` fields became Input layers: data, rois",)
    assert [place.line for place in prototxt.places] == [0, 0, 2]


def test_input_shape_takes_any_number_of_axes():
    prototxt = parse_prototxt('input: "data" input_shape { dim: 10 dim: 7 }' + _LAYER)
    assert list(prototxt.net.layer[0].input_param.shape[0].dim) == [10, 7]


def test_an_input_layer_takes_no_name_that_exists():
    prototxt = parse_prototxt('input: "a" input_dim: [1, 1, 1, 1]' + _LAYER)
    assert _types(prototxt) == [("a_input", "Input"), ("a", "ReLU")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('input: "d"', "0 input_dim for 1 input"),
        ('input: "d" input_dim: [1, 3, 4]', "3 input_dim for 1 input"),
        ('input: "d" input: "e" input_dim: [1, 3, 4, 5]', "4 input_dim for 2 input"),
        ('input: "d" input: "e" input_shape { dim: 1 }', "1 input_shape for 2 input"),
        ('input: "d" input_dim: [1, 3, 4, 5] input_shape { dim: 1 }', "both input_dim and input_shape"),
        ('input: "d" input: "d" input_shape { } input_shape { }', "input 'd' is given twice"),
    ],
)
def test_inputs_without_their_sizes_are_refused(text, words):
    with pytest.raises(PrototxtError, match=words):
        parse_prototxt(text + _LAYER)


def test_sizes_without_input_are_noted():
    assert "without `input`" in parse_prototxt("input_dim: 1 " + _LAYER).notes[0]


def test_layer_beside_layers_is_refused():
    with pytest.raises(PrototxtError, match=r"<text>:1: 'layer' stands beside 'layers' \(line 2\)"):
        parse_prototxt(_LAYER + "layers { type: RELU }")


def test_v1_network_is_upgraded():
    prototxt = parse_prototxt("""
      layers { name: "data" type: DATA top: "data" data_param { source: "db" batch_size: 2 scale: 0.5
               mirror: true mean_file: "m" crop_size: 27 } transform_param { force_gray: true }
               include { phase: TRAIN } }
      layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2
               weight_decay: 1 weight_decay: 0 param: "w" blob_share_mode: PERMISSIVE loss_weight: 3
               convolution_param { num_output: 4 kernel_size: 3 } }
      layers { name: "loss" type: 21 bottom: "conv" exclude { stage: "x" } }""")
    data, conv, loss = prototxt.net.layer
    assert _types(prototxt) == [("data", "Data"), ("conv", "Convolution"), ("loss", "SoftmaxWithLoss")]
    assert data.include[0].phase == caffe_pb2.TRAIN
    transform = data.transform_param
    assert (transform.scale, transform.mirror) == (0.5, True)
    assert (transform.mean_file, transform.crop_size) == ("m", 27)
    assert transform.force_gray
    assert not any(data.data_param.HasField(x) for x in ("scale", "mirror", "mean_file", "crop_size"))
    assert data.data_param.batch_size == 2
    assert [(x.name, x.lr_mult, x.decay_mult) for x in conv.param] == [("w", 1, 1), ("", 2, 0)]
    assert [x.HasField("share_mode") for x in conv.param] == [True, False]
    assert conv.param[0].share_mode == caffe_pb2.ParamSpec.PERMISSIVE
    assert conv.convolution_param.num_output == 4 and list(conv.loss_weight) == [3]
    assert loss.exclude[0].stage == ["x"]
    assert prototxt.notes == ("upgraded from V1 (`layers`)",)
    assert [place.line for place in prototxt.places] == [2, 5, 8]


def test_every_v1_type_has_a_name():
    types = caffe_pb2.V1LayerParameter.LayerType
    assert set(V1_TYPES) == set(types.keys())
    assert len(set(V1_TYPES.values())) == len(V1_TYPES)
    for name in set(V1_TYPES) - {"NONE"}:
        assert parse_prototxt(f'layers {{ name: "a" type: {name} }}').net.layer[0].type == V1_TYPES[name]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("INTERP", "Interp"), ("PRELU", "PReLU"), ("BN", "BN"), ("PERMUTE", "Permute"), ("NORMALIZE", "Normalize"),
        ("UPSAMPLE", "Upsample"), ("ROI_POOLING", "ROIPooling"), ("LSTM", "LSTM"), ("BATCH_NORM", "BatchNorm"),
        ("DENSE_IMAGE_DATA", "DenseImageData"), ("SEG_ACCURACY", "SegAccuracy"), ("SMOOTH_L1_LOSS", "SmoothL1Loss"),
    ],
)  # fmt: skip
def test_v1_types_of_forks_have_their_current_names(word, name):
    assert parse_prototxt(f'layers {{ name: "a" type: {word} }}').net.layer[0].type == name


def test_every_registered_type_is_known_in_v1():
    # DEPTHWISE_CONVOLUTION: the words of the current name, in capitals. Lstm is another type than V1's LSTM.
    for name in sorted(set(registry()) - set(V1_TYPES.values()) - {"Lstm"}):
        spelled = name.replace("PReLU", "Prelu").replace("ReLU", "Relu")
        word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", spelled).upper()
        assert parse_prototxt(f'layers {{ name: "a" type: {word} }}').net.layer[0].type == name


def test_v1_layers_have_the_parameters_of_forks():
    text = 'layers { name: "a" type: INTERP bottom: "x" top: "y" interp_param { zoom_factor: 2 } strict_dim: false }'
    prototxt = parse_prototxt(text)
    assert prototxt.net.layer[0].interp_param.zoom_factor == 2
    assert prototxt.unknown_fields == ("line 1: layers.strict_dim",)
    current = {f.name for f in caffe_pb2.LayerParameter.DESCRIPTOR.fields if f.name.endswith("_param")}
    old = {f.name for f in caffe_pb2.V1LayerParameter.DESCRIPTOR.fields if f.name.endswith("_param")}
    assert current <= old


def test_v1_types_in_quotes_are_told_apart():
    text = 'layers { name: "a" type: RELU }\nlayers { name: "b" type: "Convolution" }'
    with pytest.raises(PrototxtError, match=r'<text>:2: layers .b. has its type in quotes, "Convolution": .* .layer.'):
        parse_prototxt(text)


@pytest.mark.parametrize("value", ["CUDNN", "MKLDNN", '"CAFFE"', "17", "dpu_v2"])
@pytest.mark.parametrize("message", ["batch_norm_param", "convolution_param", "lrn_param", ""])
def test_no_engine_stops_a_network(message, value):
    engine = f"{message} {{ engine: {value} }}" if message else f"engine: {value}"
    prototxt = parse_prototxt(f'layer {{ name: "a" type: "LRN" {engine} }} engine: {value}')
    assert prototxt.net.layer[0].name == "a" and prototxt.unknown_fields == ()


def test_v1_layer_without_type_is_refused():
    with pytest.raises(PrototxtError, match=r"<text>:2: layers 'b' has no type"):
        parse_prototxt('layers { name: "a" type: RELU }\nlayers { name: "b" }')


_V0 = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 20 input_dim: 20
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "pad" }
layers { layer { name: "conv" type: "conv" num_output: 8 kernelsize: 5 stride: 2 group: 1 biasterm: false
                 weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "constant" value: 1 }
                 blobs_lr: 1 blobs_lr: 2 weight_decay: 3 } bottom: "pad" top: "conv" }
layers { layer { name: "relu" type: "relu" } bottom: "conv" top: "conv" }
layers { layer { name: "pool" type: "pool" pool: AVE kernelsize: 3 stride: 2 pad: 1 }
         bottom: "conv" top: "pool" }
layers { layer { name: "norm" type: "lrn" local_size: 3 alpha: 0.5 beta: 0.25 k: 2 }
         bottom: "pool" top: "norm" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.25 } bottom: "norm" top: "norm" }
layers { layer { name: "fc" type: "innerproduct" num_output: 10 } bottom: "norm" top: "fc" }
layers { layer { name: "cat" type: "concat" concat_dim: 0 } bottom: "fc" bottom: "fc" top: "cat" }
layers { layer { name: "prob" type: "softmax" } bottom: "cat" top: "prob" }
"""


def test_v0_network_is_upgraded():
    prototxt = parse_prototxt(_V0)
    layers = {x.name: x for x in prototxt.net.layer}
    assert list(layers) == ["data", "conv", "relu", "pool", "norm", "drop", "fc", "cat", "prob"]
    assert [x.type for x in layers.values()] == [
        "Input", "Convolution", "ReLU", "Pooling", "LRN", "Dropout", "InnerProduct", "Concat", "Softmax",
    ]  # fmt: skip
    conv = layers["conv"]
    param = conv.convolution_param
    assert list(conv.bottom) == ["data"]
    assert (param.num_output, list(param.kernel_size), list(param.stride), list(param.pad)) == (
        8,
        [5],
        [2],
        [2],
    )
    assert not param.bias_term and param.weight_filler.std == 0.5 and param.bias_filler.value == 1
    assert [(x.lr_mult, x.decay_mult) for x in conv.param] == [(1, 3), (2, 1)]
    pool = layers["pool"].pooling_param
    assert (pool.pool, pool.kernel_size, pool.stride, pool.pad) == (caffe_pb2.PoolingParameter.AVE, 3, 2, 1)
    norm = layers["norm"].lrn_param
    assert (norm.local_size, norm.alpha, norm.beta, norm.k) == (3, 0.5, 0.25, 2)
    assert layers["drop"].dropout_param.dropout_ratio == 0.25
    assert layers["fc"].inner_product_param.num_output == 10
    assert layers["cat"].concat_param.concat_dim == 0
    assert prototxt.notes[0] == "padding layer 'pad' became the pad of 'conv'"


def test_v0_data_layer_is_upgraded():
    text = """layers { layer { name: "d" type: "%s" source: "s" batchsize: 5 scale: 0.5 meanfile: "m"
    cropsize: 7
              mirror: true rand_skip: 3 } top: "d" top: "l" }"""
    for kind, name, param in [("data", "Data", "data_param"), ("images", "ImageData", "image_data_param")]:
        layer = parse_prototxt(text % kind).net.layer[0]
        data, transform = getattr(layer, param), layer.transform_param
        assert layer.type == name and list(layer.top) == ["d", "l"]
        assert (data.source, data.batch_size, data.rand_skip) == ("s", 5, 3)
        assert (transform.scale, transform.mean_file, transform.crop_size, transform.mirror) == (
            0.5,
            "m",
            7,
            True,
        )


def test_every_v0_type_has_a_v1_type():
    assert set(V0_TYPES.values()) <= set(V1_TYPES)
    for name, v1 in V0_TYPES.items():
        text = f'layers {{ layer {{ name: "a" type: "{name}" }} }}'
        assert parse_prototxt(text).net.layer[0].type == V1_TYPES[v1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'layers { layer { name: "a" type: "cnv" } }',
            "<text>:1: layers 'a' has the unknown V0 type 'cnv'; known are",
        ),
        (
            'layers { layer { type: "relu" } }\nlayers { name: "b" type: RELU }',
            "<text>:2: layers 'b' has V1's form",
        ),
        (
            'layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }\n'
            'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
            "<text>:2: layers 'r' reads the padding layer 'p'; only a conv or pool",
        ),
    ],
)
def test_v0_networks_without_meaning_are_refused(text, words):
    with pytest.raises(PrototxtError) as caught:
        parse_prototxt(text)
    assert words in str(caught.value)


def test_v0_fields_that_mean_nothing_for_their_type_are_noted():
    notes = parse_prototxt('layers { layer { name: "r" type: "relu" num_output: 3 new_num: 2 } }').notes
    assert "layer 'r': num_output means nothing for the V0 type 'relu', ignored" in notes
    assert "layer 'r': new_num means nothing for the V0 type 'relu', ignored" in notes


def test_stale_learning_rates_of_batch_norm_are_zeroed():
    text = 'layer { name: "bn" type: "BatchNorm" param { lr_mult: 1 } param { } param { lr_mult: 2 name: "n" } }'
    (layer,) = parse_prototxt(text).net.layer
    assert [(x.lr_mult, x.decay_mult) for x in layer.param] == [(0, 0)] * 3
    assert layer.param[2].name == "n"


def test_all_problems_of_an_upgrade_are_reported_together():
    with pytest.raises(PrototxtError) as caught:
        parse_prototxt('input: "d"\nlayers { name: "a" }\nlayers { name: "b" }')
    assert [p.split(": ")[0] for p in caught.value.problems] == ["<text>:2", "<text>:3", "<text>:1"]


@pytest.mark.parametrize("text", [_LAYER, _V0])
def test_the_result_does_not_change_when_it_is_read_again(text):
    once = parse_prototxt(text)
    twice = parse_prototxt(text_format.MessageToString(once.net))
    assert once.net == twice.net
    assert twice.notes == ()


def test_a_calibration_table_is_called_one():
    with pytest.raises(PrototxtError, match=r"<text>:1: a calibration table"):
        parse_prototxt('layer { name: "data" threshold_y: 1 blob_param { name: "data" threshold_y: 1 } }')
