"""Bias correction against loops: the mean error that rounded weights make, over samples and positions, goes away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib8.engine import EngineOptions, run_float
from calib8.measure.collect import CollectOptions
from calib8.quantize import make_plan, observed_values
from calib8.repair import BiasCorrection, run_pass
from calib8.repair.bias_correction import MeanImage

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 6, 5] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "d" type: "Deconvolution" bottom: "c" top: "d"
  convolution_param { num_output: 4 kernel_size: 2 group: 2 } }
layer { name: "bare" type: "Convolution" bottom: "d" top: "bare"
  convolution_param { num_output: 2 kernel_size: 1 bias_term: false } }
layer { name: "ip" type: "InnerProduct" bottom: "bare" top: "ip" inner_product_param { num_output: 5 } }
"""


@pytest.fixture
def model(random_model):
    return random_model(NETWORK, 3)


@pytest.fixture
def samples():
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(0.5, 1, (1, 3, 6, 5)).astype(np.float32)} for _ in range(7)]


@pytest.fixture
def plan(model, samples):
    """Thresholds that clip nothing."""
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    return make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in found) for v in values})


def mean_of_channels(values):
    return np.mean([v.reshape(v.shape[0], v.shape[1], -1).mean(axis=(0, 2), dtype=np.float64) for v in values], axis=0)


@pytest.mark.parametrize("name", ["c", "d", "ip"])
def test_the_bias_takes_back_what_rounded_weights_add(model, samples, plan, name):
    """With its FP32 bottom the layer's mean output is that of the float weights, to within a step of the bias."""
    after = run_pass(BiasCorrection(), model, plan, lambda: iter(samples))
    layer, form = model.net.layer_by_name[name], after.forms[name]
    tx, ty = plan.thresholds[layer.bottoms[0]], plan.thresholds[layer.tops[0]]
    step = ty / 128 / 2**form.rshift
    weights = form.weights * (ty / tx) / 2.0**form.rshift

    def outputs(blobs):
        own = {x.name: x.blobs for x in model.net.layers} | {name: blobs}
        return mean_of_channels(
            [run_float(with_blobs(model, own), sample, [layer.tops[0]])[layer.tops[0]] for sample in samples]
        )

    exact = outputs(layer.blobs)
    before = outputs((weights, plan.forms[name].bias * step))
    corrected = outputs((weights, form.bias * step))
    assert np.abs(corrected - exact).max() < 0.51 * step + 1e-5
    assert np.abs(before - exact).max() > 4 * np.abs(corrected - exact).max()


def with_blobs(model, blobs):
    layers = tuple(replace(x, blobs=tuple(np.asarray(b, np.float32) for b in blobs[x.name])) for x in model.net.layers)
    return replace(model, net=replace(model.net, layers=layers))


def test_weights_shifts_and_other_layers_stay(model, samples, plan):
    after = run_pass(BiasCorrection(), model, plan, lambda: iter(samples))
    assert after.given == dict.fromkeys(["c", "d", "ip"], "bias-correction")
    assert after.forms["bare"] is plan.forms["bare"] and after.thresholds == plan.thresholds
    for name in after.given:
        own, before = after.forms[name], plan.forms[name]
        np.testing.assert_array_equal(own.weights, before.weights)
        assert own.rshift == before.rshift and (own.bias != before.bias).any()


def test_order_and_threads_do_not_count(model, samples, plan):
    one = run_pass(
        BiasCorrection(), model, plan, lambda: iter(samples), CollectOptions(engine=EngineOptions(threads=1))
    )
    other = run_pass(
        BiasCorrection(), model, plan, lambda: iter(samples[::-1]), CollectOptions(engine=EngineOptions(threads=3))
    )
    for name in one.given:
        np.testing.assert_array_equal(one.forms[name].bias, other.forms[name].bias)


def test_mean_image_of_odd_values():
    mean = MeanImage(2.0)
    mean.add(np.array([[1.0, np.nan, np.inf], [0.5, 1.0, -np.inf]], np.float32))
    mean.add(np.array([[0.0, -1.0, 9.0]], np.float32))
    np.testing.assert_allclose(mean.mean, [[0.5, 0.0, 2.0 / 3]], atol=1e-6)
