"""Recurrent layers in a Net: states that live on between passes, and fillers of their weights."""

from __future__ import annotations

import numpy as np
import pytest

import caffe
from calib8.engine import run_float
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

TEXT = """
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: [{steps}, {sequences}, 2] }} }} }}
layer {{ name: "cont" type: "Input" top: "cont" input_param {{ shape {{ dim: [{steps}, {sequences}] }} }} }}
layer {{ name: "h" type: "{kind}" bottom: "x" bottom: "cont" top: "h" recurrent_param {{ num_output: 3 {fillers} }} }}
"""
FILLERS = 'weight_filler { type: "uniform" min: 1 max: 2 } bias_filler { value: 0.25 }'
KINDS = ("LSTM", "RNN")


@pytest.fixture
def make(tmp_path):
    """make(kind, steps, sequences, fillers=""): a Net with one recurrent layer."""

    def net_of(kind, steps, sequences, fillers=""):
        path = tmp_path / f"{kind}{steps}.prototxt"
        path.write_text(TEXT.format(kind=kind, steps=steps, sequences=sequences, fillers=fillers))
        return caffe.Net(str(path), caffe.TEST)

    return net_of


def run(net, x, cont):
    net.blobs["x"].reshape(*x.shape)
    net.blobs["cont"].reshape(*x.shape[:2])
    net.blobs["x"].data[...] = x
    net.blobs["cont"].data[...] = cont
    return net.forward()["h"].copy()


def set_weights(net, seed=0):
    rng = np.random.default_rng(seed)
    for blob in net.params["h"]:
        blob.data[...] = rng.standard_normal(blob.shape)


@pytest.mark.parametrize(("kind", "expected"), [("LSTM", [0.4032, 0.6898, 0.8169]), ("RNN", [0.7165, 0.7842, 0.7886])])
def test_what_a_real_caffe_gives(tmp_path, kind, expected):
    text = TEXT.replace("num_output: 3", "num_output: 2")
    (tmp_path / "n.prototxt").write_text(text.format(kind=kind, steps=1, sequences=1, fillers=""))
    net = caffe.Net(str(tmp_path / "n.prototxt"), caffe.TEST)
    for blob in net.params["h"]:
        blob.data[...] = 0.5 if blob.data.ndim == 2 else 0.1
    found = [run(net, np.ones((1, 1, 2)), cont)[0, 0, 0] for cont in (0, 1, 1)]
    assert found == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_passes_go_on_where_the_last_one_ended(make, kind):
    """Six passes of one step are one pass of six steps; a 0 of cont begins anew."""
    x = np.random.default_rng(1).standard_normal((6, 2, 2)).astype(np.float32)
    cont = np.array([[0, 0], [1, 1], [1, 1], [1, 0], [1, 1], [1, 1]], np.float32)
    whole, stepwise = make(kind, 6, 2), make(kind, 1, 2)
    for net in (whole, stepwise):
        set_weights(net)
    expected = run(whole, x, cont)
    found = [run(stepwise, x[t : t + 1], cont[t : t + 1])[0] for t in range(6)]
    assert np.allclose(found, expected, atol=1e-6)
    assert not np.allclose(run(stepwise, x[:1], np.ones((1, 2)))[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_states_lie_in_memory_as_in_caffe(make, kind):
    """Fewer sequences go on with the first states in memory; more than ever before begin with zeros."""
    rng = np.random.default_rng(2)
    net, alone = make(kind, 1, 3), make(kind, 1, 1)
    for each in (net, alone):
        set_weights(each)
    x = rng.standard_normal((3, 1, 3, 2)).astype(np.float32)
    run(net, x[0], 1)
    fewer = run(net, x[1][:, :1], 1)
    run(alone, x[0][:, :1], 1)
    assert np.allclose(fewer, run(alone, x[1][:, :1], 1), atol=1e-6)
    grown, fresh = run(alone, x[2], 1), make(kind, 1, 3)
    set_weights(fresh)
    assert np.allclose(grown, run(fresh, x[2], 1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_two_nets_have_states_of_their_own(make, kind):
    one, two = make(kind, 1, 1), make(kind, 1, 1)
    for net in (one, two):
        set_weights(net)
    x = np.ones((1, 1, 2), np.float32)
    first = run(one, x, 1)
    assert not np.allclose(run(one, x, 1), first)
    assert np.array_equal(run(two, x, 1), first)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_calibration_do_not_follow_each_other(kind):
    text = TEXT.format(kind=kind, steps=1, sequences=1, fillers="")
    shapes = {"LSTM": [(12, 2), (12,), (12, 3)], "RNN": [(3, 2), (3,), (3, 3), (3, 3), (3,)]}[kind]
    rng = np.random.default_rng(0)
    model = build_model(parse_prototxt(text), {"h": [rng.standard_normal(s).astype(np.float32) for s in shapes]})
    inputs = {"x": np.ones((1, 1, 2), np.float32), "cont": np.ones((1, 1), np.float32)}
    assert np.array_equal(run_float(model, inputs, ["h"])["h"], run_float(model, inputs, ["h"])["h"])


@pytest.mark.parametrize(("kind", "biases"), [("LSTM", [1]), ("RNN", [1, 4])])
def test_all_weights_are_filled(make, kind, biases):
    params = make(kind, 1, 1, FILLERS).params["h"]
    for index, blob in enumerate(params):
        if index in biases:
            assert (blob.data == 0.25).all()
        else:
            assert (blob.data >= 1).all() and (blob.data <= 2).all() and blob.data.std() > 0


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (
            'type: "BatchNorm" batch_norm_param { scale_filler { value: 3 } bias_filler { value: 4 } }',
            [0, 0, 0, 3, 4],
        ),
        ('type: "BatchNorm" batch_norm_param { scale_bias: true }', [0, 0, 0, 1, 0]),
        ('type: "BatchNorm" batch_norm_param { filler { value: 3 } }', [0, 0, 0]),
        (
            'type: "BN" bn_param { bn_mode: INFERENCE scale_filler { value: 3 } shift_filler { value: 4 } }', [3, 4],
        ),
        ('type: "BN" bn_param { slope_filler { value: 3 } bias_filler { value: 4 } }', [3, 4, 0, 0]),
        ('type: "BN" bn_param { frozen: true }', [0, 0, 0, 1]),
        ('type: "Lstm" lstm_param { num_output: 2 weight_filler { value: 3 } bias_filler { value: 4 } }', [3, 3, 4]),
    ],
)  # fmt: skip
def test_fillers_fill_their_own_blobs(tmp_path, layer, expected):
    (tmp_path / "n.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 3, 4] } } }'
        f'layer {{ name: "l" bottom: "x" top: "l" {layer} }}'
    )
    params = caffe.Net(str(tmp_path / "n.prototxt"), caffe.TEST).params["l"]
    assert [set(blob.data.reshape(-1).tolist()) for blob in params] == [{value} for value in expected]
