"""Maps of a YOLO network that is cut off before its boxes: told by their shapes, compared as what is read from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.quantize import make_plan, observed_values
from calib8.repair.guard import Guard, OutputNoise
from calib8.repair.yolo_maps import are_mostly_empty, as_read, undecoded_maps

NETWORK = """
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: [1, 3, 32, 32] }} }} }}
layer {{ name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param {{ num_output: 6 kernel_size: 8 stride: 8 }} }}
layer {{ name: "fine" type: "Convolution" bottom: "c" top: "fine"
  convolution_param {{ num_output: {channels} kernel_size: 1 }} }}
layer {{ name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param {{ pool: MAX kernel_size: 2 stride: 2 }} }}
layer {{ name: "coarse" type: "Convolution" bottom: "p" top: "coarse"
  convolution_param {{ num_output: {channels} kernel_size: 1 }} }}
"""
MAPS = NETWORK.format(channels=21)  # three anchors, two classes
OBJECTNESS = [4, 11, 18]


@pytest.fixture
def model(random_model):
    """Nothing is found in most cells."""
    model = random_model(MAPS, 4)
    blobs = {layer.name: [blob.copy() for blob in layer.blobs] for layer in model.net.layers}
    for name in ("fine", "coarse"):
        blobs[name][0] *= np.float32(0.1)
        blobs[name][0][OBJECTNESS] *= np.float32(0.1)
        blobs[name][1][OBJECTNESS] = -4
    return random_model(MAPS, 4, blobs)


@pytest.fixture
def samples():
    rng = np.random.default_rng(2)
    return [{"x": rng.normal(0, 1, (1, 3, 32, 32)).astype(np.float32)} for _ in range(6)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_what_is_read_against_loops():
    values = np.random.default_rng(0).normal(0, 3, (2, 21, 2, 3)).astype(np.float32)
    rows = []
    for image, anchor, i, j in np.ndindex(2, 3, 2, 3):
        x, y, w, h, o, *classes = map(float, values[image, 7 * anchor : 7 * anchor + 7, i, j])
        read = [1, *map(sigmoid, classes), sigmoid(x), sigmoid(y), w, h]
        rows.append([sigmoid(o) * one for one in read])
    np.testing.assert_allclose(as_read(values), np.array(rows).T, rtol=1e-5, atol=1e-6)


def test_large_numbers_stay_finite():
    read = as_read(np.full((1, 21, 1, 1), 1e30, np.float32))
    assert np.isfinite(read).all() and read.max() == 20
    assert np.abs(as_read(np.full((1, 21, 1, 1), -1e30, np.float32))).max() == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (MAPS, {"fine", "coarse"}),
        (NETWORK.format(channels=15), set()),  # 3 * (5 + 0): without a class
        (NETWORK.format(channels=22), set()),  # not divisible by three anchors
        (MAPS.replace("stride: 8", "stride: 6"), set()),
        (MAPS + 'layer { name: "s" type: "Softmax" bottom: "fine" top: "s" }', set()),
        (MAPS + 'layer { name: "f" type: "Flatten" bottom: "fine" top: "f" }', set()),
        ('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3] } } }', set()),
    ],
)  # fmt: skip
def test_maps_are_told_by_their_shapes(random_model, text, found):
    assert undecoded_maps(random_model(text)) == found


def test_maps_with_something_everywhere_are_no_detector(random_model, model, samples):
    """A map of 21 classes has such a shape, too."""
    classes = random_model(MAPS, 4)
    for network, empty in ((model, True), (classes, False)):
        measure = OutputNoise(network)
        seen = [{v: measure.seen(v, a) for v, a in run_float(network, s, ["fine", "coarse"]).items()} for s in samples]
        assert are_mostly_empty([one["fine"].read for one in seen]) is empty
        assert bool(measure.signals(seen).read) is empty
    assert not are_mostly_empty([])


def test_noise_is_the_mean_of_numbers_and_of_what_is_read(model, samples):
    values = observed_values(model)
    outputs = [run_float(model, sample, values) for sample in samples]
    plan = make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in outputs) for v in values})
    guard = Guard(model, lambda: iter(samples))
    assert guard.judges_boxes

    measure = OutputNoise(model)
    noises = [{v: x[v] + np.float32(0.1) for v in measure.values} for x in outputs]
    parts = []
    for part in ("numbers", "read"):
        ratios = []
        for value in measure.values:
            pairs = [[getattr(measure.seen(value, one[value]), part) for one in run] for run in (outputs, noises)]
            centred = part == "numbers"
            signal = sum(((a - (a.mean(dtype=np.float64) if centred else 0)) ** 2).sum() for a in pairs[0])
            ratios.append(sum(((a.astype(float) - b) ** 2).sum() for a, b in zip(*pairs, strict=True)) / signal)
        parts.append(np.mean(ratios))
    seen = [[{v: measure.seen(v, one[v]) for v in measure.values} for one in run] for run in (outputs, noises)]
    found = measure.of(measure.signals(seen[0]), [measure.squares(a, b) for a, b in zip(*seen, strict=True)])
    assert found == pytest.approx(math.sqrt(parts[0] * parts[1]), rel=1e-6)
    assert 0 < guard.noise(plan) < 1 and guard.noise_of_values(plan) < guard.noise(plan)
