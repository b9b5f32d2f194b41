"""Layers in Python whose tops have another number of rows than they announced: the rest follows."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from calib8.engine import Executor, run_float
from calib8.errors import UnsupportedError
from calib8.lowering import build_model, lower_float
from calib8.measure.collect import collect_histograms
from calib8.proto.text import read_prototxt

LAYER = """
import caffe

class Positive(caffe.Layer):
    def setup(self, bottom, top):
        top[0].reshape(1, bottom[0].shape[1])

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        rows = bottom[0].data[bottom[0].data[:, 0] > 0]
        top[0].reshape(*rows.shape)
        top[0].data[...] = rows
"""
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 6 dim: 3 } } }
layer { name: "pre" type: "Power" bottom: "x" top: "pre" power_param { scale: 2 } }
layer {
  name: "rows" type: "Python" bottom: "pre" top: "rows" python_param { module: "positive" layer: "Positive" }
}
layer { name: "ip" type: "InnerProduct" bottom: "rows" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "more" type: "Python" bottom: "ip" top: "more" python_param { module: "positive" layer: "Positive" } }
layer { name: "out" type: "AbsVal" bottom: "more" top: "out" }
"""
RNG = np.random.default_rng(0)
WEIGHTS = {"ip": [RNG.standard_normal((4, 3)).astype(np.float32), RNG.standard_normal(4).astype(np.float32)]}


@pytest.fixture
def network(tmp_path):
    (tmp_path / "positive.py").write_text(LAYER)

    def make(text=NET):
        (tmp_path / "deploy.prototxt").write_text(text)
        return build_model(read_prototxt(tmp_path / "deploy.prototxt"), WEIGHTS)

    return make


def expected(x):
    rows = 2 * x[x[:, 0] > 0]
    ip = rows @ WEIGHTS["ip"][0].T + WEIGHTS["ip"][1]
    return {"rows": rows, "ip": ip, "out": np.abs(ip[ip[:, 0] > 0])}


def test_any_number_of_rows_one_after_another(network):
    model = network()
    executor = Executor(lower_float(model, ["rows", "ip", "out"]), ["rows", "ip", "out"])
    for seed in (*range(12), *range(3)):
        x = np.random.default_rng(seed).standard_normal((6, 3)).astype(np.float32)
        found = {}
        executor.run({"x": x}, lambda name, array, found=found: found.__setitem__(name, array.copy()))
        for name, array in expected(x).items():
            assert found[name].shape == array.shape
            assert np.allclose(found[name], array, atol=1e-5), name


def test_an_executor_that_nobody_has_is_gone_at_once(network):
    model = network()
    executor = Executor(lower_float(model, ["out"]), ["out"])
    for rows in (2, 3):
        x = np.zeros((6, 3), np.float32)
        x[:rows] = 1
        executor.run({"x": x}, lambda name, array: None)
    runners = [weakref.ref(runner) for runner in executor._runners]
    gc.disable()
    try:
        del executor
        assert [runner() for runner in runners] == [None] * len(runners)
    finally:
        gc.enable()


def test_histograms_count_the_rows_that_there_are(network):
    model = network()
    samples = [np.random.default_rng(seed).standard_normal((6, 3)).astype(np.float32) for seed in range(5)]
    found = collect_histograms(model, lambda: ({"x": x} for x in samples), ["rows", "ip", "out"])
    for name in ("rows", "ip", "out"):
        assert found[name].samples == sum(expected(x)[name].size for x in samples)


def test_a_layer_that_cannot_take_them_is_named(network, tmp_path):
    text = NET + 'layer { name: "sum" type: "Eltwise" bottom: "pre" bottom: "six" top: "sum" }\n'
    six = (
        'layer { name: "six" type: "Python" bottom: "pre" top: "six" python_param { module: "positive" layer: "Six" } }'
    )
    module = LAYER + LAYER.replace("Positive", "Six").replace("reshape(1, ", "reshape(6, ").replace("import caffe", "")
    prototxt_text = text.replace('layer { name: "sum"', six + '\nlayer { name: "sum"')
    (tmp_path / "positive.py").write_text(module)
    model = network(prototxt_text)
    x = -np.ones((6, 3), np.float32)
    x[0] = 1
    with pytest.raises(UnsupportedError, match="layer 'sum'"):
        run_float(model, {"x": x}, ["sum"])
