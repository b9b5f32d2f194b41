"""Python layers anywhere in a network: the class found, shapes from it, values the same as those of an ONNX layer."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from calib8.engine import Executor, run_float
from calib8.errors import UnsupportedError, UserLayerError
from calib8.lowering import build_model, lower_float
from calib8.proto.text import parse_prototxt

_MODULE = """
    import threading
    import time
    import numpy as np
    import caffe

    class Relu(caffe.Layer):
        def setup(self, bottom, top):
            assert self.phase == caffe.TEST
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)
        def forward(self, bottom, top):
            top[0].data[...] = np.maximum(bottom[0].data, 0)

    class SumAndDifference(caffe.Layer):
        def reshape(self, bottom, top):
            for t in top:
                t.reshape(*bottom[0].shape)
        def forward(self, bottom, top):
            top[0].data[...] = bottom[0].data + bottom[1].data
            top[1].data[...] = bottom[0].data - bottom[1].data

    class Affine(caffe.Layer):
        def setup(self, bottom, top):
            self.blobs.add_blob(3)
            self.blobs.add_blob(1)
        def reshape(self, bottom, top):
            top[0].reshape(bottom[0].num, 3)
        def forward(self, bottom, top):
            top[0].data[...] = bottom[0].data * self.blobs[0].data + self.blobs[1].data

    class Positive(caffe.Layer):
        def reshape(self, bottom, top):
            top[0].reshape(1)
        def forward(self, bottom, top):
            found = bottom[0].data[bottom[0].data > 0]
            top[0].reshape(len(found))
            top[0].data[...] = found

    class Alone(caffe.Layer):
        busy = threading.Lock()
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)
        def forward(self, bottom, top):
            assert self.busy.acquire(blocking=False)
            top[0].data[...] = 2 * bottom[0].data
            self.busy.release()

    class Slow(caffe.Layer):
        started = threading.Event()
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)
        def forward(self, bottom, top):
            self.started.set()
            time.sleep(0.2)
            top[0].data[...] = 2 * bottom[0].data

    class Broken(caffe.Layer):
        def setup(self, bottom, top):
            raise RuntimeError("no such luck")

    class Settings(caffe.Layer):
        def setup(self, bottom, top):
            self.factor = float(self.param_str)
        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)
        def forward(self, bottom, top):
            top[0].data[...] = self.factor * bottom[0].data
"""

_INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } '


@pytest.fixture
def parse(tmp_path):
    """parse(text): the network of a prototxt beside the module `mine`."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(_MODULE))
    return lambda text: parse_prototxt(text, str(tmp_path / "deploy.prototxt"))


def python(name, bottoms, tops, layer, param_str=""):
    sides = "".join(f'bottom: "{b}" ' for b in bottoms.split()) + "".join(f'top: "{t}" ' for t in tops.split())
    names = f'module: "mine" layer: "{layer}" param_str: "{param_str}"'
    return f'layer {{ name: "{name}" type: "Python" {sides} python_param {{ {names} }} }} '


def power(name, bottom, top, scale):
    return f'layer {{ name: "{name}" type: "Power" bottom: "{bottom}" top: "{top}" power_param {{ scale: {scale} }} }} '


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)


def test_same_values_as_the_layer_that_it_replaces(parse, x):
    relu = 'layer { name: "r" type: "ReLU" bottom: "a" top: "b" } '
    first, last = _INPUT + power("p", "x", "a", -3), power("q", "b", "y", 0.5)
    ours = run_float(build_model(parse(first + python("r", "a", "b", "Relu") + last), {}), {"x": x}, ["b", "y"])
    theirs = run_float(build_model(parse(first + relu + last), {}), {"x": x}, ["b", "y"])
    assert all(np.array_equal(ours[name], theirs[name]) for name in ("b", "y"))


def test_in_place(parse, x):
    text = _INPUT + power("p", "x", "a", -1) + python("r", "a", "a", "Relu") + power("q", "a", "y", 2)
    values = run_float(build_model(parse(text), {}), {"x": x}, ["y"])
    assert np.array_equal(values["y"], 2 * np.maximum(-x, 0))


def test_several_bottoms_and_tops_one_after_the_other(parse, x):
    text = (
        _INPUT
        + power("p", "x", "a", 3)
        + python("s", "x a", "sum difference", "SumAndDifference")
        + python("t", "sum difference", "u v", "SumAndDifference")
    )
    values = run_float(build_model(parse(text), {}), {"x": x})
    assert np.allclose(values["u"], 2 * x)
    assert np.allclose(values["v"], 6 * x)


def test_weights_of_the_caffemodel(parse, x):
    text = _INPUT + python("w", "x", "y", "Affine")
    weights = np.array([1, 2, 3], np.float32), np.array([0.5], np.float32)
    model = build_model(parse(text), {"w": weights})
    for _ in range(2):
        assert np.array_equal(run_float(model, {"x": x})["y"], x * weights[0] + weights[1])


def test_param_str(parse, x):
    values = run_float(build_model(parse(_INPUT + python("f", "x", "y", "Settings", "2.5")), {}), {"x": x})
    assert np.array_equal(values["y"], np.float32(2.5) * x)


def test_tops_may_change_their_shape_where_nobody_minds(parse, x):
    model = build_model(parse(_INPUT + python("p", "x", "y", "Positive")), {})
    assert model.shapes["y"] == (1,)
    assert np.array_equal(run_float(model, {"x": x})["y"], x[x > 0])
    assert np.array_equal(run_float(model, {"x": -x})["y"], -x[x < 0])


def test_one_pass_at_a_time(parse, x):
    model = build_model(parse(_INPUT + python("a", "x", "y", "Alone")), {})
    first = Executor(lower_float(model, ["y"]), ["y"])
    executors = [first, *(first.sibling() for _ in range(3))]

    def run(number):
        found = {}
        for _ in range(20):
            executors[number].run({"x": x * (number + 1)}, lambda name, array: found.update({name: array.copy()}))
        return found["y"]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    for number, y in enumerate(results):
        assert np.array_equal(y, 2 * x * (number + 1))


def test_shapes_that_are_asked_for_do_not_disturb_a_pass(parse, x):
    """Another image may come to the layer with another number of rows meanwhile."""
    model = build_model(parse(_INPUT + python("a", "x", "y", "Slow")), {})
    op = model.op_of["a"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(op.run, [x], model.call(model.net.layer_by_name["a"]))
        assert op.instance.started.wait(10)
        assert op.top_shapes([(7, 3)]) == [(7, 3)]
        (y,) = running.result()
    assert np.array_equal(y, 2 * x)


def test_all_that_is_wrong_is_told_at_once(parse):
    text = (
        _INPUT
        + python("a", "x", "b", "Broken")
        + python("c", "x", "d", "NotThere")
        + 'layer { name: "e" type: "NoSuchType" bottom: "x" top: "f" }'
    )
    with pytest.raises(UnsupportedError) as caught:
        build_model(parse(text))
    assert len(caught.value.problems) == 3
    assert [p for p in caught.value.problems if "no such luck" in p and "'a'" in p]
    assert [p for p in caught.value.problems if "NotThere" in p and "Relu" in p]


def test_only_user_code_is_wrong(parse):
    with pytest.raises(UserLayerError, match="no such luck"):
        build_model(parse(_INPUT + python("a", "x", "b", "Broken")))


def test_a_source_has_the_shapes_that_its_data_give(parse, x):
    text = python("data", "", "x", "Relu") + power("p", "x", "y", 2)
    with pytest.raises(UnsupportedError, match="follow from its data"):
        build_model(parse(text))
    model = build_model(parse(text), {}, {"x": (2, 3)})
    assert model.inputs == ("x",)
    assert np.array_equal(run_float(model, {"x": x})["y"], 2 * x)


def test_a_python_loss_is_left_out(parse):
    loss = python("l", "x", "loss", "Broken").replace("python_param", "loss_weight: 1 python_param")
    model = build_model(parse(_INPUT + power("p", "x", "y", 2) + loss))
    assert [layer.name for layer in model.net.layers] == ["x", "p"]
    assert any("'l' (Python) is left out" in note for note in model.notes)


@pytest.mark.parametrize(
    "layer_type", ["DetectionEvaluate", "SegmentationEvaluate", "EvalDetection", "Yolov3", "YoloSeg"]
)
def test_layers_that_only_measure_are_left_out(parse, layer_type):
    measure = f'layer {{ name: "m" type: "{layer_type}" bottom: "y" top: "score" }}'
    model = build_model(parse(_INPUT + power("p", "x", "y", 2) + measure))
    assert model.net.outputs == ("y",)
