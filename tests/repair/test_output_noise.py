"""The search of thresholds by output noise, against the guard's noise of whole plans."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.quantize import make_plan, observed_values, replan
from calib8.repair import run_pass
from calib8.repair.channel_units import ChannelUnits
from calib8.repair.guard import Guard
from calib8.repair.output_noise import search_thresholds
from calib8.repair.whole_multipliers import WholeMultipliers

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 6 kernel_size: 3 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "sc" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "d" type: "Convolution" bottom: "c" top: "d" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "p" type: "Pooling" bottom: "d" top: "p" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "ip" inner_product_param { num_output: 4 } }
"""
SAMPLES = 12


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(NETWORK, 6)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(0.2, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(SAMPLES)]


@pytest.fixture(scope="module")
def largest(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    return {v: max(float(np.abs(x[v]).max()) for x in found) for v in values}


@pytest.fixture(scope="module")
def plan(model, largest):
    """Thresholds far too large; `p`, a MAX pooling's top, has that of its bottom."""
    return WholeMultipliers().apply(model, make_plan(model, {v: 3.5 * t for v, t in largest.items()}), {})


def search(model, plan, samples, others=(), **options):
    return search_thresholds(model, plan, others, lambda: iter(samples), SAMPLES, **options)


@pytest.fixture(scope="module")
def found(model, plan, samples, largest):
    return search(model, plan, samples, [make_plan(model, largest).thresholds])


def test_the_noise_is_the_guards_of_the_whole_plan(model, plan, samples, found):
    guard = Guard(model, lambda: iter(samples))
    assert found.before == pytest.approx(guard.noise_of_values(plan), rel=0.02)
    assert found.after == pytest.approx(guard.noise_of_values(replan(model, plan, found.changes)), rel=0.02)
    assert found.after < found.before / 5


def test_nothing_that_was_tried_of_the_last_group_is_better(model, plan, samples, found):
    """It was searched with all others as they are now."""
    guard = Guard(model, lambda: iter(samples))
    at = replan(model, plan, found.changes)
    for factor in (1, 0.55, 0.68, 0.8, 0.9, 1.12, 1.35):
        other = replan(model, at, {"ip": plan.thresholds["ip"] * factor})
        assert guard.noise_of_values(other) > guard.noise_of_values(at) * 0.98


def test_values_that_share_a_threshold_move_together(model, plan, found):
    at = replan(model, plan, found.changes)
    assert at.thresholds["d"] == at.thresholds["p"] != plan.thresholds["d"]


def test_nothing_is_tried_below_what_is_said(model, plan, samples, found):
    start, best = plan.thresholds["ip"], found.changes["ip"]
    assert best < 0.6 * start
    assert 0.6 * start <= search(model, plan, samples, least={"ip": 0.6 * start}).changes["ip"] < start
    assert search(model, plan, samples, least={"ip": 2 * start}).changes.get("ip", start) == start


def test_values_with_units_are_left_alone(model, plan, samples, found):
    units = run_pass(ChannelUnits(SAMPLES), model, plan, lambda: iter(samples))
    (value,) = units.channel_units
    half = {v: t / 2 for v, t in units.thresholds.items()}
    assert value not in search(model, units, samples, [half]).changes
    assert value in found.changes


def test_thresholds_of_another_set_are_tried(model, plan, samples):
    third = {v: t / 3.3 for v, t in plan.thresholds.items()}
    found = search(model, plan, samples, [third])
    assert found.after < search(model, plan, samples).after
    assert any(found.changes[v] == float(np.float32(third[v])) for v in found.changes)
    far = {v: t / 5 for v, t in plan.thresholds.items()}
    assert search(model, plan, samples, [far]) == search(model, plan, samples)


def test_what_gains_nothing_is_not_moved(model, plan, samples, found):
    at = replan(model, plan, found.changes)
    again = search(model, at, samples)
    assert again.after <= again.before == pytest.approx(found.after)
    assert again.after > 0.7 * again.before


def test_the_number_of_threads_changes_nothing(model, plan, samples, found, largest):
    others = [make_plan(model, largest).thresholds]
    assert search(model, plan, samples, others, threads=1) == search(model, plan, samples, others, threads=3) == found


def test_progress_ends_with_all_groups(model, plan, samples):
    told = []
    search(model, plan, samples, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 3 and told == sorted(told)
