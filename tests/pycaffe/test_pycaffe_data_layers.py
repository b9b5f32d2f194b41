"""Data layers in a Net: every forward pass takes the next batch, as in Caffe."""

from __future__ import annotations

import cv2
import lmdb
import numpy as np
import pytest
from pycaffe_texts import input_layer

import caffe
from calib8.errors import DataError, UnsupportedError

TWICE = 'layer { name: "twice" type: "Power" bottom: "data" top: "twice" power_param { scale: 2 } }\n'


@pytest.fixture
def five_records(tmp_path):
    """An LMDB of five images of 1 x 1 pixel, 0 to 4, labelled 10 to 14."""
    path = tmp_path / "lmdb"
    with lmdb.open(str(path), map_size=1 << 22) as env, env.begin(write=True) as transaction:
        for i in range(5):
            datum = caffe.io.array_to_datum(np.full((1, 1, 1), i, np.uint8), 10 + i)
            transaction.put(f"{i:04}".encode(), datum.SerializeToString())
    return path


def data_layer(path, batch: int) -> str:
    return (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" '
        f'data_param {{ source: "{path}" batch_size: {batch} backend: LMDB }} }}\n'
    )


def test_batches_follow_each_other_and_begin_again(make_net, five_records):
    net = make_net(data_layer(five_records, 3) + TWICE)
    assert net.inputs == []
    assert net.outputs == ["label", "twice"]
    for expected in ([0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]):
        found = net.forward()
        assert found["twice"].ravel().tolist() == [2 * i for i in expected]
        assert found["label"].tolist() == [10 + i for i in expected]


def test_a_batch_larger_than_the_data(make_net, five_records):
    net = make_net(data_layer(five_records, 7) + TWICE)
    assert net.forward()["label"].tolist() == [10, 11, 12, 13, 14, 10, 11]
    assert net.forward()["label"].tolist() == [12, 13, 14, 10, 11, 12, 13]


def test_passes_that_begin_behind_the_data_layer_do_not_advance_it(make_net, five_records):
    net = make_net(data_layer(five_records, 1) + TWICE)
    net.forward()
    net.blobs["data"].data[...] = 50
    assert net.forward(start="twice")["twice"].ravel().tolist() == [100]
    assert net.forward(end="data")["label"].tolist() == [11]
    assert net.blobs["twice"].data.ravel().tolist() == [100]


def test_late_reads_show_their_own_batch(make_net, five_records):
    net = make_net(
        data_layer(five_records, 1)
        + TWICE
        + 'layer { name: "sum" type: "Power" bottom: "twice" top: "sum" power_param { shift: 1 } }'
    )
    net.forward()
    net.forward()
    net.forward(end="data")
    assert net.blobs["data"].data.ravel().tolist() == [2]
    assert net.blobs["twice"].data.ravel().tolist() == [2]


def test_image_lists(make_net, tmp_path):
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((2, 2, 3), 10 + i, np.uint8))
    (tmp_path / "list.txt").write_text("0.png 5\n1.png 6\n")
    net = make_net(
        'layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param { '
        f'source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" batch_size: 1 }} }}\n' + TWICE
    )
    assert [net.forward()["label"].tolist() for _ in range(3)] == [[5], [6], [5]]
    assert net.blobs["twice"].data.mean() == 20


def test_data_that_is_not_there(make_net, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        make_net(data_layer(tmp_path / "nowhere", 1) + TWICE)


MEMORY = (
    'layer { name: "data" type: "MemoryData" top: "data" top: "label" '
    "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 2 } }\n" + TWICE
)


def test_arrays_of_the_program(make_net):
    net = make_net(MEMORY)
    data = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    for first in (0, 2, 0):
        found = net.forward()
        assert found["twice"].tolist() == (2 * data[first : first + 2]).tolist()
        assert found["label"].shape == (2, 1, 1, 1)
        assert found["label"].ravel().tolist() == [first, first + 1]
    data[2:] = 7  # no copy was made
    assert (net.forward()["twice"] == 14).all()


@pytest.mark.parametrize(
    ("data", "labels", "text"),
    [
        (np.zeros((2, 1, 2, 2)), np.zeros(2, np.float32), "data is no C-contiguous float32 array"),
        (np.zeros((2, 3, 2, 2), np.float32), np.zeros(2, np.float32), r"data has the shape \(2, 3, 2, 2\); expected"),
        (np.zeros((2, 1, 2, 2), np.float32), np.zeros(4, np.float32), "2 data and 4 labels"),
        (
            np.zeros((3, 1, 2, 2), np.float32),
            np.zeros(3, np.float32),
            "3 data, expected a multiple of the batch_size 2",
        ),
        (np.zeros((0, 1, 2, 2), np.float32), np.zeros(0, np.float32), "0 data"),
    ],
)
def test_arrays_that_do_not_fit(make_net, data, labels, text):
    with pytest.raises(DataError, match=text):
        make_net(MEMORY).set_input_arrays(data, labels)


def test_arrays_must_be_given_and_have_a_place(make_net):
    with pytest.raises(DataError, match="has no data; call net"):
        make_net(MEMORY).forward()
    with pytest.raises(DataError, match=r"needs a MemoryData layer as the first layer; the first is 'data' \(Input\)"):
        make_net(input_layer("data", 1)).set_input_arrays(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))


def dummy(param: str, tops: str = 'top: "data" top: "other"') -> str:
    return f'layer {{ name: "dummy" type: "DummyData" {tops} dummy_data_param {{ {param} }} }}\n'


def test_constants_stay_as_the_user_leaves_them(make_net):
    net = make_net(dummy("shape { dim: 2 } data_filler { value: 3 }") + TWICE)
    assert net.inputs == []
    assert net.layers[0].type == "DummyData"
    assert net.blobs["data"].data.tolist() == [3, 3]
    assert net.forward()["twice"].tolist() == [6, 6]
    net.blobs["data"].data[0] = 1
    assert net.forward()["twice"].tolist() == [2, 6]


def test_random_numbers_are_new_in_every_pass(make_net):
    net = make_net(dummy('shape { dim: 9 } data_filler { type: "gaussian" } data_filler { value: 1 }') + TWICE)
    first, second = (net.forward()["twice"].tolist() for _ in range(2))
    assert first != second
    assert net.blobs["other"].data.tolist() == [1] * 9


@pytest.mark.parametrize(
    ("param", "text"),
    [
        ("shape { dim: 2 } data_filler { } data_filler { } data_filler { }", "has 3 data_filler for 2 tops"),
        ("shape { dim: 2 } num: 1", "both shape and num"),
        ('shape { dim: 2 } data_filler { type: "magic" }', r"layer 'dummy' \(DummyData\) has a filler of type 'magic'"),
    ],
)
def test_dummy_data_without_a_meaning(make_net, param, text):
    with pytest.raises(UnsupportedError, match=text):
        make_net(dummy(param) + TWICE)


def test_layers_of_other_phases_are_not_opened(make_net, five_records):
    train = data_layer("/nowhere", 1).replace("data_param", "include { phase: TRAIN } data_param")
    test = data_layer(five_records, 1).replace("data_param", "include { phase: TEST } data_param")
    assert make_net(train + test + TWICE).forward()["label"].tolist() == [10]
