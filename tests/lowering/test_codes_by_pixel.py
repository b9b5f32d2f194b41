"""Codes as integer kernels like them: by pixel, pixels taken together, rectified later. The codes are the same.

Expected codes come from naive layers, one after another.
"""

from __future__ import annotations

import numpy as np
import pytest
from oracles import integer_layers as oracle

from calib8.engine import entrance
from calib8.lowering import OnnxStep
from calib8.lowering.integer import IntegerSetup, lower_int8
from calib8.lowering.readings import Codes
from calib8.quantize import make_plan, observed_values

FLAT = {"stride": (1, 1), "pad": (0, 0), "pad_end": (0, 0), "dilation": (1, 1), "group": 1}
COMPILED = pytest.param(True, marks=pytest.mark.skipif(not entrance.COMPILED, reason="no compiler"))


def layer(kind: str, name: str, bottom: str, param: str = "", top: str | None = None) -> str:
    bottoms = " ".join(f'bottom: "{b}"' for b in bottom.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{top or name}" {param} }}\n'


def images(*shape: int) -> str:
    dims = " ".join(f"dim: {d}" for d in shape)
    return f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'


def conv(name: str, bottom: str, outputs: int = 8, kernel: int = 1) -> str:
    return layer("Convolution", name, bottom, f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} }}")


def relu(name: str, bottom: str) -> str:
    return layer("ReLU", name, bottom)


def plan_of(model, **thresholds: float):
    return make_plan(model, {v: thresholds.get(v, 4.0) for v in observed_values(model)})


def convolved(model, name: str, x: np.ndarray) -> np.ndarray:
    return oracle.convolution(x, oracle.weights_of(*model.net.layer_by_name[name].blobs, 4.0, 4.0), **FLAT)


def node_types(model, plan, *outputs: str) -> list[str]:
    (step,) = lower_int8(model, IntegerSetup(frozenset(plan.forms), plan.forms, plan.thresholds), outputs)
    assert isinstance(step, OnnxStep)
    return [node.op_type for node in step.onnx.graph.node]


@pytest.mark.parametrize("compiled", [COMPILED, False])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_few_channels_enter_by_pixel(random_model, run_int8, monkeypatch, compiled, channels):
    monkeypatch.setattr(entrance, "COMPILED", compiled)
    model = random_model(images(2, channels, 5, 6) + conv("c", "x", 20, 3) + layer("Pooling", "p", "x", WINDOW))
    plan = plan_of(model, x=2.0)
    x = np.random.default_rng(0).standard_normal((2, channels, 5, 6)).astype(np.float32)
    found = run_int8(model, plan, {"x": x}, [Codes("x"), Codes("c"), Codes("p")], real_inputs=["x"])
    entered = oracle.quantize(x, 2.0)
    constants = oracle.weights_of(*model.net.layer_by_name["c"].blobs, 2.0, 4.0)
    assert np.array_equal(found[Codes("x")], entered)
    assert np.array_equal(found[Codes("c")], oracle.convolution(entered, constants, **FLAT))
    pooled = oracle.pooling(entered, oracle.pooling_constants(2.0, 4.0), "MAX", **HALVES)
    assert np.array_equal(found[Codes("p")], pooled)


WINDOW = "pooling_param { kernel_size: 2 stride: 2 }"
HALVES = {"kernel": (2, 2), "stride": (2, 2), "pad": (0, 0)}


def test_a_first_convolution_takes_pixels_as_they_come(random_model):
    model = random_model(images(1, 3, 6, 6) + conv("c", "x", 20, 3))
    assert node_types(model, plan_of(model), Codes("c")) == ["Transpose", "QLinearConv"]


@pytest.mark.parametrize(
    ("channels", "size", "together"),
    [(12, (8, 8), True), (5, (16, 16), True), (16, (4, 4), True), (16, (3, 5), False), (64, (4, 4), False)],
)
def test_a_batch_norm_takes_pixels_together(random_model, run_int8, channels, size, together):
    shape = (2, channels, *size)
    model = random_model(images(*shape) + layer("BatchNorm", "n", "x"))
    plan, x = plan_of(model), np.random.default_rng(1).integers(-128, 128, shape)
    mean, variance, _ = model.net.layer_by_name["n"].blobs
    s, b, rs = oracle.batch_norm_of(mean, variance, 1e-5, np.ones(channels), np.zeros(channels), 4.0, 4.0)
    expected = oracle.affine(x, (s.reshape(-1), b, rs), 1)
    assert np.array_equal(run_int8(model, plan, {"x": x}, [Codes("n")])[Codes("n")], expected)
    assert ("Reshape" in node_types(model, plan, Codes("n"))) == together


def test_a_pooling_comes_before_the_relus_in_front_of_it(random_model, run_int8):
    text = images(1, 4, 6, 6) + conv("a", "x") + conv("b", "x") + relu("ra", "a") + relu("rb", "b")
    model = random_model(text + layer("Concat", "j", "ra rb") + layer("Pooling", "p", "j", WINDOW))
    plan, x = plan_of(model), np.random.default_rng(2).integers(-128, 128, (1, 4, 6, 6))
    found = run_int8(model, plan, {"x": x}, [*map(Codes, ("a", "ra", "rb", "j", "p"))])
    a, b = convolved(model, "a", x), convolved(model, "b", x)
    joined = np.concatenate([oracle.relu(a), oracle.relu(b)], axis=1)
    pooled = oracle.pooling(joined, oracle.pooling_constants(4.0, 4.0), "MAX", **HALVES)
    expected = {"a": a, "ra": oracle.relu(a), "rb": oracle.relu(b), "j": joined, "p": pooled}
    assert all(np.array_equal(found[Codes(name)], codes) for name, codes in expected.items())
    assert node_types(model, plan, Codes("p"))[-3:] == ["NhwcMaxPool", "Transpose", "Clip"]


def test_where_only_some_bottoms_are_rectified_they_are_joined_as_they_are(random_model, run_int8):
    text = images(1, 4, 6, 6) + conv("a", "x") + conv("b", "x") + relu("ra", "a") + layer("Concat", "j", "ra b")
    model = random_model(text)
    x = np.random.default_rng(3).integers(-128, 128, (1, 4, 6, 6))
    joined = np.concatenate([oracle.relu(convolved(model, "a", x)), convolved(model, "b", x)], axis=1)
    assert np.array_equal(run_int8(model, plan_of(model), {"x": x}, [Codes("j")])[Codes("j")], joined)


def test_a_window_without_an_element_is_not_rectified(random_model, run_int8):
    """It gives the least code there is, and would give 0 if the ReLU came behind the pooling."""
    window = "pooling_param { kernel_size: 2 pad: 1 stride: 7 }"
    model = random_model(images(1, 4, 6, 6) + conv("c", "x") + relu("r", "c") + layer("Pooling", "p", "r", window))
    x = np.random.default_rng(4).integers(-128, 128, (1, 4, 6, 6))
    found = run_int8(model, plan_of(model), {"x": x}, [Codes("p")])[Codes("p")]
    rectified = oracle.relu(convolved(model, "c", x))
    assert np.array_equal(found[..., 0, 0], rectified[..., 0, 0])


@pytest.mark.parametrize("side", [3, 300])
def test_a_global_average_behind_a_convolution(random_model, run_int8, side):
    whole = "pooling_param { pool: AVE global_pooling: true }"
    model = random_model(images(2, 4, side, side) + conv("c", "x") + layer("Pooling", "p", "c", whole))
    plan, x = plan_of(model), np.random.default_rng(5).integers(-128, 128, (2, 4, side, side))
    found = run_int8(model, plan, {"x": x}, [Codes("c"), Codes("p")])
    mult, rs = oracle.pooling_constants(4.0, 4.0)
    sums = found[Codes("c")].sum(axis=(2, 3))
    expected = [[oracle.average(int(s), side * side, mult, rs) for s in row] for row in sums]
    assert found[Codes("p")].reshape(2, 8).tolist() == expected
    assert "MatMulInteger" in node_types(model, plan, Codes("p"))


def test_what_no_output_needs_is_not_in_the_graph(random_model):
    model = random_model(images(1, 4, 6, 6) + conv("c", "x") + relu("r", "c") + layer("Pooling", "p", "r", WINDOW))
    types = node_types(model, plan_of(model), Codes("p"))
    assert types.count("Clip") == 1


def depthwise(name: str, bottom: str) -> str:
    return layer(
        "DepthwiseConvolution", name, bottom, "convolution_param { num_output: 12 group: 12 kernel_size: 3 pad: 1 }"
    )


def test_channel_by_channel_kernels_take_sixteen_at_once(random_model, run_int8):
    """12 channels become 16 from the convolution in front to the one behind, through all that lies between."""
    text = images(1, 4, 8, 8) + conv("c", "x", 12) + layer("BatchNorm", "n", "c") + relu("r", "n") + depthwise("d", "r")
    model = random_model(text + layer("BatchNorm", "m", "d") + relu("s", "m") + conv("e", "s", 16))
    plan, x = plan_of(model), np.random.default_rng(6).integers(-128, 128, (1, 4, 8, 8))
    expected = {"c": convolved(model, "c", x)}
    expected["n"] = normalised(model, "n", expected["c"])
    expected["r"] = oracle.relu(expected["n"])
    constants = oracle.weights_of(*model.net.layer_by_name["d"].blobs, 4.0, 4.0)
    window = {"stride": (1, 1), "pad": (1, 1), "pad_end": (1, 1), "dilation": (1, 1), "group": 12}
    expected["d"] = oracle.convolution(expected["r"], constants, **window)
    expected["m"] = normalised(model, "m", expected["d"])
    expected["s"] = oracle.relu(expected["m"])
    expected["e"] = convolved(model, "e", expected["s"])
    for names in (["e"], ["d"], list(expected)):
        found = run_int8(model, plan, {"x": x}, [*map(Codes, names)])
        assert all(np.array_equal(found[Codes(name)], expected[name]) for name in names)
    (step,) = lower_int8(model, IntegerSetup(frozenset(plan.forms), plan.forms, plan.thresholds), ["e"])
    groups = [a.i for node in step.onnx.graph.node for a in node.attribute if a.name == "group"]
    assert groups == [1, 256, 16, 256, 1]
    assert "Slice" not in node_types(model, plan, Codes("e"))


def normalised(model, name: str, x: np.ndarray) -> np.ndarray:
    mean, variance, _ = model.net.layer_by_name[name].blobs
    s, b, rs = oracle.batch_norm_of(mean, variance, 1e-5, np.ones(mean.size), np.zeros(mean.size), 4.0, 4.0)
    return oracle.affine(x, (s.reshape(-1), b, rs), 1)


def test_channels_that_come_from_elsewhere_are_taken_as_they_are(random_model, run_int8):
    """Nothing in the graph could make more of them."""
    model = random_model(images(1, 12, 5, 5) + layer("ReLU", "r", "x") + depthwise("d", "r"))
    plan, x = plan_of(model), np.random.default_rng(7).integers(-128, 128, (1, 12, 5, 5))
    constants = oracle.weights_of(*model.net.layer_by_name["d"].blobs, 4.0, 4.0)
    window = {"stride": (1, 1), "pad": (1, 1), "pad_end": (1, 1), "dilation": (1, 1), "group": 12}
    found = run_int8(model, plan, {"x": x}, [Codes("d")])[Codes("d")]
    assert np.array_equal(found, oracle.convolution(oracle.relu(x), constants, **window))
