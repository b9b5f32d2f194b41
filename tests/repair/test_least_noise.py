"""Units with the least noise: the formula against loops, its gradient against differences, and what it is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.quantize import make_plan, observed_values
from calib8.repair.channel_values import ChannelMoments
from calib8.repair.equalised_channels import channel_classes
from calib8.repair.least_noise import NoiseModel, NoisyLayer, least_noise

GROUPS, OUTPUTS, INPUTS, CLASSES = 2, 3, 4, 6
STEP = 1 / (12 * 128**2)


@pytest.fixture(params=[False, True], ids=["one scale", "by row"])
def layer(request):
    """A dense layer; the last class is that of units that stay 1."""
    rng = np.random.default_rng(3)
    rows = np.arange(GROUPS * OUTPUTS).repeat(INPUTS)
    columns = (np.arange(GROUPS)[:, None, None] * INPUTS + np.arange(INPUTS) + np.zeros((OUTPUTS, 1), int)).ravel()
    return NoisyLayer(
        bottoms=rng.integers(0, CLASSES + 1, (GROUPS, INPUTS)),
        tops=rng.integers(0, CLASSES + 1, (GROUPS, OUTPUTS)),
        rows=rows, columns=columns, sizes=rng.random(rows.size), energies=rng.random((GROUPS, INPUTS)),
        largest=rng.random((GROUPS, INPUTS)), squares=rng.random((GROUPS, INPUTS)), products=9, power=2.0,
        by_row=request.param,
    )  # fmt: skip


def by_loops(layer, units):
    """The formula of the module's text, with true maxima."""
    bottom, top = units[layer.bottoms], units[layer.tops]
    threshold = max(r / u for r, u in zip(layer.largest.ravel(), bottom.ravel(), strict=True))
    values = sum(q * (u * threshold) ** 2 for q, u in zip(layer.energies.ravel(), bottom.ravel(), strict=True))
    scales = np.zeros(top.size)
    for row, column, size in zip(layer.rows, layer.columns, layer.sizes, strict=True):
        scales[row] = max(scales[row], size * bottom.ravel()[column] / top.ravel()[row])
    weights = 0.0
    for group in range(GROUPS):
        reads = layer.products * sum(layer.squares[group] / bottom[group] ** 2)
        for o in range(OUTPUTS):
            scale = scales[group * OUTPUTS + o] if layer.by_row else scales.max()
            weights += (scale * top[group, o]) ** 2 * reads
    return STEP * (values + weights) / layer.power


def test_noise_is_that_of_loops(layer):
    """But for maxima that are norms, a little larger; nearly none where one number is far above the others."""
    logs = -np.random.default_rng(1).random(CLASSES + 1)
    logs[-1] = 0
    found, exact = layer.noise(logs, np.zeros(CLASSES + 1)), by_loops(layer, np.exp(logs))
    assert exact < found < 1.4 * exact
    sharp = replace(layer, sizes=layer.sizes * 1e-3, largest=layer.largest * 1e-3)
    sharp.sizes[::INPUTS] = 1.0 if layer.by_row else 1e-3
    sharp.sizes[0], sharp.largest[0, 0] = 5.0, 5.0
    assert sharp.noise(logs, np.zeros(CLASSES + 1)) == pytest.approx(by_loops(sharp, np.exp(logs)), rel=1e-6)


def test_its_gradient_is_that_of_differences(layer):
    logs = -np.random.default_rng(1).random(CLASSES + 1)
    logs[-1] = 0
    gradient, nowhere = np.zeros(CLASSES + 1), np.zeros(CLASSES + 1)
    layer.noise(logs, gradient)
    for one in range(CLASSES):
        step = np.eye(CLASSES + 1)[one] * 1e-5
        slope = (layer.noise(logs + step, nowhere) - layer.noise(logs - step, nowhere)) / 2e-5
        assert gradient[one] == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_no_number_gives_no_noise(layer):
    nothing = replace(
        layer, sizes=layer.sizes * 0, largest=layer.largest * 0, squares=layer.squares * 0
    )  # a gradient without NaN
    gradient = np.zeros(CLASSES + 1)
    assert nothing.noise(np.zeros(CLASSES + 1), gradient) == 0 and (gradient == 0).all()


def test_units_lower_the_noise_and_have_ten_bits(layer):
    sizes = 10.0 ** -np.arange(GROUPS * INPUTS).reshape(GROUPS, INPUTS) / 3  # of channels, from 1 to 1/200
    layer = replace(
        layer, bottoms=np.arange(8).reshape(2, 4) % 5, tops=np.full((2, 3), 5), largest=sizes, squares=sizes**2 / 9
    )
    units = least_noise([layer], CLASSES, 1 / 64)
    before, after = (by_loops(layer, np.append(one, 1.0)) for one in (np.ones(CLASSES), units))
    assert after < 0.9 * before
    assert ((units >= 1 / 64) & (units <= 1)).all()
    mantissas, _ = np.frexp(units)
    assert (mantissas * 1024 == np.round(mantissas * 1024)).all()


def test_without_layers_units_are_one():
    assert (least_noise([], 3, 1 / 64) == 1).all()


NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 4, 6, 6] } enable_quantize: 1 } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param { num_output: 6 group: 2 kernel_size: 3 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "a" }
layer { name: "sc" type: "Scale" bottom: "a" top: "sc" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "sc" top: "sc" }
layer { name: "b" type: "Convolution" bottom: "sc" top: "b" convolution_param { num_output: 300 kernel_size: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "b" top: "ip" inner_product_param { num_output: 5 } }
"""


def test_layers_are_described_by_their_matrices(random_model):
    """Groups, windows, a BatchNorm that scales rows, and wide layers, which are looked at in parts."""
    model = random_model(NETWORK, 2)
    rng = np.random.default_rng(0)
    sample = {"x": rng.normal(0, 1, (1, 4, 6, 6)).astype(np.float32)}
    values = run_float(model, sample, observed_values(model))
    plan = make_plan(model, {v: float(np.abs(x).max()) for v, x in values.items()})
    noise = NoiseModel(model, plan)
    assert set(noise.values) == {"x", "sc@sc", "sc", "b", "ip"}
    seen = {value: ChannelMoments() for value in noise.values}
    for value, array in run_float(model, sample, list(seen)).items():
        seen[value].add(array)
    classes = channel_classes(model, plan)
    a, b, ip = noise.layers(classes.of, classes.count, seen)
    assert (a.by_row, b.by_row, ip.by_row) == (True, False, False)
    assert (a.products, b.products, ip.products) == (9, 1, 36)
    assert a.bottoms.shape == (2, 2) and (a.bottoms == classes.count).all()
    np.testing.assert_array_equal(ip.bottoms[0], classes.of["b"])

    factors = np.abs(model.op_of["bn"].affine(
        model.net.layer_by_name["bn"].blobs, model.op_of["sc"], model.net.layer_by_name["sc"].blobs
    )[0])  # fmt: skip
    weights = model.net.layer_by_name["a"].blobs[0].astype(np.float64) * factors.reshape(-1, 1, 1, 1)
    for at, (row, column) in enumerate(zip(a.rows, a.columns, strict=True)):
        assert a.sizes[at] == pytest.approx(np.abs(weights[row, column % 2]).max(), rel=1e-5)
        assert row // 3 == column // 2
    energies = np.square(weights).sum((2, 3)).reshape(2, 3, 2).sum(1)
    np.testing.assert_allclose(a.energies, energies, rtol=1e-5)
    wide = np.abs(model.net.layer_by_name["ip"].blobs[0].reshape(5, 300, 36)).max(2)
    np.testing.assert_allclose(ip.sizes, wide[ip.rows, ip.columns], rtol=1e-6)
    assert ip.sizes.max() == wide.max()
    np.testing.assert_allclose(ip.squares[0], seen["b"].squares)


def test_mean_squares_do_not_depend_on_the_order_of_samples():
    rng = np.random.default_rng(5)
    samples = [rng.normal(0, 10.0**n, (1, 3, 5, 5)).astype(np.float32) for n in range(-3, 4)]
    found = []
    for order in (1, -1):
        counter = ChannelMoments()
        for sample in samples[::order]:
            counter.add(sample)
        found.append(counter.squares)
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], np.mean(np.square(samples, dtype=np.float64), axis=(0, 1, 3, 4)), rtol=1e-12)
