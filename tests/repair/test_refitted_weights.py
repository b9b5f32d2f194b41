"""Refitted weights: the closed form against least squares over rows, and what a network loses with them."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.arithmetic import quantize
from calib8.engine import EngineOptions, run_float, run_int8
from calib8.lowering import Codes
from calib8.quantize import make_plan, observed_values, setup_of
from calib8.repair import Guard, run_pass
from calib8.repair.compensated_rounding import CompensatedRounding, problem_of
from calib8.repair.paired_runs import PairedRuns
from calib8.repair.paired_windows import PairedMoments, PairedWindows
from calib8.repair.refitted_weights import refit_weights

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 6, 8, 7] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 2 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "dw" type: "ConvolutionDepthwise" bottom: "c" top: "dw" convolution_param { kernel_size: 2 } }
layer { name: "bare" type: "Convolution" bottom: "dw" top: "bare"
  convolution_param { num_output: 5 kernel_size: 1 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "bare" top: "bare" }
layer { name: "sc" type: "Scale" bottom: "bare" top: "bare" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "bare" top: "ip" inner_product_param { num_output: 5 } }
"""
SAMPLES, FEW = 60, 16


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(NETWORK, 3)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(5)
    mix = rng.normal(0, 1, (6, 2))
    found = []
    for _ in range(2 * SAMPLES):
        coarse = rng.normal(0.4, 1, (2, 4, 4)).repeat(2, axis=1).repeat(2, axis=2)[:, :, :7]
        image = np.tensordot(mix, coarse, 1) + rng.normal(0, 0.1, (6, 8, 7))
        found.append({"x": image[None].astype(np.float32)})
    return found


@pytest.fixture(scope="module")
def plan(model, samples):
    """An input that is clipped: what is left of it is too small, and weights can make up for that."""
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples[:SAMPLES]]
    return make_plan(
        model, {v: (0.4 if v == "x" else 1) * max(float(np.abs(x[v]).max()) for x in found) for v in values}
    )


@pytest.fixture(scope="module")
def refitted(model, plan, samples):
    return refit_weights(model, plan, lambda: iter(samples[:SAMPLES]), SAMPLES)


@pytest.fixture(scope="module")
def windows(model):
    """Windows of two groups, and codes that follow from the values with an error that depends on them."""
    rng = np.random.default_rng(8)
    found = PairedWindows(model.op_of["c"], 2.0, 50)
    rows_x, rows_codes = [], []
    for _ in range(6):
        values = rng.normal(0.3, 1, (1, 6, 8, 7)).astype(np.float32)
        codes = quantize(values * 0.9 + 0.1 * values[:, ::-1], 2.0)
        found.add(found.seen(codes, values))
        rows_x.append(np.rint(model.op_of["c"].product_windows(values, 50) * 64 * 16) / 16)
        rows_codes.append(model.op_of["c"].product_windows(codes, 50).astype(float))
    return found, np.concatenate(rows_x, axis=1), np.concatenate(rows_codes, axis=1)


@pytest.mark.parametrize("centred", [True, False])
def test_what_is_off_has_nothing_to_do_with_the_inputs(windows, centred):
    """Over rows, one by one: V x' - W x, and what holds V near W, against every input."""
    paired, x, codes = windows
    weights = np.random.default_rng(1).normal(0, 20, (2, 4, 27))
    found = next(paired.moments().refitted(weights, 0.5, centred=centred))
    for group in range(2):
        a, b = codes[group], x[group]
        if centred:
            a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        ridge = 0.5 * (np.square(a).mean() + 1 / 12)
        for output in range(4):
            v, w = found[group, output], weights[group, output]
            off = sum((row @ v - other @ w) * other for row, other in zip(a, b, strict=True)) / len(a)
            scale = sum(abs(other @ w) * np.abs(other) for other in b) / len(a)
            assert np.abs(off + ridge * (v - w)).max() < 1e-7 * scale.max()


def test_noise_that_inputs_have_nothing_to_do_with_makes_no_weight_smaller(model):
    """Least squares would take a half of each: noise is as large as what a rare direction is."""
    rng = np.random.default_rng(3)
    op, weights = model.op_of["ip"], rng.normal(0, 20, (1, 5, 210))
    paired = PairedWindows(op, 4.0, 1)
    for _ in range(4000):
        values = rng.normal(0, 0.5, (1, 5, 7, 6)).astype(np.float32)
        paired.add(paired.seen(quantize(values + rng.normal(0, 0.5, values.shape), 4.0), values))
    found = next(paired.moments().refitted(weights, 1e-6, centred=True))
    slope = float(np.vdot(found, weights) / np.vdot(weights, weights))
    assert abs(slope - 1) < 0.05


def test_codes_that_run_against_their_inputs_leave_the_weights_as_they_are():
    """E[x x'^T] is what the ridge makes 0."""
    sums, products = np.zeros((1, 1)), np.full((1, 1, 1), 4.0)
    moments = PairedMoments(4, sums, products, sums, -products * (1 + 1 / 12), products)
    weights = np.array([[[3.0]]])
    assert list(moments.refitted(weights, 1.0, centred=False)) == [weights]


@pytest.mark.parametrize("part", [1.0, 0.8])
def test_how_tightly_weights_are_held_is_decided_on_samples_that_were_held_out(model, part):
    """Weights of bottoms that come 20 % too small are made up for; those of exact ones, in few samples, stay."""
    rng = np.random.default_rng(2)
    op, weights = model.op_of["ip"], rng.normal(0, 20, (1, 5, 210))
    found = PairedWindows(op, 4.0, 1)
    for _ in range(40):
        values = (rng.normal(0, 1, (1, 5, 1, 1)) * np.ones((1, 5, 7, 6))).astype(np.float32)
        if part == 1.0:
            values = rng.normal(0, 1, (1, 5, 7, 6)).astype(np.float32)
        found.add(found.seen(quantize(values * part, 4.0), values))
    wanted = found.moments().chosen(weights, centred=True)(weights)
    if part == 1.0:
        np.testing.assert_array_equal(wanted.weights, weights)
        np.testing.assert_allclose(wanted.means[0], weights[0] @ found.moments().means[0])
    else:
        by_channel = (wanted.weights.reshape(5, 5, 42).sum(axis=2), weights.reshape(5, 5, 42).sum(axis=2) / part)
        np.testing.assert_allclose(*by_channel, rtol=0.05, atol=3)
        np.testing.assert_allclose(wanted.means[0], weights[0] @ found.moments().float_means[0])


def test_a_range_of_inputs_has_its_part_of_the_moments(windows):
    paired, x, codes = windows
    part = paired.moments(5, 11)
    np.testing.assert_allclose(part.cross, x[:, :, 5:11].transpose(0, 2, 1) @ codes[:, :, 5:11])
    np.testing.assert_allclose(part.float_means, x[:, :, 5:11].mean(axis=1))
    assert paired.count == len(x[0])


def test_a_network_is_nearer_to_fp32_than_with_compensated_rounding(model, plan, refitted, samples):
    """On samples that nothing was solved on."""
    guard = Guard(model, lambda: iter(samples[SAMPLES:]))
    compensated = run_pass(CompensatedRounding(SAMPLES), model, plan, lambda: iter(samples[:SAMPLES]))
    assert guard.noise(refitted) < 0.97 * guard.noise(compensated)
    assert {refitted.given[name] for name in ("c", "dw", "bare", "ip", "bn")} == {"refitted-weights"}


def test_the_mean_of_each_layer_is_fp32s(model, plan, refitted, samples):
    """The offset takes the whole mean error, up to a code; clipped values of the top are what is left."""
    wide = make_plan(model, {v: 2 * t for v, t in plan.thresholds.items()})
    solved = refit_weights(model, wide, lambda: iter(samples[:SAMPLES]), SAMPLES)
    real, codes = [], []
    for sample in samples[:SAMPLES]:
        real.append(run_float(model, sample, ["ip"])["ip"])
        codes.append(run_int8(model, setup_of(solved), sample, [Codes("ip")])[Codes("ip")].astype(float) - 128)
    step = wide.thresholds["ip"] / 128
    off = np.mean(codes, axis=0) - np.mean(real, axis=0) / step
    assert np.abs(off).max() < 0.5


def test_layers_are_solved_over_what_the_layers_before_give(model, plan, samples, refitted):
    """What the INT8 network gives `ip`, and FP32 beside it, by a loop over the samples; the layer alone is solved."""
    windows = PairedWindows(model.op_of["ip"], plan.thresholds["bare"], 4096)
    for sample in samples[:SAMPLES]:
        codes = run_int8(model, setup_of(refitted), sample, [Codes("bare")])[Codes("bare")]
        own = (codes.astype(np.int16) - 128).astype(np.int8)
        windows.add(windows.seen(own, run_float(model, sample, ["bare"])["bare"]))
    solved = problem_of(model, plan, model.net.layer_by_name["ip"]).solved(windows)["ip"]
    for mine, theirs in zip(solved.blobs, refitted.forms["ip"].blobs, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_number_of_threads_changes_nothing(model, plan, refitted, samples):
    for threads in (1, 3):
        found = refit_weights(model, plan, lambda: iter(samples[:SAMPLES]), SAMPLES, threads)
        for name, form in found.forms.items():
            for a, b in zip(form.blobs if form else (), refitted.forms[name].blobs if form else (), strict=True):
                np.testing.assert_array_equal(a, b)


def test_progress_ends_with_all_values(model, plan, samples):
    told = []
    refit_weights(model, plan, lambda: iter(samples[:4]), 4, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)
    assert EngineOptions().thread_count >= 1


BRANCHES = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 4, 6, 6] } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "t" type: "TanH" bottom: "b" top: "t" }
layer { name: "c" type: "Convolution" bottom: "t" top: "c" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "d" type: "Convolution" bottom: "x" top: "d" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "c" bottom: "d" top: "sum" }
layer { name: "e" type: "Convolution" bottom: "sum" top: "e" convolution_param { num_output: 5 kernel_size: 2 } }
layer { name: "cat" type: "Concat" bottom: "sum" bottom: "t" top: "cat" }
layer { name: "ip" type: "InnerProduct" bottom: "cat" top: "ip" inner_product_param { num_output: 5 } }
"""


@pytest.mark.parametrize(
    ("kept", "begun", "parts"),
    [(1 << 20, 1, [1, 1, 1, 1, 1]), (0, 5, [16, 16, 16, 16, 16]), (FEW * 1200, 2, [1, 2, 4, 4, 2])],
)
def test_values_are_reached_from_where_samples_are(random_model, monkeypatch, kept, begun, parts):
    """With room for all that is alive between layers, for nothing, and for the input alone; others join again later."""
    model = random_model(BRANCHES, 2)
    rng = np.random.default_rng(3)
    samples = [{"x": rng.normal(0, 1, (1, 4, 6, 6)).astype(np.float32)} for _ in range(FEW)]
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    plan = make_plan(model, {v: max(float(np.abs(x[v]).max()) for x in found) for v in values})
    reads, reaches, own = [], {}, PairedRuns._reach

    def batches():
        reads.append(1)
        return iter(samples)

    def reach(self, plan, value, until):
        reaches[value] = own(self, plan, value, until)
        return reaches[value]

    monkeypatch.setattr("calib8.repair.paired_runs._KEPT_BYTES", kept)
    monkeypatch.setattr(PairedRuns, "_reach", reach)
    solved = refit_weights(model, plan, batches, FEW)
    assert len(reads) == begun
    assert [FEW // len(one.places) for one in reaches.values()] == parts
    for name, bottom in {"c": "t", "d": "x", "e": "sum", "ip": "cat"}.items():
        windows = PairedWindows(model.op_of[name], plan.thresholds[bottom], -(-4096 // FEW))
        for sample in (samples[place] for place in reaches[bottom].places):
            codes = run_int8(model, setup_of(solved), sample, [Codes(bottom)])[Codes(bottom)]
            mine = (codes.astype(np.int16) - 128).astype(np.int8)
            windows.add(windows.seen(mine, run_float(model, sample, [bottom])[bottom]))
        problem = problem_of(model, plan, model.net.layer_by_name[name])
        expected = problem.solved(windows)[name]
        # Last bits of FP32 depend on where graphs end (an addition is done within the convolution before it).
        off = np.abs(expected.weights.astype(int) - solved.forms[name].weights)
        assert off.max() <= 1 and np.count_nonzero(off) <= 0.03 * off.size


def test_of_many_samples_of_a_network_that_takes_its_time_some_are_looked_at(model, plan, samples, monkeypatch):
    monkeypatch.setattr("calib8.repair.paired_runs._PRODUCTS", 0)
    monkeypatch.setattr("calib8.repair.paired_runs._FEWEST", 6)
    paired = PairedRuns(model, lambda: iter(samples[:SAMPLES]), SAMPLES, 1)
    with paired.crew:
        windows = paired.windows(plan, "bare", [model.net.layer_by_name["ip"]])["ip"]
    assert windows.count == 6
