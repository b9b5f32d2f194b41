"""Networks with rounded values, layer by layer, against the same network as one graph."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import EngineOptions, Executor, run_float
from calib8.lowering import lower_float
from calib8.quantize import make_plan, observed_values, replan
from calib8.repair import run_pass
from calib8.repair.channel_units import ChannelUnits
from calib8.repair.layer_runs import LayerRuns, packed, rounded
from calib8.repair.rounded_values import with_rounded_values

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 6 kernel_size: 3 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "sc" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "d" type: "Convolution" bottom: "c" top: "d" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "s" type: "Eltwise" bottom: "c" bottom: "d" top: "s" }
layer { name: "p" type: "Pooling" bottom: "s" top: "p" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "unread" type: "Pooling" bottom: "s" top: "u" pooling_param { kernel_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "ip" inner_product_param { num_output: 4 } }
"""
ENGINE = EngineOptions(threads=1, repack_weights=True)


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(NETWORK, 6)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(0.2, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(10)]


@pytest.fixture(scope="module")
def plan(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    plain = make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in found) for v in values})
    with_units = run_pass(ChannelUnits(len(samples)), model, plain, lambda: iter(samples))
    assert with_units.channel_units
    return with_units


@pytest.fixture(scope="module")
def runs(model, plan):
    return LayerRuns(model, plan, ("ip",), ENGINE)


def as_one_graph(model, plan, x):
    found = {}
    Executor(lower_float(with_rounded_values(model, plan), ("ip",)), ("ip",), ENGINE).run(
        {"x": rounded(x, plan.thresholds["x"])}, lambda name, array: found.__setitem__(name, array.copy())
    )
    return found["ip"]


def test_layers_one_by_one_give_what_one_graph_gives(model, plan, runs, samples):
    for sample in samples:
        live = runs.run(runs.started(sample, plan.thresholds), plan.thresholds)
        assert list(live) == ["ip"]  # all else is gone
        np.testing.assert_allclose(live["ip"], as_one_graph(model, plan, sample["x"]), rtol=1e-5, atol=1e-5)


def test_what_nothing_depends_on_does_not_run(runs):
    assert "unread" not in [layer.name for layer, _ in runs.layers]


def test_another_threshold_needs_no_other_graph(model, plan, runs, samples):
    halved = replan(model, plan, {v: plan.thresholds[v] / 2 for v in ("s", "p")})
    live = runs.run(runs.started(samples[0], halved.thresholds), halved.thresholds)
    np.testing.assert_allclose(live["ip"], as_one_graph(model, halved, samples[0]["x"]), rtol=1e-5, atol=1e-5)
    assert not np.allclose(live["ip"], as_one_graph(model, plan, samples[0]["x"]), rtol=1e-3)


def test_a_run_can_be_interrupted_and_gone_on_with_in_another_lane(plan, runs, samples):
    whole = runs.run(runs.started(samples[1], plan.thresholds), plan.thresholds)
    half = runs.run(runs.started(samples[1], plan.thresholds), plan.thresholds, 0, 4)
    before = {v: x.copy() for v, x in half.items()}
    for _ in range(2):
        rest = runs.sibling().run(half, plan.thresholds, 4)
        np.testing.assert_array_equal(rest["ip"], whole["ip"])
    for value, array in half.items():  # what it begins with stays as it is
        np.testing.assert_array_equal(array, before[value])


def test_what_is_kept_between_layers_takes_a_byte_each_and_loses_nothing(plan, runs, samples):
    half = runs.run(runs.started(samples[0], plan.thresholds), plan.thresholds, 0, 1)
    whole = runs.run(half, plan.thresholds, 1)
    kept = {v: packed(x, plan.thresholds[v], plan.channel_units.get(v)) for v, x in half.items()}
    assert list(kept) == ["c@c"] and kept["c@c"].codes.dtype == np.int8
    np.testing.assert_array_equal(kept["c@c"].values, half["c@c"])
    np.testing.assert_array_equal(
        runs.run({v: x.values for v, x in kept.items()}, plan.thresholds, 1)["ip"], whole["ip"]
    )


def test_other_values_are_kept_as_they_are():
    values = np.array([[0.5, 3.25, np.nan]], np.float32)
    np.testing.assert_array_equal(packed(values, 2.0, None), values)


@pytest.mark.parametrize("together", [2, 3, 5, 100])
def test_several_layers_in_one_graph_give_the_same(monkeypatch, model, plan, runs, samples, together):
    """Wherever a run begins and ends; what is alive behind it is the same, too."""
    monkeypatch.setattr("calib8.repair.layer_runs._TOGETHER", together)
    own = LayerRuns(model, plan, ("ip",), ENGINE)
    assert own.rounded == runs.rounded and own.gone == runs.gone
    count = len(own.layers)
    assert own.parts_of_a_trial <= count
    for first in range(count):
        live = runs.run(runs.started(samples[0], plan.thresholds), plan.thresholds, 0, first)
        for last in range(first, count + 1):
            theirs, mine = (one.run(live, plan.thresholds, first, last) for one in (runs, own.sibling()))
            assert theirs.keys() == mine.keys()
            for value, array in theirs.items():
                np.testing.assert_allclose(mine[value], array, rtol=1e-5, atol=1e-5)


def test_large_weights_are_not_copied_for_graphs_of_several_layers(monkeypatch, model, plan):
    monkeypatch.setattr("calib8.repair.layer_runs._MOST_WEIGHTS", 100)
    assert LayerRuns(model, plan, ("ip",), ENGINE).parts_of_a_trial == 4  # of nine layers, one graph each


ISLAND = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "t" type: "TanH" bottom: "c" top: "t" }
layer { name: "u" type: "TanH" bottom: "t" top: "u" }
layer { name: "d" type: "Convolution" bottom: "t" top: "d" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "m" type: "Eltwise" bottom: "t" bottom: "d" top: "m" eltwise_param { operation: PROD } }
layer { name: "s" type: "Eltwise" bottom: "m" bottom: "u" top: "s" }
layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip" inner_product_param { num_output: 4 } }
"""


@pytest.mark.parametrize("together", [1, 3, 16])
def test_what_a_layer_in_fp32_gives_is_rounded_where_one_in_int8_reads_it(monkeypatch, random_model, samples, together):
    """And stays as it is for those in FP32."""
    monkeypatch.setattr("calib8.repair.layer_runs._TOGETHER", together)
    model = random_model(ISLAND, 6)
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    plan = make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in found) for v in values})
    coarse = replan(model, plan, {"t": 8.0})
    runs = LayerRuns(model, coarse, ("ip",), ENGINE)
    assert {"t", "u"} <= runs.rounded
    for thresholds_of in (coarse, plan):
        live = runs.run(runs.started(samples[0], thresholds_of.thresholds), thresholds_of.thresholds)
        one = as_one_graph(model, thresholds_of, samples[0]["x"])
        np.testing.assert_allclose(live["ip"], one, rtol=1e-4, atol=1e-4)
    assert not np.allclose(as_one_graph(model, coarse, samples[0]["x"]), one, rtol=1e-3)
