"""Python layers in a Net: data layers, layers in the middle, with weights, with state."""

from __future__ import annotations

import numpy as np
import pytest
from pycaffe_texts import input_layer

import caffe
from calib8.errors import UserLayerError

MODULE = """
import numpy as np
import caffe

class Ten(caffe.Layer):
    def setup(self, bottom, top): self.factor = float(self.param_str or 10); self.passes = 0; self.setups = 1
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        self.passes += 1
        top[0].data[...] = self.factor * bottom[0].data

class Fails(caffe.Layer):
    def setup(self, bottom, top): raise RuntimeError("on purpose")

class Weighted(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 3
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top): top[0].data[...] = self.blobs[0].data[0] * bottom[0].data

class Phase(caffe.Layer):
    def reshape(self, bottom, top): top[0].reshape()
    def forward(self, bottom, top): top[0].data[()] = self.phase

class Counter(caffe.Layer):
    def setup(self, bottom, top): self.n = 0
    def reshape(self, bottom, top): top[0].reshape(1, self.n + 1)
    def forward(self, bottom, top):
        top[0].data[...] = self.n
        self.n += 1

class Writes(caffe.Layer):
    def setup(self, bottom, top): self.seen = []
    def reshape(self, bottom, top): pass
    def forward(self, bottom, top): self.seen.append(bottom[0].data.tolist())

class Positive(caffe.Layer):
    def reshape(self, bottom, top): top[0].reshape(1, 2)
    def forward(self, bottom, top):
        found = bottom[0].data[bottom[0].data > 0]
        top[0].reshape(1, len(found))
        top[0].data[...] = found
"""


def python(name: str, layer: str, bottom: str = "", top: str = "", param_str: str = "") -> str:
    bottoms, tops = (f'bottom: "{bottom}"' if bottom else ""), (f'top: "{top}"' if top else "")
    return (
        f'layer {{ name: "{name}" type: "Python" {bottoms} {tops} '
        f'python_param {{ module: "pycaffe_user_layers" layer: "{layer}" param_str: "{param_str}" }} }}\n'
    )


def power(name: str, bottom: str, scale: float) -> str:
    return (
        f'layer {{ name: "{name}" type: "Power" bottom: "{bottom}" top: "{name}" power_param {{ scale: {scale} }} }}\n'
    )


@pytest.fixture(autouse=True)
def user_module(tmp_path):
    (tmp_path / "pycaffe_user_layers.py").write_text(MODULE)


def test_a_chain_of_them(make_net):
    net = make_net(
        input_layer("data", 2, 3)
        + python("one", "Ten", "data", "one")
        + python("two", "Ten", "one", "two", "2")
        + power("three", "two", 3)
    )
    net.blobs["data"].data[...] = 8
    assert (net.forward()["three"] == 8 * 10 * 2 * 3).all()
    assert net.layer_dict["two"].factor == 2
    assert net.layers[1].type == "Python"


def test_late_reads_do_not_run_them_again(make_net):
    net = make_net(
        input_layer("data", 2)
        + power("a", "data", 2)
        + python("ten", "Ten", "a", "ten")
        + power("b", "ten", 3)
        + power("c", "b", 1)
    )
    net.forward(data=np.array([1, 2]))
    assert [net.blobs[name].data.tolist() for name in ("a", "ten", "b")] == [[2, 4], [20, 40], [60, 120]]
    assert net.layer_dict["ten"].passes == 1


def test_reshape_keeps_the_instance(make_net):
    net = make_net(input_layer("data", 2, 3) + python("ten", "Ten", "data", "ten"))
    net.forward()
    net.blobs["data"].reshape(4, 4, 4)
    net.forward()
    assert net.blobs["ten"].data.shape == (4, 4, 4)
    net.blobs["data"].reshape(1, 1)
    net.reshape()
    assert net.blobs["ten"].data.shape == (1, 1)
    assert net.layer_dict["ten"].passes == 2


def test_an_exception_is_a_runtime_error(make_net):
    with pytest.raises(RuntimeError, match=r"on purpose at .*pycaffe_user_layers\.py"):
        make_net(input_layer("data", 2) + python("bad", "Fails", "data", "top"))


def test_weights_are_the_layers_own(make_net, tmp_path):
    text = input_layer("data", 2) + python("w", "Weighted", "data", "top")
    net = make_net(text)
    assert net.params["w"][0] is net.layers[1].blobs[0]
    assert net.forward(data=np.array([1, 2]))["top"].tolist() == [3, 6]
    net.params["w"][0].data[0] = 5
    assert net.forward()["top"].tolist() == [5, 10]
    net.save(tmp_path / "w.caffemodel")
    net.params["w"][0].data[0] = -1
    net.copy_from(tmp_path / "w.caffemodel")
    assert net.forward()["top"].tolist() == [5, 10]
    other = make_net(text)
    other.share_with(net)
    net.params["w"][0].data[0] = 7
    assert other.forward(data=np.array([1, 2]))["top"].tolist() == [7, 14]


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_phase(make_net, phase):
    assert make_net(python("p", "Phase", top="phase"), phase).forward()["phase"] == phase


def test_data_layers_have_one_instance_and_may_grow(make_net):
    net = make_net(python("data", "Counter", top="data") + power("twice", "data", 2))
    found = [net.forward()["twice"].tolist() for _ in range(3)]
    assert found == [[[0]], [[2, 2]], [[4, 4, 4]]]
    assert net.layers[0].n == 3


def test_layers_without_tops_run(make_net):
    net = make_net(
        input_layer("data", 1) + power("twice", "data", 2) + python("sink", "Writes", "twice") + power("b", "twice", 2)
    )
    for value in (1, 5):
        net.forward(data=np.array([value]))
    net.forward(end="twice")
    net.forward(start="sink", end="sink")
    assert net.layer_dict["sink"].seen == [[2], [10], [10]]


def test_tops_of_any_length(make_net):
    net = make_net(
        input_layer("data", 1, 4)
        + python("positive", "Positive", "data", "positive")
        + power("a", "positive", 2)
        + power("b", "a", 3)
    )
    for values, expected in (([1, -1, 2, 3], [1, 2, 3]), ([-1, 5, -2, -3], [5]), ([1, -1, -2, 3], [1, 3])):
        assert net.forward(data=np.array([values]))["b"].tolist() == [[6 * x for x in expected]]
        assert net.blobs["a"].data.tolist() == [[2 * x for x in expected]]
        assert net.blobs["positive"].data.tolist() == [expected]
        assert net.forward(start="b")["b"].tolist() == [[6 * x for x in expected]]


def test_a_module_that_is_not_there(make_net):
    with pytest.raises(UserLayerError, match="no module 'nowhere'"):
        make_net(python("x", "X", top="x").replace("pycaffe_user_layers", "nowhere"))
