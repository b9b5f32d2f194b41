"""Unequal pads as nodes of their own: the same results, on the CPU, which takes either form."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.engine import run_float
from calib8.engine.even_pads import with_even_pads
from calib8.layers import OnnxBuilder
from calib8.lowering import lower_float

POOLING = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 8, 7] } } }
layer { name: "y" type: "Pooling" bottom: "x" top: "y" pooling_param { pool: %s kernel_size: 3 stride: 2 } }
"""


def graph(op_type, x, kernel, pads, outputs=1):
    g = OnnxBuilder()
    inputs = [g.input(x.shape)]
    if op_type == "Conv":
        weights = np.random.default_rng(1).integers(-9, 9, (3, x.shape[1], *kernel)).astype(np.float32)
        inputs.append(g.weight(weights))
    counts = {"count_include_pad": 1} if op_type == "AveragePool" else {}
    names = g.nodes(op_type, *inputs, outputs=outputs, kernel_shape=kernel, pads=pads, **counts)
    model, arrays = g.model([(names[0], np.float32), *((n, np.int64) for n in names[1:])])
    return model, arrays, inputs[0]


def results(model, arrays, name, x):
    settings = ort.SessionOptions()
    settings.add_external_initializers(list(arrays), [ort.OrtValue.ortvalue_from_numpy(a) for a in arrays.values()])
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(None, {name: x})


def uneven(model):
    found = []
    for node in model.graph.node:
        pads = next((list(a.ints) for a in node.attribute if a.name == "pads"), [])
        found += [node.op_type] * (pads[: len(pads) // 2] != pads[len(pads) // 2 :])
    return found


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["Conv", "AveragePool", "MaxPool"]), st.integers(1, 3), st.integers(0, 2**32))
def test_results_are_the_same(data, op_type, axes, seed):
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    pads = [data.draw(st.integers(0, k - 1)) for k in kernel * 2]
    x = np.random.default_rng(seed).integers(-99, 99, (2, 2, *[5] * axes)).astype(np.float32)
    model, arrays, name = graph(op_type, x, kernel, pads)
    changed = with_even_pads(model)
    assert uneven(changed) == []
    assert [n.op_type for n in changed.graph.node].count("Pad") == (pads[:axes] != pads[axes:])
    assert np.array_equal(results(changed, arrays, name, x)[0], results(model, arrays, name, x)[0])


def test_equal_pads_stay():
    x = np.zeros((1, 1, 4, 4), np.float32)
    model, _, _ = graph("MaxPool", x, (3, 3), [1, 1, 1, 1])
    assert with_even_pads(model) == model


def test_places_of_maxima_stay_those_of_the_bottom():
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5)).astype(np.float32)
    model, arrays, name = graph("MaxPool", x, (3, 3), [0, 1, 1, 0], outputs=2)
    for got, expected in zip(
        results(with_even_pads(model), arrays, name, x), results(model, arrays, name, x), strict=True
    ):
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_a_pooling_that_hangs_over_the_image(method, random_model):
    """The commonest case: windows that Caffe rounds up."""
    model = random_model(POOLING % method)
    (step,) = lower_float(model, ["y"])
    assert uneven(step.onnx) == ["MaxPool" if method == "MAX" else "AveragePool"]
    changed = with_even_pads(step.onnx)
    assert uneven(changed) == []
    x = np.random.default_rng(0).standard_normal((1, 2, 8, 7)).astype(np.float32)
    found = results(changed, step.weights, step.input_ports[0].name, x)[0]
    np.testing.assert_array_equal(found, run_float(model, {"x": x})["y"])
