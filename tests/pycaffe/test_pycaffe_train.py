"""A Net that was opened in TRAIN: statistics of the batch, random zeros, and what it says of the rest."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import caffe
from calib8.errors import OptionError, UnsupportedError

INPUT = 'layer {{ name: "d" type: "Input" top: "d" input_param {{ shape {{ dim: {shape} }} }} }}\n'


@pytest.fixture
def opened(tmp_path):
    """opened(layers, shape, phase=TRAIN): a Net with one input `d`, its weights between 0.5 and 1.5."""

    def make(layers, shape, phase=caffe.TRAIN):
        path = tmp_path / "n.prototxt"
        path.write_text(INPUT.format(shape=list(shape)) + layers)
        net = caffe.Net(str(path), phase)
        rng = np.random.default_rng(5)
        for vec in net.params.values():
            for blob in vec:
                blob.data[...] = rng.uniform(0.5, 1.5, blob.shape)
        return net

    return make


def one(kind, param="", top="l"):
    return f'layer {{ name: "l" type: "{kind}" bottom: "d" top: "{top}" {param} }}'


def run(net, x):
    net.blobs["d"].data[...] = x
    net.forward()
    return net.blobs[net.top_names["l"][0]].data.copy()


def batch(shape, seed=1):
    return (np.random.default_rng(seed).standard_normal(shape) * 3 + 5).astype(np.float32)


def channel(x, c):
    """All numbers of a channel, one after the other."""
    return [float(v) for place, v in np.ndenumerate(x) if place[1] == c]


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (4, 3, 5), (5, 3), (1, 2, 2, 1)])
@pytest.mark.parametrize("top", ["l", "d"])
def test_batch_norm_takes_the_statistics_of_the_batch(opened, shape, top):
    net = opened(one("BatchNorm", "batch_norm_param { eps: 0.01 moving_average_fraction: 0.9 }", top), shape)
    stored = [blob.data.copy() for blob in net.params["l"]]
    for k in range(3):
        x = batch(shape, k)
        y = run(net, x)
        for c in range(shape[1]):
            numbers = channel(x, c)
            n, mean = len(numbers), sum(numbers) / len(numbers)
            variance = sum((v - mean) ** 2 for v in numbers) / n
            expected = [(v - mean) / (variance + 0.01) ** 0.5 for v in numbers]
            assert channel(y, c) == pytest.approx(expected, rel=1e-4, abs=1e-4)
            stored[0][c] = mean + 0.9 * stored[0][c]
            stored[1][c] = variance * n / (n - 1) + 0.9 * stored[1][c]
        stored[2][0] = 1 + 0.9 * stored[2][0]
        for blob, expected in zip(net.params["l"], stored, strict=True):
            assert np.allclose(blob.data, expected, rtol=1e-5)


def test_the_statistics_that_training_left_are_those_of_test(opened, tmp_path):
    """What re-estimation of a BatchNorm does: passes in TRAIN, then TEST with the same weights."""
    x = batch((8, 2, 4, 4))
    train = opened(one("BatchNorm"), x.shape)
    for blob in train.params["l"]:
        blob.data[...] = 0
    y = run(train, x)
    train.save(str(tmp_path / "w.caffemodel"))
    test = caffe.Net(str(tmp_path / "n.prototxt"), str(tmp_path / "w.caffemodel"), caffe.TEST)
    unbiased = np.sqrt(127 / 128)  # TEST divides by the deviation of what the batch is a sample of
    assert np.allclose(run(test, x), y * unbiased, atol=1e-3)


def test_global_statistics_where_they_are_asked_for(opened):
    layer, x = one("BatchNorm", "batch_norm_param { use_global_stats: true }"), batch((4, 2, 3, 3))
    train, test = opened(layer, x.shape), opened(layer, x.shape, caffe.TEST)
    assert np.array_equal(run(train, x), run(test, x))
    with pytest.raises(UnsupportedError, match="statistics of the batch are for training"):
        opened(layer.replace("true", "false"), x.shape, caffe.TEST)


def test_batch_norm_with_gamma_and_beta(opened):
    x = batch((4, 2, 3, 3))
    net = opened(one("BatchNorm", "batch_norm_param { scale_bias: true }"), x.shape)
    gamma, beta = (net.params["l"][i].data[:, None, None] for i in (3, 4))
    mean, deviation = x.mean((0, 2, 3), keepdims=True), x.std((0, 2, 3), keepdims=True)
    assert np.allclose(run(net, x), gamma * (x - mean) / deviation + beta, atol=1e-4)


@pytest.mark.parametrize(("param", "momentum"), [("", 0.9), ("bn_param { momentum: 0.6 }", 0.6)])
def test_bn_takes_the_statistics_of_the_batch(opened, param, momentum):
    x = batch((4, 2, 3, 3))
    net = opened(one("BN", param), x.shape)
    slope, bias, mean, variance = (blob.data.copy() for blob in net.params["l"])
    found = run(net, x)
    m, v = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    assert np.allclose(found, slope * (x - m) / np.sqrt(v + 1e-5) + bias, atol=1e-4)
    assert np.allclose(net.params["l"][2].data, momentum * mean + (1 - momentum) * m, rtol=1e-5)
    assert np.allclose(net.params["l"][3].data, momentum * variance + (1 - momentum) * v, rtol=1e-5)


@pytest.mark.parametrize("param", ["bn_param { frozen: true }", "bn_param { bn_mode: INFERENCE }"])
def test_frozen_and_merged_bn_stay_as_in_test(opened, param):
    x = batch((4, 2, 3, 3))
    train, test = opened(one("BN", param), x.shape), opened(one("BN", param), x.shape, caffe.TEST)
    assert np.array_equal(run(train, x), run(test, x))


@pytest.mark.parametrize(
    ("param", "ratio", "scale"),
    [
        ("", 0.5, 2),
        ("dropout_param { dropout_ratio: 0.2 }", 0.2, 1.25),
        ("dropout_param { dropout_ratio: 0.2 scale_train: false }", 0.2, 1),
    ],
)
def test_dropout_drops_and_keeps_the_mean(opened, param, ratio, scale):
    net = opened(one("Dropout", param), (50, 100))
    y = run(net, 3)
    assert np.unique(y).tolist() == pytest.approx([0, 3 * scale], rel=1e-6)
    assert (y == 0).mean() == pytest.approx(ratio, abs=0.03)
    assert not np.array_equal(run(net, 3), y)


def test_dropout_follows_the_seed(opened):
    net = opened(one("Dropout", top="d"), (10, 10))
    caffe.set_random_seed(7)
    first = run(net, 1)
    second = run(net, 1)
    caffe.set_random_seed(7)
    assert np.array_equal(run(net, 1), first) and not np.array_equal(first, second)


@pytest.mark.parametrize("message", ["spatial_dropout_param", "dropout_param"])
def test_spatial_dropout_drops_channels(opened, message):
    net = opened(one("SpatialDropout", f"{message} {{ dropout_ratio: 0.4 }}"), (20, 30, 2, 3))
    y = run(net, 3)
    assert np.array_equal(y, np.broadcast_to(y[:, :, :1, :1], y.shape))
    assert (y == 0).mean() == pytest.approx(0.4, abs=0.05)
    assert y.max() == pytest.approx(5)


def test_dropout_of_nothing(opened):
    assert (run(opened(one("Dropout", "dropout_param { dropout_ratio: 0 }"), (4, 4)), 3) == 3).all()


@pytest.mark.parametrize("ratio", ["-0.5", "1", "1.5", "nan"])
def test_dropout_of_everything_is_refused(opened, ratio):
    with pytest.raises(UnsupportedError, match=r"dropout_ratio is .*; expected a number from 0 to below 1"):
        opened(one("Dropout", f"dropout_param {{ dropout_ratio: {ratio} }}"), (2, 2))


def test_a_blob_that_nobody_asked_for_has_the_mask_of_its_pass(opened):
    net = opened(
        one("Dropout") + 'layer { name: "p" type: "Power" bottom: "l" top: "p" power_param { scale: 2 } }', (10, 10)
    )
    net.blobs["d"].data[...] = 1
    out = net.forward()["p"].copy()
    assert np.array_equal(net.blobs["l"].data * 2, out)


def test_integers_are_for_test(opened, tmp_path):
    net = opened(one("BatchNorm"), (2, 2, 3, 3))
    with pytest.raises(OptionError, match=r"opened in TRAIN.*caffe\.TEST"):
        net.int8_init(str(tmp_path / "n.prototxt"), "w.caffemodel", "t.pb2")


def test_random_crops_are_not_drawn_and_that_is_said(tmp_path, caplog):
    (tmp_path / "n.prototxt").write_text(
        """layer { name: "d" type: "MemoryData" top: "d" top: "l" transform_param { mirror: true crop_size: 2 }
        memory_data_param { batch_size: 1 channels: 1 height: 2 width: 2 } }
        layer { name: "p" type: "Power" bottom: "d" top: "p" } layer { name: "s" type: "Silence" bottom: "l" }"""
    )
    for phase, said in ((caffe.TEST, 0), (caffe.TRAIN, 1)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            caffe.Net(str(tmp_path / "n.prototxt"), phase)
        assert len(caplog.messages) == said
    assert "layer 'd' (MemoryData): in TRAIN Caffe draws crop_size, mirror at random" in caplog.messages[0]
