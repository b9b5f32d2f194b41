"""Whole factors: BatchNorms and Scales multiply by what their integers say, and FP32 computes the same."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.measure.collect import collect
from calib8.measure.thresholds import find_threshold
from calib8.quantize import make_plan, observed_values
from calib8.repair import repair, split
from calib8.repair.equalised_channels import EqualisedChannels, channel_classes
from calib8.repair.guard import Guard
from calib8.repair.stages import ThresholdSets
from calib8.repair.whole_factors import whole_factors

DENSE = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 10, 8] } enable_quantize: 1 } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "cat" type: "Concat" bottom: "a" bottom: "b" top: "cat" }
layer { name: "bn" type: "BatchNorm" bottom: "cat" top: "bn" }
layer { name: "sc" type: "Scale" bottom: "bn" top: "sc" scale_param { bias_term: true } }
layer { name: "rs" type: "ReLU" bottom: "sc" top: "rs" }
layer { name: "c" type: "Convolution" bottom: "rs" top: "c" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "alone" type: "Scale" bottom: "c" top: "alone" scale_param { bias_term: true } }
layer { name: "d" type: "Convolution" bottom: "alone" top: "d" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "shared" type: "Scale" bottom: "d" top: "shared" scale_param { bias_term: true } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "shared" top: "sum" }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip" inner_product_param { num_output: 5 } }
"""
SAMPLES = 30


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(8)
    return [{"x": rng.normal(0.3, 1, (1, 3, 10, 8)).astype(np.float32)} for _ in range(SAMPLES)]


@pytest.fixture(scope="module")
def model(random_model, samples):
    """Statistics of the BatchNorm are those of its bottom; none of its channels is dead."""
    sizes = np.float32([1, 0.5, 2, 0.6, 1.5, 0.8])
    first = random_model(DENSE, 4)
    blobs = {x.name: [b.copy() for b in x.blobs] for x in first.net.layers}
    blobs["a"] = [blob * sizes.reshape(-1, *(1,) * (blob.ndim - 1)) for blob in blobs["a"]]
    for name in ("sc", "alone", "shared"):
        blobs[name][0][:] = np.random.default_rng(5).uniform(0.2, 1.5, blobs[name][0].shape)
    first = random_model(DENSE, 4, blobs)
    seen = np.concatenate([run_float(first, sample, ["cat"])["cat"] for sample in samples])
    blobs["bn"] = [seen.mean((0, 2, 3)), seen.var((0, 2, 3)), np.ones(1, np.float32)]
    return random_model(DENSE, 4, blobs)


@pytest.fixture(scope="module")
def plan(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    return make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in found) for v in values})


@pytest.fixture(scope="module")
def units(model, plan, samples):
    choice = EqualisedChannels(model, plan)
    collect(model, lambda: iter(samples), choice.counters)
    ways = choice.ways()
    collect(model, lambda: iter(samples), ways.counters)
    return ways.least_noise


@pytest.fixture(scope="module")
def thresholds(plan, units):
    return {**plan.thresholds, **units.thresholds(partial(find_threshold, method="max"))}


def exact_steps(model, plan, thresholds, name, scale):
    """What a layer multiplies by in steps, channel by channel, by the contract's formulas."""
    layer, form = model.net.layer_by_name[name], plan.forms[name]
    tx, ty = thresholds[layer.bottoms[0]], thresholds[scale.tops[0]]
    gamma = scale.blobs[0].astype(float)
    if name != scale.name:
        _, variance, factor = layer.blobs
        gamma = [g / math.sqrt(v / factor[0] + 1e-5) for g, v in zip(gamma, variance, strict=True)]
    return [abs(g) * tx / ty * 2**form.rshift for g in gamma], form.blobs[1 if name != scale.name else 0]


@pytest.mark.parametrize(("name", "scale"), [("bn", "sc"), ("alone", "alone")])
def test_factors_become_whole_and_fp32_stays(model, units, thresholds, samples, name, scale):
    before = units.network()
    first = make_plan(before.model, thresholds)
    times = whole_factors(before.model, first, units.classes)
    after = units.network(times)
    second = make_plan(after.model, thresholds)
    exact, _ = exact_steps(before.model, first, thresholds, name, before.model.net.layer_by_name[scale])
    own, integers = exact_steps(after.model, second, thresholds, name, after.model.net.layer_by_name[scale])
    assert min(exact) >= 1 and second.forms[name].rshift == first.forms[name].rshift
    np.testing.assert_allclose(own, integers, rtol=1e-5)
    largest = int(np.argmax(exact))
    for channel, (one, steps) in enumerate(zip(exact, integers.tolist(), strict=True)):
        if channel != largest:
            assert steps == (round(one) if one >= 16 else math.floor(one + 0.02))
    assert 65 <= integers[largest] <= 127
    assert np.abs(np.array(exact) / np.rint(exact) - 1).max() > 1e-3  # they were not whole
    outputs = [run_float(network, samples[0], ["ip"])["ip"] for network in (model, before.model, after.model)]
    for found in outputs[1:]:
        np.testing.assert_allclose(found, outputs[0], rtol=1e-4, atol=1e-4)


def test_units_that_others_share_stay(model, plan, units, thresholds):
    network = units.network()
    classes = channel_classes(model, plan)
    times = whole_factors(network.model, make_plan(network.model, thresholds), units.classes)
    assert (times[classes.of["shared"]] == 1).all() and (times[classes.of["a"]] == 1).all()
    assert (times[classes.of["sc"]] != 1).any() and (times[classes.of["alone"]] != 1).any()


def test_nothing_to_do(random_model):
    start = DENSE[: DENSE.index('layer { name: "bn"')]
    end = DENSE[DENSE.index('layer { name: "ip"') :].replace('bottom: "sum"', 'bottom: "cat"')
    plain = random_model(start + end)
    own = make_plan(plain, dict.fromkeys(observed_values(plain), 4.0))
    assert whole_factors(plain, own, channel_classes(plain, own)) is None


def test_less_noise_in_int8(model, units, thresholds, samples):
    guard = Guard(model, lambda: iter(samples), threads=1)
    before = units.network()
    first = make_plan(before.model, thresholds)
    after = units.network(whole_factors(before.model, first, units.classes))
    second = make_plan(after.model, thresholds)
    noise = [guard.noise(network.real(own)) for network, own in ((before, first), (after, second))]
    assert noise[1] < noise[0]


def test_a_repair_has_them(model, plan, samples):
    """What it starts with in units of channels has a BatchNorm whose integers are its factors."""

    def threshold_of(name, histogram):
        return find_threshold(histogram, name)

    found = repair(model, ThresholdSets(["max"], lambda _: plan, threshold_of), split(lambda: iter(samples), SAMPLES))
    stage = next(stage for stage in found.stages if stage.name.startswith("equalised-channels"))
    unit, own = stage.plan.channel_units, stage.plan
    layer, scale = (model.net.layer_by_name[name] for name in ("bn", "sc"))
    in_units = scale.blobs[0] * unit["cat"] / unit["sc"] / np.sqrt(layer.blobs[1] + 1e-5)
    steps = np.abs(in_units) * own.thresholds["cat"] / own.thresholds["sc"] * 2.0 ** own.forms["bn"].rshift
    few = steps >= 1
    np.testing.assert_allclose(steps[few], np.abs(own.forms["bn"].scale[few]), rtol=1e-4)


CHAIN = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 10, 8] } enable_quantize: 1 } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "bn" }
layer { name: "sc" type: "Scale" bottom: "bn" top: "sc" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "sc" top: "r" }
layer { name: "b" type: "Convolution" bottom: "r" top: "b" convolution_param { num_output: 8 kernel_size: 1 BIAS } }
layer { name: "bn2" type: "BatchNorm" bottom: "b" top: "bn2" }
layer { name: "sc2" type: "Scale" bottom: "bn2" top: "sc2" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "sc2" top: "ip" inner_product_param { num_output: 5 } }
"""


@pytest.mark.parametrize("bias", [True, False])
def test_offsets_become_whole_and_fp32_stays(random_model, samples, bias):
    """From 8 codes on, where the convolution before has no bias; by a sixteenth of a unit at most."""
    text = CHAIN.replace("BIAS", "" if bias else "bias_term: false")
    blobs = {x.name: [b.copy() for b in x.blobs] for x in random_model(text, 6).net.layers}
    blobs["sc"][1][:] = np.linspace(-2, 2, 8)
    blobs["sc2"][1][:] = np.linspace(-0.3, 1, 8)
    for name in ("bn", "bn2"):
        blobs[name][0][:], blobs[name][2][:] = 0, 1
    model = random_model(text, 6, blobs)
    own = make_plan(model, dict.fromkeys(observed_values(model), 4.0))
    choice = EqualisedChannels(model, own)
    collect(model, lambda: iter(samples), choice.counters)
    units = choice.ways().least_noise
    before = units.network()
    times = whole_factors(before.model, make_plan(before.model, own.thresholds), units.classes)
    after = units.network(times)
    for top, applies in (("sc", True), ("sc2", not bias)):
        old, new = (network.units[top] for network in (before, after))
        offsets = blobs[top][1] * 128 / 4.0
        moved = new / old
        assert np.abs(moved - 1).max() <= 1 / 16 + 1e-9
        if not applies:
            np.testing.assert_array_equal(old, new)
            continue
        for offset, a, b in zip(offsets, old, new, strict=True):
            if abs(offset / a) >= 8:
                assert offset / b == pytest.approx(round(offset / a), rel=1e-6)
            else:
                assert b == a or offset / b == pytest.approx(round(offset / a), rel=1e-6)
        assert (np.abs(moved - 1) > 1e-4).any()
    outputs = [run_float(network, samples[0], ["ip"])["ip"] for network in (model, before.model, after.model)]
    for found in outputs[1:]:
        np.testing.assert_allclose(found, outputs[0], rtol=1e-4, atol=1e-4)
