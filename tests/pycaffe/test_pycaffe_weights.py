"""Weights of a Net: written, copied, shared, saved, made by fillers."""

from __future__ import annotations

import logging
import weakref

import numpy as np
import pytest
from pycaffe_texts import input_layer

import caffe
from calib8.errors import CaffemodelError, OptionError, UnsupportedError
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import read_caffemodel
from calib8.pycaffe.blob import Parameter

NET = (
    input_layer("x", 1, 3)
    + """
layer { name: "one" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2
  weight_filler { type: "gaussian" std: 1 } bias_filler { type: "constant" value: 7 } } }
layer { name: "two" type: "InnerProduct" bottom: "y" top: "z" inner_product_param { num_output: 2
  weight_filler { type: "xavier" } } }
"""
)
LONGER = NET + 'layer { name: "three" type: "InnerProduct" bottom: "z" top: "q" inner_product_param { num_output: 1 } }'
WIDER = NET.replace("num_output: 2", "num_output: 3")


def arrays(net: caffe.Net) -> dict[str, list[list[float]]]:
    return {name: [p.data.tolist() for p in vec] for name, vec in net.params.items()}


@pytest.fixture
def saved(make_net, tmp_path):
    """A net with weights of its own, and the caffemodel that it saves."""
    net = make_net(NET)
    for vec in net.params.values():
        for p in vec:
            p.data[...] = np.random.default_rng(5).standard_normal(p.data.shape)
    path = tmp_path / "saved.caffemodel"
    net.save(str(path))
    return net, path


def test_weights_can_be_made_from_nothing(make_net):
    net = make_net(NET)
    net.params["one"][0].data[...] = [[1, 0, 0], [0, 1, 0]]
    net.params["one"][1].data[...] = 0
    net.params["two"][0].data[...] = [[0, 1], [1, 0]]
    assert net.forward(x=[[3, 5, 7]])["z"].tolist() == [[5, 3]]
    net.params["two"][1].data[0] = 100
    assert net.forward(x=[[3, 5, 7]])["z"].tolist() == [[105, 3]]


@pytest.mark.parametrize("name", ["net.caffemodel", "net.caffemodel.h5"])
def test_round_trip(make_net, saved, tmp_path, name):
    net, _ = saved
    net.save(tmp_path / name)
    for load in (lambda: make_net(NET, weights=str(tmp_path / name)), lambda: loaded(make_net(NET), tmp_path / name)):
        assert arrays(load()) == arrays(net)


def loaded(net, path):
    net.load_hdf5(str(path))
    return net


def test_older_constructor(write_prototxt, saved):
    net, path = saved
    assert arrays(caffe.Net(str(write_prototxt(NET)), str(path), caffe.TEST)) == arrays(net)


def test_saved_file_is_a_whole_net(saved):
    _, path = saved
    stored = read_caffemodel(path)
    assert [(x.name, x.type, len(x.blobs)) for x in stored.layers] == [
        ("x", "Input", 0),
        ("one", "InnerProduct", 2),
        ("two", "InnerProduct", 2),
    ]
    message = caffe_pb2.NetParameter.FromString(path.read_bytes())
    assert message.layer[1].inner_product_param.num_output == 2
    assert message.layer[1].bottom == ["x"]


def test_hdf5_names_are_groups(make_net, tmp_path):
    h5py = pytest.importorskip("h5py")
    net = make_net(NET)
    net.save_hdf5(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5") as file:
        assert file["data/one/1"][...].tolist() == [7, 7]


def test_copying_goes_by_name_and_leaves_the_rest(make_net, saved):
    net, path = saved
    longer = make_net(LONGER)
    before = longer.params["three"][0].data.tolist()
    longer.copy_from(str(path))
    assert arrays(longer) == {**arrays(net), "three": [before, [0]]}
    longer.save(path)
    shorter = make_net(NET)
    shorter.copy_from(str(path))
    assert arrays(shorter) == arrays(net)


def test_weights_of_other_shapes_are_refused_and_nothing_is_copied(make_net, saved):
    _, path = saved
    wider = make_net(WIDER)
    before = arrays(wider)
    with pytest.raises(CaffemodelError) as caught:
        wider.copy_from(str(path))
    assert [p.partition(" has ")[0] for p in caught.value.problems] == ["layer 'one'", "layer 'two'"]
    assert arrays(wider) == before


def test_layers_without_weights_are_named(make_net, saved, caplog):
    with caplog.at_level(logging.WARNING):
        make_net(LONGER, weights=saved[1])
    assert "saved.caffemodel has no weights for the layers three" in caplog.text
    caplog.clear()
    make_net(NET, weights=saved[1])
    assert not caplog.records


def test_copying_reaches_views_that_are_kept(make_net, saved):
    net, path = saved
    other = make_net(NET)
    view = other.params["one"][0].data
    other.copy_from(str(path))
    assert view.tolist() == net.params["one"][0].data.tolist()


def test_shared_weights_are_the_same(make_net, saved):
    net, _ = saved
    other = make_net(LONGER)
    other.share_with(net)
    net.params["one"][1].data[...] = 50
    other.params["two"][1].data[...] = -1
    assert other.params["one"][1].data.tolist() == [50, 50]
    x = [[1, 2, 3]]
    assert other.forward(blobs=["z"], x=x)["z"].tolist() == net.forward(x=x)["z"].tolist()
    with pytest.raises(CaffemodelError, match="cannot share"):
        make_net(WIDER).share_with(net)


def test_weights_shared_by_name_in_one_net(make_net):
    shared = 'param { name: "w" } param { name: "b" } inner_product_param { num_output: 2 }'
    net = make_net(
        input_layer("x", 1, 2)
        + f'layer {{ name: "one" type: "InnerProduct" bottom: "x" top: "y" {shared} }}\n'
        + f'layer {{ name: "two" type: "InnerProduct" bottom: "y" top: "z" {shared} }}'
    )
    net.params["one"][0].data[...] = [[0, 2], [3, 0]]
    assert net.params["two"][0].data.tolist() == [[0, 2], [3, 0]]
    assert net.forward(x=[[1, 10]])["z"].tolist() == [[6, 60]]


def test_weights_shared_by_name_need_not_all_be_in_the_file(make_net, tmp_path, caplog):
    twin = 'param { name: "w" } inner_product_param { num_output: 3 bias_term: false }'
    one = input_layer("x", 1, 3) + f'layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" {twin} }}\n'
    net = make_net(one)
    net.params["a"][0].data[...] = np.eye(3) * 2
    net.save(str(tmp_path / "one.caffemodel"))
    two = one + f'layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" {twin} }}\n'
    both = make_net(two, weights=str(tmp_path / "one.caffemodel"))
    assert both.forward(x=[[1, 2, 3]])["b"].tolist() == [[4, 8, 12]]
    assert "no weights" not in caplog.text


def test_weights_shared_by_name_need_one_shape(make_net):
    with pytest.raises(UnsupportedError, match="shares 'w' with layer 'one', but its blob 0 has the shape"):
        make_net(
            input_layer("x", 1, 2)
            + 'layer { name: "one" type: "InnerProduct" bottom: "x" top: "y" param { name: "w" } '
            "inner_product_param { num_output: 3 } }\n"
            'layer { name: "two" type: "InnerProduct" bottom: "y" top: "z" param { name: "w" } '
            "inner_product_param { num_output: 3 } }"
        )


def test_saving_to_nowhere(make_net, tmp_path):
    with pytest.raises(OptionError, match="choose a folder that exists"):
        make_net(NET).save(tmp_path / "nowhere" / "net.caffemodel")


def test_weights_that_nobody_writes_are_not_copied():
    values = np.arange(3, dtype=np.float32)
    values.flags.writeable = False
    parameter = Parameter(values)
    assert parameter.settled() is values
    assert parameter.data.sum() == 3  # read, and not kept
    assert parameter.settled() is values


def test_copies_end_with_their_views():
    parameter = Parameter(np.zeros(2, np.float32))
    copy = weakref.ref(parameter.data.base.base.obj)  # behind the view and what is lent
    assert copy() is not None
    parameter.settled()
    assert copy() is None


def test_settled_weights_are_never_written_again():
    parameter = Parameter(np.zeros(2, np.float32))
    view = parameter.data
    view[0] = 1
    first = parameter.settled()
    view[0] = 2
    assert first.tolist() == [1, 0]
    assert parameter.settled().tolist() == [2, 0]
    assert parameter.settled() is parameter.settled()
    del view
    parameter.data[1] = np.nan
    assert parameter.settled() is parameter.settled()  # NaN is equal to itself here


def test_a_reshaped_weight(make_net):
    net = make_net(NET)
    net.params["one"][0].reshape(2, 4)
    assert net.params["one"][0].data.shape == (2, 4)
    with pytest.raises(UnsupportedError, match="layer 'one'"):
        net.forward()
    net.blobs["x"].reshape(1, 4)
    net.params["one"][0].data[...] = 1
    assert net.forward(blobs=["y"], x=[[1, 2, 3, 4]])["y"].tolist() == [[17, 17]]
