"""Blobs of a net are live: any order of writing, running and reading shows what an eager Caffe would show."""

from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import caffe

CHAIN = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "double" type: "Power" bottom: "x" top: "a" power_param { scale: 2 shift: 1 } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "ip" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 2 } }
layer { name: "tanh" type: "TanH" bottom: "b" top: "b" }
layer { name: "half" type: "Power" bottom: "b" top: "c" power_param { scale: 0.5 } }
layer { name: "sum" type: "Eltwise" bottom: "x" bottom: "a" top: "e" }
"""
LAYERS = ["x", "double", "relu", "ip", "tanh", "half", "sum"]
SHAPES = {"x": (2, 3), "a": (2, 3), "b": (2, 2), "c": (2, 2), "e": (2, 3)}


class EagerNet:
    """Caffe's way: every layer runs at once and writes its blob."""

    def __init__(self, weights: np.ndarray, bias: np.ndarray) -> None:
        self.blobs = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        self.weights, self.bias = weights.copy(), bias.copy()

    def forward(self, first: int, last: int) -> None:
        v = self.blobs
        for name in LAYERS[first : last + 1]:
            if name == "double":
                v["a"] = v["x"] * 2 + 1
            elif name == "relu":
                v["a"] = np.where(v["a"] > 0, v["a"], 0)
            elif name == "ip":
                v["b"] = np.array([[sum(r * w) for w in self.weights] for r in v["a"]]) + self.bias
            elif name == "tanh":
                v["b"] = np.tanh(v["b"])
            elif name == "half":
                v["c"] = v["b"] * 0.5
            elif name == "sum":
                v["e"] = v["x"] + v["a"]


numbers = st.integers(-4, 4)
steps = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(sorted(SHAPES)), numbers),
    st.tuples(st.just("forward"), st.integers(0, 6), st.integers(0, 6)),
    st.tuples(st.just("forward"), st.just(0), st.just(6)),
    st.tuples(st.just("read"), st.sampled_from(sorted(SHAPES)), st.none()),
    st.tuples(st.just("hold"), st.sampled_from(sorted(SHAPES)), st.none()),
    st.tuples(st.just("weight"), st.sampled_from(["view", "write"]), numbers),
)


@pytest.fixture(scope="module")
def chain_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("chain") / "chain.prototxt"
    path.write_text(CHAIN)
    return str(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=14))
def test_any_order_of_steps(chain_file, plan):
    net = caffe.Net(chain_file, caffe.TEST)
    rng = np.random.default_rng(0)
    weights, bias = rng.standard_normal((2, 3)).astype(np.float32), rng.standard_normal(2).astype(np.float32)
    net.params["ip"][0].data[...], net.params["ip"][1].data[...] = weights, bias
    eager, held, weight_view = EagerNet(weights, bias), {}, None

    def check(name, found):
        np.testing.assert_allclose(found, eager.blobs[name], rtol=1e-5, atol=1e-5, err_msg=f"{name} after {plan}")

    for kind, what, value in plan:
        if kind == "write":
            net.blobs[what].data[0] = value
            eager.blobs[what] = eager.blobs[what].copy()
            eager.blobs[what][0] = value
        elif kind == "forward" and what <= value:
            found = net.forward(start=LAYERS[what], end=LAYERS[value])
            eager.forward(what, value)
            assert list(found) == net.top_names[LAYERS[value]]
            for name, view in found.items():
                check(name, view)
            for name, view in held.items():
                check(name, view)
        elif kind == "read":
            check(what, net.blobs[what].data)
        elif kind == "hold":
            held[what] = net.blobs[what].data
        elif kind == "weight":
            eager.weights[1, 2] = value
            if what == "view":
                weight_view = net.params["ip"][0].data if weight_view is None else weight_view
                weight_view[1, 2] = eager.weights[1, 2]
            else:
                net.params["ip"][0].data[1, 2] = eager.weights[1, 2]
    for name in SHAPES:
        check(name, net.blobs[name].data)


@pytest.fixture
def net(make_net):
    net = make_net(CHAIN)
    net.blobs["x"].data[...] = [[1, 2, 3], [4, 5, 6]]
    return net


def test_a_pass_computes_only_what_is_asked_for(net):
    net.forward()
    assert {name for name, blob in net.blobs.items() if blob.pending} == {"a", "b"}
    net.forward(blobs=["b"])
    assert {name for name, blob in net.blobs.items() if blob.pending} == {"a"}


def test_the_first_read_computes_all_and_the_next_pass_computes_what_was_read(net):
    net.forward()
    assert net.blobs["a"].data.tolist() == [[3, 5, 7], [9, 11, 13]]
    assert not any(blob.pending for blob in net.blobs.values())
    net.forward()
    assert {name for name, blob in net.blobs.items() if blob.pending} == {"b"}
    net.forward()  # nobody has read "a" since
    assert {name for name, blob in net.blobs.items() if blob.pending} == {"a", "b"}


def test_reading_before_the_first_pass_asks_for_nothing(net):
    assert {name: blob.data.shape for name, blob in net.blobs.items()} == SHAPES
    net.forward()
    assert net.blobs["a"].pending


def test_a_late_read_shows_the_pass_not_what_was_written_since(net):
    net.params["ip"][0].data[...] = 1
    net.forward()
    net.blobs["x"].data[...] = 100
    net.params["ip"][0].data[...] = 0
    assert net.blobs["a"].data[0].tolist() == [3, 5, 7]
    assert net.blobs["b"].data[0, 0] == np.tanh(np.float32(15))


def test_views_that_are_kept_are_live(net):
    view, output = net.blobs["a"].data, net.blobs["e"].data
    net.forward()
    assert view.tolist() == [[3, 5, 7], [9, 11, 13]]
    assert output.tolist() == [[4, 7, 10], [13, 16, 19]]
    net.blobs["x"].data[...] = 0
    net.forward()
    assert view.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_returned_arrays_are_the_blobs_own(net):
    found = net.forward()
    assert np.shares_memory(found["e"], net.blobs["e"].data)
    net.blobs["x"].data[...] = 0
    net.forward()
    assert found["e"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_view_with_a_changed_shape_does_not_change_the_blob(net):
    view = net.blobs["x"].data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy from 2.5 on; pycaffe scripts do it
        view.shape = (6,)
    assert net.blobs["x"].data.shape == (2, 3)


def test_blobs_outlive_their_net(make_net):
    net = make_net(CHAIN)
    net.blobs["x"].data[...] = 1
    net.forward()
    blobs, weights = list(net.blobs.values()), [p for vec in net.params.values() for p in vec]
    del net
    gc.collect()
    assert sum(float(blob.data.sum()) for blob in blobs[:2]) == 6 + 18
    assert all(not p.diff.any() and p.diff.shape == p.data.shape for p in weights)


def test_a_net_that_nobody_has_is_gone_at_once(make_net):
    """In a loop that makes a net in every round, sessions would pile up until Python looks for cycles."""
    net = make_net(CHAIN)
    net.forward()
    hidden = weakref.ref(net.blobs["b"])
    gc.disable()
    try:
        del net
        assert hidden() is None
    finally:
        gc.enable()


def test_what_a_blob_says_of_itself(make_net):
    net = make_net('layer { name: "i" type: "Input" top: "i" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }')
    blob = net.blobs["i"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 3, 4, 5, 120)
    assert list(blob.shape) == [2, 3, 4, 5]
    assert blob.data.dtype == np.float32
    assert not blob.diff.any()
    with pytest.raises(AttributeError):
        blob.data = 1


def test_a_failed_pass_leaves_what_was_there(make_net, tmp_path):
    (tmp_path / "moody.py").write_text(
        "import caffe\n"
        "class Moody(caffe.Layer):\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top):\n"
        "        if bottom[0].data[0] == 13: raise ValueError('unlucky')\n"
        "        top[0].data[...] = bottom[0].data\n"
    )
    net = make_net(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }\n'
        'layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { scale: 2 } }\n'
        'layer { name: "m" type: "Python" bottom: "x" top: "m" python_param { module: "moody" layer: "Moody" } }\n'
        'layer { name: "s" type: "Eltwise" bottom: "a" bottom: "m" top: "s" }\n'
    )
    net.blobs["x"].data[...] = 1
    net.forward()
    net.blobs["x"].data[...] = 13
    with pytest.raises(RuntimeError, match="unlucky"):
        net.forward()
    assert net.blobs["a"].data.tolist() == [2]
