"""Compensated rounding as a pass: what layers lose over their own inputs, against computing it in floats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib8.arithmetic import quantize
from calib8.engine import EngineOptions, run_float, run_layer
from calib8.measure.collect import CollectOptions
from calib8.quantize import make_plan, observed_values
from calib8.repair import compensated_rounding, run_pass
from calib8.repair.compensated_rounding import CompensatedRounding

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 6, 8, 7] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 2 group: 2 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "dw" type: "ConvolutionDepthwise" bottom: "c" top: "dw" convolution_param { kernel_size: 2 } }
layer { name: "bare" type: "Convolution" bottom: "dw" top: "bare"
  convolution_param { num_output: 5 kernel_size: 1 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "bare" top: "bare" }
layer { name: "sc" type: "Scale" bottom: "bare" top: "bare" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "bare" top: "ip"
  inner_product_param { num_output: 5 transpose: true } }
"""
SAMPLES = 40


@pytest.fixture(scope="module")
def samples():
    """Neighbours and channels of an image go together."""
    rng = np.random.default_rng(5)
    mix = rng.normal(0, 1, (6, 2))
    found = []
    for _ in range(SAMPLES):
        coarse = rng.normal(0.4, 1, (2, 4, 4)).repeat(2, axis=1).repeat(2, axis=2)[:, :, :7]
        image = np.tensordot(mix, coarse, 1) + rng.normal(0, 0.1, (6, 8, 7))
        found.append({"x": image[None].astype(np.float32)})
    return found


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(NETWORK, 3)


@pytest.fixture(scope="module")
def plan(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    return make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in found) for v in values})


@pytest.fixture(scope="module")
def solved(model, plan, samples):
    return run_pass(CompensatedRounding(SAMPLES), model, plan, lambda: iter(samples))


def real_outputs(model, plan, layer, bottoms):
    """A layer's outputs before its right shift, in real units, from codes of its bottom."""
    form = plan.forms[layer.name]
    tx, ty = plan.thresholds[layer.bottoms[0]], plan.thresholds[layer.tops[0]]
    step = ty / 128 / 2.0**form.rshift
    blobs = [form.weights * (step * 128 / tx)] + ([] if form.bias is None else [form.bias * step])
    own = replace(layer, blobs=tuple(b.astype(np.float32) for b in blobs))
    return outputs_of(model, own, bottoms)


def outputs_of(model, own, bottoms):
    layers = tuple(own if x.name == own.name else x for x in model.net.layers)
    altered = replace(model, net=replace(model.net, layers=layers))
    return [run_layer(altered, own, [b], own.blobs)[0].astype(np.float64) for b in bottoms]


def errors(model, plan, name, samples):
    """Mean square and mean by channel of what the integers add, over codes of the FP32 bottom."""
    layer = model.net.layer_by_name[name]
    value = layer.bottoms[0]
    t = plan.thresholds[value]
    bottoms = [(quantize(run_float(model, s, [value])[value], t) * (t / 128)).astype(np.float32) for s in samples]
    pairs = zip(outputs_of(model, layer, bottoms), real_outputs(model, plan, layer, bottoms), strict=True)
    differences = np.array([(y - x).reshape(x.shape[1], -1) for x, y in pairs])
    return float((differences**2).mean()), differences.mean(axis=(0, 2))


@pytest.mark.parametrize(("name", "gain"), [("c", 2.0), ("dw", 1.2), ("ip", 1.05)])
def test_layers_lose_less_over_their_inputs(model, samples, plan, solved, name, gain):
    before, off = errors(model, plan, name, samples)
    after, mean = errors(model, solved, name, samples)
    assert after * gain < before
    step = plan.thresholds[model.net.layer_by_name[name].tops[0]] / 128 / 2.0 ** solved.forms[name].rshift
    assert np.abs(mean).max() < 0.51 * step + 1e-4 or np.abs(mean).max() < 0.1 * np.abs(off).max()


def test_the_batch_norm_behind_a_layer_without_bias_takes_its_mean_error(model, samples, plan, solved):
    layer, before, after = model.net.layer_by_name["bare"], plan.forms["bn"], solved.forms["bn"]
    np.testing.assert_array_equal(after.scale, before.scale)
    _, mean = errors(model, solved, "bare", samples)
    codes = mean * 128 / plan.thresholds[layer.tops[0]]
    np.testing.assert_allclose(
        after.shift.astype(int) - before.shift,
        -after.scale.astype(int) * codes,
        atol=0.02 * np.abs(after.scale).max() + 1,
    )


def test_the_plan_says_who_made_the_integers(model, plan, solved):
    assert solved.given == dict.fromkeys(["c", "dw", "bare", "bn", "ip"], "compensated-rounding")
    assert solved.thresholds == plan.thresholds and solved.forms["r"] is plan.forms["r"]
    for name in ("c", "dw", "bare", "ip"):
        assert solved.forms[name].weights.shape == plan.forms[name].weights.shape


def test_order_and_threads_do_not_count(model, plan, samples, solved):
    other = run_pass(
        CompensatedRounding(SAMPLES), model, plan, lambda: iter(samples[::-1]),
        CollectOptions(engine=EngineOptions(threads=3)),
    )  # fmt: skip
    for name in solved.given:
        for mine, theirs in zip(solved.forms[name].blobs, other.forms[name].blobs, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_wide_layers_are_solved_in_parts(model, plan, samples, solved, monkeypatch):
    """Parts of 10 inputs instead of all 27: worse than together, better than the contract."""
    monkeypatch.setattr("calib8.repair.input_windows.InputWindows.widest", 10)
    parts = run_pass(CompensatedRounding(SAMPLES), model, plan, lambda: iter(samples))
    found = [errors(model, p, "c", samples)[0] for p in (solved, parts, plan)]
    assert found[0] < found[1] < found[2]


def test_rows_in_blocks_are_solved_as_all_at_once(model, plan, samples, solved, monkeypatch):
    monkeypatch.setattr(compensated_rounding, "_BLOCK_ELEMENTS", 60)  # one row of "c" for each of its two groups
    blocks = run_pass(CompensatedRounding(SAMPLES), model, plan, lambda: iter(samples))
    for name in solved.given:
        for mine, theirs in zip(solved.forms[name].blobs, blocks.forms[name].blobs, strict=True):
            np.testing.assert_array_equal(mine, theirs)


WIDE = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 400] } enable_quantize: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 30 } }
"""


@pytest.mark.parametrize("windows", [4, 20])
def test_few_windows_of_many_inputs(random_model, windows):
    """What they tell holds for other samples of the kind: noise is half the contract's, or less."""
    model, rng = random_model(WIDE), np.random.default_rng(6)
    mixed = rng.normal(0, 1, (6, 400))
    seen = [{"x": np.float32(np.maximum(rng.normal(1, 1, (1, 6)) @ mixed, 0))} for _ in range(windows + 50)]
    plan = make_plan(model, {"x": 8.0, "ip": 300.0})
    found = run_pass(CompensatedRounding(windows), model, plan, lambda: iter(seen[:windows]))
    assert found.given == {"ip": "compensated-rounding"}
    noise = [errors(model, p, "ip", seen[windows:])[0] for p in (found, plan)]
    assert noise[0] < noise[1] / 2


def test_layers_with_three_windows_are_left_alone(random_model):
    model = random_model(WIDE)
    plan = make_plan(model, {"x": 8.0, "ip": 300.0})
    found = run_pass(CompensatedRounding(3), model, plan, lambda: iter([{"x": np.ones((1, 400), np.float32)}] * 3))
    assert not found.given and found.forms["ip"] is plan.forms["ip"]


def test_a_bias_that_16_bits_cannot_hold_lowers_the_shift(random_model, samples):
    """The weights are small, so that the contract shifts far, and the bias is clamped."""
    text = NETWORK.partition('layer { name: "r"')[0]
    model = random_model(text)
    weights = model.net.layers[-1].blobs[0]
    own = {"c": (weights * np.float32(1e-4), np.float32([3, -3, 0.1, 0, 0, 1, 2, 0]))}
    model = random_model(text, 0, own)
    plan = make_plan(model, {"x": 8.0, "c": 3.0})
    assert plan.forms["c"].warnings
    found = run_pass(CompensatedRounding(SAMPLES), model, plan, lambda: iter(samples))
    form = found.forms["c"]
    assert form.rshift < plan.forms["c"].rshift and not form.warnings and not found.warnings
    np.testing.assert_allclose(form.bias * (3.0 / 128 / 2.0**form.rshift), own["c"][1], atol=2e-3)


def test_large_weights_are_clipped_where_that_is_better(random_model, samples):
    """One weight, of an input that does not move, is just large enough to double the steps of all others."""
    text = NETWORK.partition('layer { name: "r"')[0]
    weights, bias = (b.copy() for b in random_model(text).net.layers[-1].blobs)
    weights = np.clip(weights, -0.9, 0.9)
    weights[0, 0, 0, 0] = 1.005
    quiet = [{"x": s["x"].copy()} for s in samples]
    for sample in quiet:
        sample["x"][:, 0] = 0
    model = random_model(text, 0, {"c": (weights, bias)})
    plan = make_plan(model, {"x": 8.0, "c": 8.0 / 64})
    found = run_pass(CompensatedRounding(SAMPLES), model, plan, lambda: iter(quiet))
    assert (plan.forms["c"].rshift, found.forms["c"].rshift) == (0, 1)
    assert (plan.forms["c"].weights[0, 0, 0, 0], found.forms["c"].weights[0, 0, 0, 0]) == (64, 127)


def test_the_network_gains(model, plan, samples, solved, run_int8):
    """Over all layers, at the output, with codes as inputs."""
    noise = []
    for one in (plan, solved):
        off = []
        for sample in samples:
            exact = run_float(model, sample)["ip"]
            codes = quantize(sample["x"], one.thresholds["x"])
            off.append(run_int8(model, one, {"x": codes}, ["ip"])["ip"] - exact)
        noise.append(float(np.mean(np.square(off))))
    assert noise[1] < noise[0]
