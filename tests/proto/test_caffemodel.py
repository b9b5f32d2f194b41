"""Weight files of every age and storage, what is wrong with others, and the writer's bytes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib8.errors import CaffemodelError, OptionError
from calib8.proto import caffe_pb2
from calib8.proto.blobs import BlobError, read_blob
from calib8.proto.caffemodel import (
    MAX_BLOBS,
    MAX_LAYERS,
    blob_from_proto,
    blob_to_proto,
    read_caffemodel,
    write_caffemodel,
)
from calib8.proto.wire import MAX_FIELDS, Reader, WireError, encode_header

_VALUES = np.arange(6, dtype=np.float32) / 4


def _blob(**fields):
    return caffe_pb2.BlobProto(**fields).SerializeToString()


def _message(number, data):
    return encode_header(number, len(data)) + data


def _file(tmp_path, data, name="w.caffemodel"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def _current(*blobs, name=b"conv", kind=b"Convolution"):
    """A binary network of one layer with these serialised blobs."""
    layer = _message(1, name) + _message(2, kind) + b"".join(_message(7, b) for b in blobs)
    return _message(1, b"net") + _message(100, layer)


def _read_one(tmp_path, blob):
    (layer,) = read_caffemodel(_file(tmp_path, _current(blob))).layers
    return layer.blobs[0]


def test_current_file(tmp_path):
    net = caffe_pb2.NetParameter(name="net")
    net.layer.add(name="data", type="Data", top=["data"])
    layer = net.layer.add(name="conv", type="Convolution", bottom=["data"], phase=1)
    layer.convolution_param.num_output = 2
    layer.blobs.append(blob_to_proto(_VALUES.reshape(2, 3)))
    layer.blobs.append(blob_to_proto(_VALUES[:2]))
    path = _file(tmp_path, net.SerializeToString())
    model = read_caffemodel(path)
    assert (model.source, model.name) == (str(path), "net")
    assert [(x.name, x.type, len(x.blobs)) for x in model.layers] == [
        ("data", "Data", 0),
        ("conv", "Convolution", 2),
    ]
    assert np.array_equal(model.layers[1].blobs[0], _VALUES.reshape(2, 3))
    assert [x.shape for x in model.layers[1].blobs] == [(2, 3), (2,)]


def test_blobs_are_read_only_views_of_the_file(tmp_path):
    blob = _read_one(tmp_path, _blob(data=_VALUES, shape=caffe_pb2.BlobShape(dim=[6])))
    assert not blob.flags.writeable and not blob.flags.owndata
    base = blob
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, memoryview) and len(base) == (tmp_path / "w.caffemodel").stat().st_size
    with pytest.raises(ValueError, match="read-only"):
        blob[0] = 1


_STORED = {
    "packed": _blob(data=_VALUES),
    "single values": b"".join(b"\x2d" + struct.pack("<f", x) for x in _VALUES),
    "several packed fields": _blob(data=_VALUES[:2]) + _blob(data=_VALUES[2:]),
    "packed and single": _blob(data=_VALUES[:5]) + b"\x2d" + struct.pack("<f", _VALUES[5]),
    "long tags": b"".join(b"\xad\x80\x00" + struct.pack("<f", x) for x in _VALUES),
    "double": _blob(double_data=_VALUES),
    "single doubles": b"".join(b"\x41" + struct.pack("<d", x) for x in _VALUES),
    "double beside data": _blob(data=[9] * 3, double_data=_VALUES),
    "raw double": _blob(raw_data_type=0, raw_data=_VALUES.astype("<f8").tobytes()),
    "raw float": _blob(raw_data_type=1, raw_data=_VALUES.tobytes()),
    "raw half": _blob(raw_data_type=2, raw_data=_VALUES.astype("<f2").tobytes()),
    "with diff": _blob(data=_VALUES, diff=[1, 2], double_diff=[3]),
    "unknown fields": _blob(data=_VALUES) + _message(99, b"x") + b"\x98\x06\x07",
}


@pytest.mark.parametrize("data", _STORED.values(), ids=_STORED)
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (_blob(shape=caffe_pb2.BlobShape(dim=[2, 3])), (2, 3)),
        (_message(7, b"\x08\x02\x08\x03"), (2, 3)),
        (_blob(num=1, channels=2, height=3, width=1), (1, 2, 3, 1)),
    ],
    ids=["shape", "shape, not packed", "four numbers"],
)
def test_every_way_to_store_a_blob(tmp_path, data, shape, expected):
    for stored in (data + shape, shape + data):
        blob = _read_one(tmp_path, stored)
        assert blob.dtype == np.float32 and blob.shape == expected
        assert np.array_equal(blob.ravel(), _VALUES)
        assert not blob.flags.writeable


def test_scalars_and_empty_blobs(tmp_path):
    assert _read_one(tmp_path, _blob(data=[3.0], shape=caffe_pb2.BlobShape())).shape == ()
    assert _read_one(tmp_path, _blob(data=[3.0])).shape == ()
    assert _read_one(tmp_path, _blob(shape=caffe_pb2.BlobShape(dim=[0, 5]))).shape == (0, 5)


def test_single_values_beyond_one_block():
    values = np.arange(1 << 21, dtype=np.float32)
    items = np.zeros(values.size, dtype=[("tag", "u1"), ("value", "<f4")])
    items["tag"], items["value"] = 0x2D, values
    data = items.tobytes() + _blob(shape=caffe_pb2.BlobShape(dim=[values.size]))
    assert np.array_equal(read_blob(Reader(memoryview(data)), 0, len(data)), values)


def test_v1_file(tmp_path):
    net = caffe_pb2.NetParameter(name="old")
    net.layers.add(name="conv", type="CONVOLUTION", blobs=[caffe_pb2.BlobProto(num=1, channels=6, data=_VALUES)])
    net.layers[0].blobs[0].height = net.layers[0].blobs[0].width = 1
    data = net.SerializeToString() + _message(2, _message(4, b"fork") + b"\x28\xe7\x07")
    layers = read_caffemodel(_file(tmp_path, data)).layers
    assert [(x.name, x.type) for x in layers] == [("conv", "Convolution"), ("fork", "")]
    assert layers[0].blobs[0].shape == (1, 6, 1, 1)


def test_v0_file(tmp_path):
    net = caffe_pb2.NetParameter()
    inner = net.layers.add(bottom=["x"]).layer
    inner.name, inner.type = "fc", "innerproduct"
    inner.blobs.append(blob_to_proto(_VALUES))
    net.layers.add().layer.type = "padding"
    layers = read_caffemodel(_file(tmp_path, net.SerializeToString())).layers
    assert [(x.name, x.type, len(x.blobs)) for x in layers] == [("fc", "InnerProduct", 1), ("", "padding", 0)]


def test_forks_numbers_for_parameters_do_not_matter(tmp_path):
    """148 is a message in three forks and something else in a fourth; none of it is looked at."""
    layer = _message(1, b"p") + _message(148, b"\xff\xff no message \xff") + b"\xa0\x09\x01"
    net = _message(100, layer + _message(7, _blob(data=[1.0]))) + b"\x48\x05"
    assert read_caffemodel(_file(tmp_path, net)).layers[0].blobs[0] == 1.0


def test_names_in_other_codes(tmp_path):
    model = read_caffemodel(_file(tmp_path, _current(name=b"caf\xe9") + _message(100, _message(1, "网".encode()))))
    assert [x.name for x in model.layers] == ["caf\xe9", "网"]


def test_text_weights(tmp_path):
    net = caffe_pb2.NetParameter(name="n")
    net.layer.add(name="a", type="InnerProduct", blobs=[blob_to_proto(_VALUES.reshape(3, 2))])
    old = caffe_pb2.NetParameter(name="n")
    old.layers.add(name="a", type="INNER_PRODUCT", blobs=[blob_to_proto(_VALUES.reshape(3, 2))])
    oldest = caffe_pb2.NetParameter(name="n")
    oldest.layers.add().layer.CopyFrom(
        caffe_pb2.V0LayerParameter(name="a", type="innerproduct", blobs=[blob_to_proto(_VALUES.reshape(3, 2))])
    )
    for message in (net, old, oldest):
        text = "# weights\r\n" + text_format.MessageToString(message)
        model = read_caffemodel(_file(tmp_path, text.encode()))
        assert [(x.name, x.type) for x in model.layers] == [("a", "InnerProduct")]
        assert np.array_equal(model.layers[0].blobs[0], _VALUES.reshape(3, 2))


def test_wrong_text_weights_are_refused(tmp_path):
    wrong = 'layer { name: "a" blobs { shape { dim: 3 } data: 1 } blobs { data: [1, 2] } }'
    with pytest.raises(CaffemodelError) as caught:
        read_caffemodel(_file(tmp_path, wrong.encode()))
    assert len(caught.value.problems) == 2
    for text, words in [
        ('layer { name: "a" }', ":1: a text without blobs"),
        ("layer {\n blobs { data: x } }", ":2: blobs.data expects a number"),
    ]:
        with pytest.raises(CaffemodelError, match=words):
            read_caffemodel(_file(tmp_path, text.encode()))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"  <!DOCTYPE html><html>", "at byte 0: the file is a web page"),
        (b"<HTML><head>", "at byte 0: the file is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (bytes(100), "at byte 0 of 100: byte 0x00 begins no protobuf field"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "at byte 10 of 108"),
        (_message(1, b"n"), "not a caffemodel, it has no layers"),
        (_blob(num=1, channels=3, height=1, width=1, data=[1, 2, 3]), "at byte 0"),
        (_message(100, b"\x0b"), "at byte 3 of 4: byte 0x0b begins no protobuf field"),
        (b"\xa2\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a number has over ten bytes"),
        (b"\xa2\x06\x80", "the data end inside a number"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, data, words):
    with pytest.raises(CaffemodelError) as caught:
        read_caffemodel(_file(tmp_path, data))
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "w.caffemodel"))
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in [
        (tmp_path, "regular"),
        (tmp_path / "no", "No such file"),
        (tmp_path / "pipe", "regular"),
    ]:
        with pytest.raises(CaffemodelError, match=words):
            read_caffemodel(path)
    with pytest.raises(CaffemodelError, match="cannot be read"):
        read_caffemodel("a\0b")


def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path):
    whole = _current(blob_to_proto(_VALUES).SerializeToString(), blob_to_proto(_VALUES[:3]).SerializeToString())
    name_ends = len(_message(1, b"net"))
    for size in range(1, len(whole)):
        with pytest.raises(CaffemodelError) as caught:
            read_caffemodel(_file(tmp_path, whole[:size]))
        expected = "it has no layers" if size == name_ends else f" of {size}"
        assert expected in str(caught.value)


def test_a_file_that_is_damaged_inside_names_the_layer(tmp_path):
    with pytest.raises(CaffemodelError, match="inside layer 'conv'"):
        read_caffemodel(_file(tmp_path, _current(b"\x2a\x40\0\0")))


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (
            _blob(shape=caffe_pb2.BlobShape(dim=[2, 4]), data=_VALUES),
            "the shape 2 x 4, which is 8 values, but 6 are",
        ),
        (_blob(shape=caffe_pb2.BlobShape(dim=[6])), "6 values, but 0 are stored"),
        (_blob(data=_VALUES), "the shape (), which is 1 values, but 6 are"),
        (_blob(num=1, channels=6, data=_VALUES), "the shape 1 x 6 x 0 x 0, which is 0 values"),
        (_blob(shape=caffe_pb2.BlobShape(dim=[-1, -6]), data=_VALUES), "-1 x -6"),
        (_blob(shape=caffe_pb2.BlobShape(dim=[2**31]), data=_VALUES), "from 0 to 2147483647"),
        (_blob(shape=caffe_pb2.BlobShape(dim=[2**31 - 1] * 3)), "more than"),
        (_blob(shape=caffe_pb2.BlobShape(dim=[0] + [2**31 - 1] * 3)), "more than"),
        (_blob(shape=caffe_pb2.BlobShape(dim=[1] * 33), data=[1]), "axes"),
        (_blob(num=-1, data=[1]), "-1 x 0 x 0 x 0"),
    ],
)
def test_blobs_that_do_not_fit_their_shapes(tmp_path, blob, words):
    good = _blob(data=[1])
    with pytest.raises(CaffemodelError) as caught:
        read_caffemodel(_file(tmp_path, _current(good, blob) + _current(blob, name=b"b")))
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("layer 'conv' blob 1 (at byte ")
    assert caught.value.problems[1].startswith("layer 'b' blob 0 (at byte ")
    assert words in str(caught.value)


def test_damaged_data_of_a_blob(tmp_path):
    for blob, words in [
        (_message(5, b"12345"), "no whole number of 4-byte values"),
        (_message(8, b"12345"), "no whole number of 8-byte values"),
        (_blob(raw_data_type=2, raw_data=b"123"), "no whole number of float16 values"),
        (b"\x50\x07" + _blob(raw_data=b"12"), "raw_data_type 7 is unknown"),
        (b"\x28\x01", "a blob's data is stored as a varint"),
        (b"\x0a\x00", "a blob's size is stored as a length"),
    ]:
        with pytest.raises(CaffemodelError, match=words):
            read_caffemodel(_file(tmp_path, _current(blob)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_message(100, b"") * (MAX_LAYERS + 1), "layers"),
        (_message(100, b"\x3a\x00" * (MAX_BLOBS + 1)), "blobs"),
        (_message(100, b"\x98\x06\x00" * (MAX_FIELDS + 1)), "fields"),
    ],
)
def test_bombs_are_refused(tmp_path, data, words):
    with pytest.raises(CaffemodelError, match=f"more than [0-9]+ {words}"):
        read_caffemodel(_file(tmp_path, data))


_SMALL = _current(
    *(_STORED[x] + _blob(shape=caffe_pb2.BlobShape(dim=[6])) for x in ("packed", "single values", "raw half"))
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(_SMALL) - 1), st.binary(max_size=4), st.integers(0, 4)), max_size=4))
def test_damaged_files_are_read_or_refused(tmp_path_factory, damages):
    data = bytearray(_SMALL)
    for place, new, skipped in damages:
        data[place : place + skipped] = new
    path = _file(tmp_path_factory.getbasetemp(), bytes(data))
    try:
        model = read_caffemodel(path)
    except CaffemodelError:
        return
    assert sum(b.nbytes for x in model.layers for b in x.blobs) <= 4 * len(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_blob_or_refused(data):
    try:
        blob = read_blob(Reader(memoryview(data)), 0, len(data))
    except (WireError, BlobError):
        return
    assert blob.nbytes <= 4 * len(data) and blob.dtype == np.float32


def test_blob_messages_both_ways():
    array = _VALUES.reshape(1, 2, 3)
    message = blob_to_proto(array)
    assert list(message.shape.dim) == [1, 2, 3] and list(message.data) == list(_VALUES)
    back = blob_from_proto(message)
    assert np.array_equal(back, array) and back.shape == array.shape
    with pytest.raises(BlobError, match="but 2 are stored"):
        blob_from_proto(caffe_pb2.BlobProto(num=1, channels=3, height=1, width=1, data=[1, 2]))


_ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    elements=st.floats(width=32, allow_nan=False),
)
_LAYERS = st.lists(
    st.tuples(
        st.builds(
            caffe_pb2.LayerParameter,
            name=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            type=st.sampled_from(["ReLU", "Convolution"]),
            bottom=st.lists(st.sampled_from(["a", "b"]), max_size=2),
            phase=st.sampled_from([None, 0, 1]),
            param=st.lists(st.builds(caffe_pb2.ParamSpec, lr_mult=st.sampled_from([0, 1])), max_size=2),
            convolution_param=st.sampled_from([None, caffe_pb2.ConvolutionParameter(num_output=3, pad=[1])]),
            blobs=st.sampled_from([[], [caffe_pb2.BlobProto(data=[7.0])]]),
        ),
        st.lists(_ARRAYS, max_size=3),
    ),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10), _LAYERS)
def test_written_bytes_are_protobufs(tmp_path_factory, name, layers):
    net = caffe_pb2.NetParameter(name=name)
    for layer, blobs in layers:
        copy = net.layer.add()
        copy.CopyFrom(layer)
        del copy.blobs[:]
        copy.blobs.extend(blob_to_proto(b) for b in blobs)
    path = tmp_path_factory.getbasetemp() / "out.caffemodel"
    write_caffemodel(path, name, layers)
    assert path.read_bytes() == net.SerializeToString(deterministic=True)
    if layers:
        back = read_caffemodel(path)
        assert back.name == name
        for read, (layer, blobs) in zip(back.layers, layers, strict=True):
            assert (read.name, read.type) == (layer.name, layer.type)
            assert [x.shape for x in read.blobs] == [x.shape for x in blobs]
            assert all(np.array_equal(x, y) for x, y in zip(read.blobs, blobs, strict=True))


def test_writer_takes_other_dtypes_and_layouts(tmp_path):
    array = np.arange(24, dtype=np.float64).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    path = tmp_path / "a.caffemodel"
    write_caffemodel(path, "", [(caffe_pb2.LayerParameter(name="x"), [array, np.int8([[-128]])])])
    (layer,) = read_caffemodel(path).layers
    assert np.array_equal(layer.blobs[0], array) and layer.blobs[1] == -128
    assert read_caffemodel(path).name == ""


def test_writer_keeps_fields_that_the_schema_does_not_know(tmp_path):
    layer = caffe_pb2.LayerParameter.FromString(_message(1, b"x") + _message(77777, b"secret"))
    write_caffemodel(tmp_path / "a", "n", [(layer, [_VALUES])])
    written = caffe_pb2.NetParameter.FromString((tmp_path / "a").read_bytes()).layer[0]
    assert written.SerializeToString().count(b"secret") == 1


def test_writer_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(b"old")

    def layers():
        yield caffe_pb2.LayerParameter(name="x"), [_VALUES]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_caffemodel(path, "n", layers())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OptionError):
        write_caffemodel(tmp_path / "no" / "a", "n", [])


_PEAK = """
import re, sys
import numpy as np
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import read_caffemodel, write_caffemodel

def peak():
    # ru_maxrss would begin with the peak of the process that started this one.
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024

start = peak()
if sys.argv[2] == "write":
    blob = np.ones((16, 1 << 20), np.float32)
    layers = ((caffe_pb2.LayerParameter(name=str(n)), [row]) for n, row in enumerate(np.split(blob, 16)))
    write_caffemodel(sys.argv[1], "n", layers)
else:
    sizes = [b.sum() for x in read_caffemodel(sys.argv[1]).layers for b in x.blobs]
    assert len(sizes) == 16
print(peak() - start)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_about_one_copy_of_the_weights(tmp_path):
    """64 MiB of weights: written from one copy of them, read with one mapping; never a second copy."""
    weights = 64 * 2**20
    for action in ("write", "read"):
        command = [sys.executable, "-c", _PEAK, str(tmp_path / "big.caffemodel"), action]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        assert 0.9 * weights < int(result.stdout) < 1.25 * weights, action
