"""The INT8 walk: where codes and real numbers meet. Expected codes come from naive layers, one after another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles import integer_layers as oracle

from calib8 import arithmetic
from calib8.engine import run_float
from calib8.layer_kit.form import SameCodes
from calib8.lowering import HostStep, OnnxStep
from calib8.lowering.integer import IntegerSetup, lower_int8
from calib8.lowering.readings import Codes, Real, in_order, value_of
from calib8.quantize import fold_thresholds, make_plan, observed_values

SHAPE = (2, 3, 6, 6)
FLAT = {"stride": (1, 1), "pad": (0, 0), "pad_end": (0, 0), "dilation": (1, 1), "group": 1}


def layer(kind: str, name: str, bottoms: str = "", tops: str | None = None, param: str = "") -> str:
    reads = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    writes = " ".join(f'top: "{t}"' for t in (name if tops is None else tops).split())
    return f'layer {{ name: "{name}" type: "{kind}" {reads} {writes} {param} }}\n'


def input_layer(shape=SHAPE, name: str = "x", extra: str = "") -> str:
    dims = " ".join(f"dim: {d}" for d in shape)
    return layer("Input", name, param=f"input_param {{ shape {{ {dims} }} {extra} }}")


def conv(name: str, bottom: str, tops: str | None = None, outputs: int = 3) -> str:
    return layer("Convolution", name, bottom, tops, f"convolution_param {{ num_output: {outputs} kernel_size: 1 }}")


def plan_of(model, **thresholds: float):
    """A plan with these thresholds, and 4 for all other values that need one."""
    return make_plan(model, {v: thresholds.get(v, 4.0) for v in observed_values(model)})


def codes(seed: int = 0, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape)


def convolved(model, name: str, x: np.ndarray, tx: float, ty: float) -> np.ndarray:
    return oracle.convolution(x, oracle.weights_of(*model.net.layer_by_name[name].blobs, tx, ty), **FLAT)


def test_what_is_read_of_a_value():
    assert value_of(Codes("a")) == value_of("a") == "a"
    assert len({Codes("a"), Real("a"), "a"}) == 3
    assert in_order(["b", Codes("b"), "a", Real("a"), Codes("a")]) == [Codes("a"), Codes("b"), Real("a"), "a", "b"]


def test_a_chain_of_layers_and_its_output_in_real_units(random_model, run_int8):
    text = input_layer() + conv("c", "x") + layer("ReLU", "r", "c", "c")
    text += layer("Pooling", "p", "c", param="pooling_param { kernel_size: 2 stride: 2 }")
    text += layer("InnerProduct", "ip", "p", param="inner_product_param { num_output: 4 }") + layer(
        "Softmax", "s", "ip"
    )
    model = random_model(text)
    plan, x = plan_of(model, c=3.0, p=2.5, ip=40.0), codes()
    found = run_int8(model, plan, {"x": x}, ["c", "p", "ip", "s", *map(Codes, ("c@c", "c", "p", "ip"))])
    c = convolved(model, "c", x, 4.0, 3.0)
    r = oracle.relu(c)
    p = oracle.pooling(r, oracle.pooling_constants(3.0, 2.5), "MAX", kernel=(2, 2), stride=(2, 2), pad=(0, 0))
    weights = oracle.weights_of(*model.net.layer_by_name["ip"].blobs, 2.5, 40.0)
    ip = oracle.inner_product(p, weights, axis=1, transpose=False)
    for name, expected, threshold in (("c@c", c, 3.0), ("c", r, 3.0), ("p", p, 2.5), ("ip", ip, 40.0)):
        assert np.array_equal(found[Codes(name)], expected), name
        assert name not in found or np.array_equal(found[name], oracle.dequantize(expected, threshold)), name
    real = oracle.dequantize(ip, 40.0)
    odds = np.exp(real - real.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found["s"], odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)


def test_an_fp32_layer_between_int8_layers(random_model, run_int8):
    text = input_layer() + conv("c", "x") + layer("AbsVal", "a", "c") + conv("d", "a")
    model = random_model(text)
    plan, x = plan_of(model, c=3.0, a=1.7, d=9.0), codes()
    found = run_int8(model, plan, {"x": x}, ["a", Codes("a"), Codes("d")])
    absolute = np.abs(oracle.dequantize(convolved(model, "c", x, 4.0, 3.0), 3.0))
    a = oracle.quantize(absolute, plan.thresholds["a"])
    assert np.array_equal(found["a"], absolute)  # real numbers as the FP32 layer gave them, not rounded to codes
    assert np.array_equal(found[Codes("a")], a)
    assert np.array_equal(found[Codes("d")], convolved(model, "d", a, plan.thresholds["a"], 9.0))


def test_an_int8_layer_between_fp32_layers(random_model, run_int8):
    model = random_model(input_layer() + conv("c", "x") + conv("d", "c") + conv("e", "d"))
    plan = plan_of(model, c=3.0, d=8.0)
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    found = run_int8(model, plan, {"x": x}, ["c", "d", "e", Codes("d")], int8_layers=["d"], real_inputs=["x"])
    (c,) = run_float(model, {"x": x}, ["c"]).values()
    d = convolved(model, "d", oracle.quantize(c, 3.0), 3.0, 8.0)
    assert np.array_equal(found["c"], c)
    assert np.array_equal(found[Codes("d")], d)
    assert np.array_equal(found["d"], oracle.dequantize(d, 8.0))
    weights, bias = model.net.layer_by_name["e"].blobs
    expected = np.einsum("nchw,oc->nohw", found["d"], weights[:, :, 0, 0]) + bias[:, None, None]
    np.testing.assert_allclose(found["e"], expected, rtol=1e-4, atol=1e-4)


def test_without_int8_layers_it_is_the_fp32_network(random_model, run_int8):
    text = input_layer() + conv("c", "x") + layer("ReLU", "r", "c", "c") + conv("d", "c") + layer("Eltwise", "e", "c d")
    model = random_model(text)
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    names = ["c", "d", "e"]
    found = run_int8(model, plan_of(model), {"x": x}, names, int8_layers=[], real_inputs=["x"])
    expected = run_float(model, {"x": x}, names)
    assert all(np.array_equal(found[name], expected[name]) for name in names)


def test_a_value_that_int8_and_fp32_layers_read(random_model, run_int8):
    text = input_layer() + conv("c", "x") + layer("ReLU", "r", "c") + layer("AbsVal", "a", "c")
    text += layer("Eltwise", "e", "r c")
    model = random_model(text)
    plan, x = plan_of(model, c=3.0, e=5.0), codes()
    found = run_int8(model, plan, {"x": x}, ["c", "a", Codes("c"), Codes("e")])
    c = convolved(model, "c", x, 4.0, 3.0)
    assert np.array_equal(found[Codes("c")], c)
    assert np.array_equal(found["c"], oracle.dequantize(c, 3.0))
    assert np.array_equal(found["a"], np.abs(oracle.dequantize(c, 3.0)))
    e = oracle.eltwise_sum([oracle.relu(c), c], oracle.eltwise_constants([3.0, 3.0], 5.0), [1, 1])
    assert np.array_equal(found[Codes("e")], e)


def test_layers_in_place_one_after_another(random_model, run_int8):
    leaky = "relu_param { negative_slope: 0.25 }"
    text = input_layer() + conv("c", "x") + layer("ReLU", "l", "c", "c", leaky) + layer("ReLU", "r", "c", "c")
    text += layer("Dropout", "d", "c", "c") + layer("AbsVal", "a", "c", "c")
    model = random_model(text)
    first, second, third, fourth, last = (top for own in model.net.layers[1:] for top in own.tops)
    plan, x = plan_of(model, **{first: 3.0, second: 6.0, fourth: 6.0, last: 2.0}), codes()
    names = [first, second, third, fourth, last]
    found = run_int8(model, plan, {"x": x}, ["c", *map(Codes, names)])
    c = convolved(model, "c", x, 4.0, 3.0)
    sides = oracle.leaky_constants(0.25, 3.0, plan.thresholds[second])
    activated = oracle.two_sided(c, sides[0], lambda place: sides[1])
    real = oracle.dequantize(oracle.relu(activated), plan.thresholds[fourth])
    expected = [c, activated, oracle.relu(activated), oracle.relu(activated), oracle.quantize(real, 2.0)]
    for name, own in zip(names, expected, strict=True):
        assert np.array_equal(found[Codes(name)], own), name
    assert last == "c" and np.array_equal(found["c"], real)


def test_codes_that_are_moved_are_read_with_the_top_s_threshold(random_model, run_int8):
    """A table may give a Flatten's top another threshold than its bottom: the chip moves the codes all the same."""
    model = random_model(input_layer() + conv("c", "x") + layer("Flatten", "f", "c") + layer("ReLU", "r", "f"))
    plan = plan_of(model, c=3.0)
    plan = replace(plan, thresholds={**plan.thresholds, "f": 5.0, "r": 6.0})
    x = codes()
    found = run_int8(model, plan, {"x": x}, ["c", "f", "r", Codes("f"), Codes("r")])
    c = convolved(model, "c", x, 4.0, 3.0)
    assert np.array_equal(found[Codes("f")], c.reshape(2, -1))
    assert np.array_equal(found[Codes("r")], oracle.relu(c).reshape(2, -1))
    for name, threshold in (("f", 5.0), ("r", 6.0)):
        assert np.array_equal(found[name], oracle.dequantize(found[Codes(name)], threshold))


@pytest.mark.parametrize("enable_concat_quantize", [False, True])
def test_concat_requantises_bottoms_with_other_thresholds(random_model, run_int8, enable_concat_quantize):
    """Without the option, `a` takes the top's threshold, and `b`, which has another reader, keeps its own."""
    text = input_layer() + conv("a", "x") + conv("b", "x") + layer("Concat", "y", "a b") + layer("AbsVal", "z", "b")
    model = random_model(text)
    thresholds = {"x": 4.0, "a": 3.0, "b": 2.0, "y": 5.0, "z": 1.0}
    needed = {v: thresholds[v] for v in observed_values(model, enable_concat_quantize)}
    plan, x = make_plan(model, needed, enable_concat_quantize), codes()
    found = run_int8(model, plan, {"x": x}, [Codes("a"), Codes("b"), Codes("y")])
    ta = 3.0 if enable_concat_quantize else 5.0
    a, b = convolved(model, "a", x, 4.0, ta), convolved(model, "b", x, 4.0, 2.0)
    assert np.array_equal(found[Codes("a")], a) and np.array_equal(found[Codes("b")], b)
    expected = np.concatenate([oracle.requantized(a, ta, 5.0), oracle.requantized(b, 2.0, 5.0)], axis=1)
    assert np.array_equal(found[Codes("y")], expected)


def test_a_batch_norm_does_the_work_of_its_scale(random_model, run_int8):
    text = (
        input_layer() + layer("BatchNorm", "n", "x") + layer("Scale", "s", "n", "s", "scale_param { bias_term: true }")
    )
    text += layer("ReLU", "r", "s", "s")
    model = random_model(text)
    top = model.net.layer_by_name["s"].tops[0]
    plan, x = plan_of(model, s=6.0, **{top: 6.0}), codes()
    found = run_int8(model, plan, {"x": x}, [Codes("n"), Codes(top), Codes("s")])
    mean, variance, _ = model.net.layer_by_name["n"].blobs
    s, b, rs = oracle.batch_norm_of(mean, variance, 1e-5, *model.net.layer_by_name["s"].blobs, 4.0, 6.0)
    expected = oracle.affine(x, (s.reshape(-1), b, rs), 1)
    assert np.array_equal(found[Codes("n")], expected)
    assert np.array_equal(found[Codes(top)], expected)
    assert np.array_equal(found[Codes("s")], oracle.relu(expected))


def test_real_input_is_quantised_inside(random_model, run_int8):
    model = random_model(input_layer(extra="enable_quantize: true") + conv("c", "x"))
    plan = plan_of(model, x=2.0, c=3.0)
    x = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    found = run_int8(model, plan, {"x": x}, ["x", Codes("x"), Codes("c")], real_inputs=["x"])
    assert np.array_equal(found["x"], x)
    assert np.array_equal(found[Codes("x")], oracle.quantize(x, 2.0))
    assert np.array_equal(found[Codes("c")], convolved(model, "c", oracle.quantize(x, 2.0), 2.0, 3.0))


def test_what_is_no_number_between_layers_becomes_0(random_model, run_int8):
    """The logarithm of a negative number is NaN, that of 0 is -infinity."""
    model = random_model(
        input_layer((1, 4), extra="enable_quantize: true") + layer("Log", "l", "x") + layer("ReLU", "r", "l")
    )
    plan = plan_of(model, r=2.0)  # measured behind the ReLU, for both
    plan = replace(plan, forms={**plan.forms, "r": SameCodes()})
    x = np.float32([[-1, 0, np.e, np.e**2]])
    found = run_int8(model, plan, {"x": x}, [Codes("l"), Codes("r")], real_inputs=["x"])
    assert found[Codes("l")].tolist() == [[0, -128, 64, 127]]
    assert found[Codes("r")].tolist() == [[0, 0, 64, 127]]


def test_input_that_the_user_quantised(random_model, run_int8):
    """x * 128 / threshold, not yet rounded; an FP32 layer that reads it, too, gets real numbers."""
    model = random_model(input_layer() + conv("c", "x") + layer("AbsVal", "a", "x"))
    plan = plan_of(model, x=2.0, c=3.0)
    x = np.random.default_rng(2).uniform(-140, 140, SHAPE).astype(np.float32)
    x[0, 0, 0, :4] = [-0.5, 0.5, 1.5, -127.5]
    found = run_int8(model, plan, {"x": x}, ["a", Codes("x"), Codes("c")])
    rounded = oracle.quantize(x, 128.0)
    assert rounded[0, 0, 0, :4].tolist() == [0, 1, 2, -127]
    assert np.array_equal(found[Codes("x")], rounded)
    assert np.array_equal(found[Codes("c")], convolved(model, "c", rounded, 2.0, 3.0))
    assert np.array_equal(found["a"], np.abs(oracle.dequantize(rounded, 2.0)))


def test_codes_of_an_input_alone(random_model, run_int8):
    model = random_model(input_layer() + conv("c", "x"))
    found = run_int8(model, plan_of(model), {"x": codes()}, [Codes("x")])
    assert np.array_equal(found[Codes("x")], codes())


HOST = """
import caffe

class Half(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data / 2
"""


@pytest.fixture
def host_layer(tmp_path, monkeypatch):
    (tmp_path / "halving.py").write_text(HOST)
    monkeypatch.chdir(tmp_path)
    return lambda name, bottom: layer("Python", name, bottom, param='python_param { module: "halving" layer: "Half" }')


def test_a_layer_in_python_between_int8_layers(random_model, run_int8, host_layer):
    text = input_layer() + conv("c", "x") + host_layer("h", "c") + conv("d", "h") + layer("Eltwise", "e", "c d")
    model = random_model(text)
    plan, x = plan_of(model, c=3.0, h=2.0, d=6.0, e=5.0), codes()
    names = ["c", "h", Codes("c"), Codes("h"), Codes("d"), Codes("e")]
    found = run_int8(model, plan, {"x": x}, names)
    c = convolved(model, "c", x, 4.0, 3.0)
    half = (oracle.dequantize(c, 3.0) / 2).astype(np.float32)
    h = oracle.quantize(half, 2.0)
    d = convolved(model, "d", h, 2.0, 6.0)
    e = oracle.eltwise_sum([c, d], oracle.eltwise_constants([3.0, 6.0], 5.0), [1, 1])
    assert np.array_equal(found["h"], half)
    for name, expected in (("c", c), ("h", h), ("d", d), ("e", e)):
        assert np.array_equal(found[Codes(name)], expected), name


def test_a_layer_in_python_at_the_end(random_model, run_int8, host_layer):
    model = random_model(input_layer() + conv("c", "x") + host_layer("h", "c"))
    plan, x = plan_of(model, c=3.0, h=2.0), codes()
    found = run_int8(model, plan, {"x": x}, ["h", Codes("h")])
    half = oracle.dequantize(convolved(model, "c", x, 4.0, 3.0), 3.0).astype(np.float32) / 2
    assert np.array_equal(found["h"], half)
    assert np.array_equal(found[Codes("h")], oracle.quantize(half, 2.0))


def test_a_layer_in_python_reads_what_the_user_quantised_in_real_units(random_model, run_int8, host_layer):
    text = input_layer() + conv("c", "x") + host_layer("h", "x") + conv("d", "h")
    model = random_model(text)
    plan, x = plan_of(model, x=3.0, c=3.0, h=2.0, d=6.0), codes()
    found = run_int8(model, plan, {"x": x}, ["h", Codes("c"), Codes("d")])
    half = (oracle.dequantize(x, 3.0) / 2).astype(np.float32)
    assert np.array_equal(found["h"], half)
    assert np.array_equal(found[Codes("c")], convolved(model, "c", x, 3.0, 3.0))
    assert np.array_equal(found[Codes("d")], convolved(model, "d", oracle.quantize(half, 2.0), 2.0, 6.0))


def test_only_what_is_asked_for_is_computed(random_model, host_layer):
    model = random_model(input_layer() + conv("c", "x") + host_layer("h", "c") + conv("d", "h") + conv("e", "x"))
    plan = plan_of(model)
    setup = IntegerSetup(frozenset("cde"), dict(plan.forms), plan.thresholds, frozenset("x"))
    steps = lower_int8(model, setup, ["h"])
    assert [type(s) for s in steps] == [OnnxStep, HostStep]
    assert [s.layers for s in lower_int8(model, setup, ["e", Codes("e")])] == [("e",)]
    (first, _, second) = lower_int8(model, setup, [Codes("d")])
    assert first.outputs == ("c",) and second.inputs == ("h",) and second.outputs == (Codes("d"),)


NETWORK = (
    layer("Convolution", "c1", "x", param="convolution_param { num_output: 8 kernel_size: 3 pad: 1 }")
    + layer("BatchNorm", "n1", "c1", "c1")
    + layer("Scale", "s1", "c1", "c1", "scale_param { bias_term: true }")
    + layer("ReLU", "r1", "c1", "c1")
    + layer("ConvolutionDepthwise", "c2", "c1", param="convolution_param { kernel_size: 3 pad: 1 }")
    + layer("PReLU", "r2", "c2", "c2")
    + layer("Eltwise", "e", "c1 c2")
    + layer("Pooling", "p", "e", param="pooling_param { pool: AVE kernel_size: 3 stride: 2 }")
    + layer("Deconvolution", "u", "p", param="convolution_param { num_output: 8 kernel_size: 2 stride: 2 }")
    + layer("Crop", "k", "u e", param="crop_param { axis: 2 offset: 0 }")
    + layer("Concat", "j", "e k")
    + layer("ReLU", "r3", "j", "j", "relu_param { negative_slope: 0.1 }")
    + layer("ELU", "l", "j")
    + layer("InnerProduct", "ip", "l", param="inner_product_param { num_output: 5 }")
)


@pytest.fixture(scope="module")
def every_kind(random_model):
    """One network with all kinds of arithmetic, for two batch sizes, and its plan."""

    def build(batch: int):
        model = random_model(input_layer((batch, 4, 8, 8)) + NETWORK, seed=1)
        largest: dict[str, float] = {}
        x = np.random.default_rng(0).standard_normal((batch, 4, 8, 8)).astype(np.float32)
        for name, array in run_float(model, {"x": x}, list(observed_values(model))).items():
            largest[name] = float(np.abs(array).max())
        return model, largest

    models = {batch: build(batch) for batch in (1, 3)}
    folded = fold_thresholds(models[3][0], models[3][1])
    plans = {batch: make_plan(model, folded) for batch, (model, _) in models.items()}
    assert all(plan.forms[own.name] for batch, plan in plans.items() for own in models[batch][0].net.layers[1:])
    return {batch: (models[batch][0], plan) for batch, plan in plans.items()}


def test_threads_do_not_change_a_code(every_kind, run_int8):
    model, plan = every_kind[3]
    names = [Codes(top) for own in model.net.layers for top in own.tops]
    x = codes(3, (3, 4, 8, 8))
    one, two = (run_int8(model, plan, {"x": x}, names, threads=threads) for threads in (1, 2))
    assert set(one) == set(names)
    assert all(np.array_equal(one[name], two[name]) for name in names)


def test_the_batch_does_not_change_a_code(every_kind, run_int8):
    batch, plan = every_kind[3]
    single, single_plan = every_kind[1]
    names = [Codes(top) for own in batch.net.layers for top in own.tops]
    x = codes(4, (3, 4, 8, 8))
    together = run_int8(batch, plan, {"x": x}, names)
    for i in range(3):
        alone = run_int8(single, single_plan, {"x": x[i : i + 1]}, names)
        assert all(np.array_equal(together[name][i : i + 1], alone[name]) for name in names)


def test_what_is_observed_does_not_change_a_code(every_kind, run_int8):
    model, plan = every_kind[3]
    x = codes(5, (3, 4, 8, 8))
    names = [Codes(top) for own in model.net.layers for top in own.tops]
    everything = run_int8(model, plan, {"x": x}, names)
    alone = run_int8(model, plan, {"x": x}, [Codes("ip")])
    assert np.array_equal(everything[Codes("ip")], alone[Codes("ip")])


def test_an_input_enters_as_codes_and_as_real_numbers_where_both_are_read(random_model, run_int8):
    model = random_model(input_layer() + conv("c", "x") + layer("AbsVal", "a", "x"))
    plan, x = plan_of(model), np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    x[0, 0, 0, :2] = np.nan, np.inf
    setup = IntegerSetup(frozenset({"c"}), plan.forms, plan.thresholds)
    (step,) = lower_int8(model, setup, ["c", "a"])
    assert isinstance(step, OnnxStep)
    found = {(port.reading, port.dtype, port.threshold) for port in step.input_ports}
    assert found == {("x", np.uint8, plan.thresholds["x"]), ("x", np.float32, None)}
    outputs = run_int8(model, plan, {"x": x}, ["a", Codes("c"), Codes("x")], int8_layers=["c"], real_inputs=["x"])
    entered = arithmetic.quantize(x, plan.thresholds["x"])
    assert np.array_equal(outputs["a"], np.abs(x), equal_nan=True)
    assert np.array_equal(outputs[Codes("x")], entered)
    assert np.array_equal(
        outputs[Codes("c")], convolved(model, "c", entered, plan.thresholds["x"], plan.thresholds["c"])
    )
