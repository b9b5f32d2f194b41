"""What a repair of a network with many weights keeps of them: no second copy, and few plans."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.lowering.integer import lower_int8
from calib8.quantize import channel_units, make_plan, observed_values, setup_of
from calib8.quantize.channel_units import in_channel_units
from calib8.repair import RepairOptions, ThresholdSets, guard, repair, work
from calib8.repair.guard import split

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
layer { name: "ra" type: "ReLU" bottom: "a" top: "a" }
layer { name: "wide" type: "InnerProduct" bottom: "a" top: "wide" inner_product_param { num_output: 1024 } }
layer { name: "rw" type: "ReLU" bottom: "wide" top: "wide" }
layer { name: "ip" type: "InnerProduct" bottom: "wide" top: "ip" inner_product_param { num_output: 10 } }
"""
WEIGHTS = 4 * 1024 * 32 * 8 * 8
SAMPLES = 10
SIZES = np.geomspace(0.02, 1, 32).astype(np.float32)


@pytest.fixture(scope="module")
def model(random_model):
    """Channels of very different sizes, so that equalised ones are worth it."""
    blobs = {x.name: [b.copy() for b in x.blobs] for x in random_model(NETWORK, 4).net.layers}
    blobs["a"] = [blob * SIZES.reshape(-1, *(1,) * (blob.ndim - 1)) for blob in blobs["a"]]
    columns = np.repeat(1 / SIZES, 64)
    blobs["wide"][0] = (blobs["wide"][0] * columns / 50).astype(np.float32)
    return random_model(NETWORK, 4, blobs)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(8)
    return [{"x": rng.normal(0.3, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(SAMPLES)]


@pytest.fixture(scope="module")
def sets(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    largest = {v: max(float(np.abs(x[v]).max()) for x in found) for v in values}
    parts = {"some": 0.7, "all": 1.0, "more": 1.3}
    return ThresholdSets(
        list(parts),
        lambda name: make_plan(model, {v: t * parts[name] for v, t in largest.items()}),
        lambda name, seen: seen.maximum * parts[name],
    )


@pytest.fixture
def as_large(monkeypatch):
    monkeypatch.setattr(work, "_LARGE", 0)
    monkeypatch.setattr(work, "_REFITTED_AT_ONCE", 0)
    monkeypatch.setattr(guard, "_LARGE_BYTES", 0)


def test_a_large_network_gets_the_same_integers(model, sets, samples, as_large, monkeypatch):
    options = RepairOptions(without=frozenset(["refitted-weights"]))  # which large ones are spared
    large = repair(model, sets, split(lambda: iter(samples), SAMPLES), options)
    monkeypatch.undo()
    monkeypatch.setattr(channel_units, "_LARGE", 1 << 30)
    monkeypatch.setattr(work, "_FLOOR_PRODUCTS", 0)  # large ones measure thresholds on the guard's samples
    usual = repair(model, sets, split(lambda: iter(samples), SAMPLES), options)
    one, two = large.best.plan, usual.best.plan
    assert large.lines() == usual.lines() and large.floor == usual.floor
    assert {"a", "wide"} <= set(one.channel_units) and one.thresholds == two.thresholds and one.given == two.given
    for name, units in one.channel_units.items():
        np.testing.assert_array_equal(units, two.channel_units[name])
    for name, form in two.forms.items():
        for mine, wanted in zip(one.forms[name].blobs if form else (), form.blobs if form else (), strict=True):
            np.testing.assert_array_equal(mine, wanted)


def test_weights_are_in_memory_once_more_at_most(model, sets, samples, as_large, monkeypatch):
    """Beside those that the caller has: once in units, and a quarter of that for each of few plans.

    What compensated rounding solves at a time does not grow with the weights, and is little here.
    """
    monkeypatch.setattr("calib8.repair.input_windows.InputWindows.widest", 128)
    monkeypatch.setattr("calib8.repair.compensated_rounding._BLOCK_ELEMENTS", 1 << 14)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    repair(model, sets, split(lambda: iter(samples), SAMPLES))
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 2.6 * WEIGHTS


def test_large_weights_in_units_are_made_and_not_kept(model):
    units = {"a": np.linspace(0.1, 1, 32), "wide@wide": np.linspace(0.2, 1, 1024)}
    net = in_channel_units(model, units).net
    wide, own = net.layer_by_name["wide"], model.net.layer_by_name["wide"]
    weights, bias = wide.blobs
    np.testing.assert_array_equal(bias, own.blobs[1] / units["wide@wide"].astype(np.float32))
    columns, rows = np.repeat(units["a"].astype(np.float32), 64), units["wide@wide"].astype(np.float32)[:, None]
    np.testing.assert_array_equal(weights, own.blobs[0] * columns / rows)
    assert len(wide.blobs) == 2 and wide.blobs[1] is bias and wide.blobs[0] is not weights
    gone = weakref.ref(weights)
    del weights
    assert gone() is None
    with pytest.raises(IndexError):
        wide.blobs[2]
    assert isinstance(net.layer_by_name["a"].blobs, tuple)


def test_a_plan_goes_with_its_last_user(sets, model):
    """Not when the garbage collector comes: it counts objects, not their bytes."""
    gc.disable()
    try:
        plan = sets.plan_of("all")
        gone = weakref.ref(plan.forms["wide"].weights)
        lower_int8(model, setup_of(plan), ["ip"])
        del plan
        assert gone() is None
    finally:
        gc.enable()
