"""Repair as a whole: what is chosen, on which samples, and what is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib8.choices import MOVING_PASSES
from calib8.engine import run_float
from calib8.errors import OptionError, QuantizationError
from calib8.quantize import make_plan, observed_values
from calib8.quantize.channel_units import is_before_batch_norm
from calib8.repair import PASSES, RepairOptions, ThresholdSets, repair, work
from calib8.repair.equalised_channels import EQUALISED, EqualisedChannels
from calib8.repair.guard import split
from calib8.repair.output_noise import search_thresholds
from calib8.repair.work import Work

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
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "ip" inner_product_param { num_output: 4 } }
"""
IMAGES = 30
PARTS = {"half": 0.5, "all": 1.0, "tiny": 0.02, "impossible": None}


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(0.2, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(IMAGES)]


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(NETWORK, 6)


@pytest.fixture(scope="module")
def plan_of(model, samples):
    values = observed_values(model)
    found = [run_float(model, sample, values) for sample in samples]
    largest = {v: max(float(np.abs(x[v]).max()) for x in found) for v in values}

    def make(name):
        if PARTS[name] is None:
            raise QuantizationError("cannot be")
        return make_plan(model, {v: t * PARTS[name] * (0.9 if v == "p" else 1) for v, t in largest.items()})

    return make


@pytest.fixture(scope="module")
def sets_of(plan_of):
    return lambda names: ThresholdSets(names, plan_of, lambda name, seen: seen.maximum * (PARTS[name] or 1))


@pytest.fixture(scope="module")
def found(model, sets_of, samples):
    return repair(model, sets_of(["half", "all", "tiny", "impossible"]), split(lambda: iter(samples), IMAGES))


def test_every_pass_is_a_stage_and_the_best_one_is_chosen(found):
    assert [s.name for s in found.plain] == ["half", "all", "tiny"]
    assert [s.name for s in found.stages] == [
        "equalised-channels, by range", "channel-units", "compensated-rounding", "bias-correction",
        "refitted-weights",
    ]  # fmt: skip
    assert found.best.noise == min(s.noise for s in (*found.plain, *found.stages))
    assert found.best.noise < 0.8 * min(s.noise for s in found.plain)
    assert found.guarding == 6


def test_thresholds_are_those_that_lose_least_with_float_weights(found, plan_of):
    assert found.floor["all"] == min(found.floor.values())
    start = found.stages[0].plan
    assert start.thresholds["x"] == plan_of("all").thresholds["x"]


def test_small_networks_measure_thresholds_on_more_samples_than_the_guards(model, sets_of, samples, monkeypatch):
    """And then a set that was best on these few alone is not the result."""
    own, guards = Work.stage, []

    def stage(self, name, plan):
        own(self, name, plan)
        guards.append(self._wide.runs)
        if name == "tiny":
            self.stages[-1] = replace(self.stages[-1], noise=0.0)

    monkeypatch.setattr(Work, "stage", stage)
    parts = split(lambda: iter(samples), IMAGES)
    found = repair(model, sets_of(["half", "all", "tiny"]), parts)
    assert found.best.name != "tiny" and set(guards) == {IMAGES}
    monkeypatch.setattr("calib8.repair.work._FLOOR_PRODUCTS", 0)
    few = repair(model, sets_of(["half", "all", "tiny"]), parts)
    assert few.best.name == "tiny" and guards[-1] == parts.guarding


def test_more_samples_are_spread_over_those_to_solve_on(samples):
    parts = split(lambda: iter(samples), IMAGES)
    guard, solve, wider = ([float(x["x"].flat[0]) for x in one()] for one in (parts.guard, parts.solve, parts.wider(3)))
    assert set(guard) <= set(wider) and len(wider) == len(guard) + 3
    assert [solve.index(one) for one in wider if one in solve] == [4, 12, 20]


def test_it_is_said_what_was_chosen(found):
    text = "\n".join(found.lines())
    assert f"chosen: {found.best.name}" in text and "6 samples" in text
    gain = found.best.decibels - found.plain[0].decibels
    assert f"{gain:+.1f} dB against half" in text and gain > 0


def test_a_repair_that_does_harm_is_not_taken(model, sets_of, plan_of, samples, monkeypatch):
    """The contract's own plan is among the candidates."""

    def worse(self, model, plan, observed):
        return plan_of("tiny")

    monkeypatch.setattr("calib8.repair.channel_units.ChannelUnits.apply", worse)
    monkeypatch.setattr("calib8.repair.whole_multipliers.WholeMultipliers.apply", worse)
    found = repair(model, sets_of(["all"]), split(lambda: iter(samples), IMAGES))
    assert found.best is found.plain[0]


@pytest.mark.parametrize("name", PASSES)
def test_each_pass_can_be_left_out(model, sets_of, samples, name):
    left_out = [name, EQUALISED] if name == "exact-pools" else [name]  # which gives p and s the same threshold here
    options = RepairOptions(without=frozenset(left_out))
    found = repair(model, sets_of(["half", "all"]), split(lambda: iter(samples), IMAGES), options)
    plan = found.stages[-1 if name == "refitted-weights" else -2].plan
    assert name not in [s.name for s in found.stages] and name not in plan.given.values()
    assert (len(found.plain) == 1) == (name == "thresholds")
    if name == "exact-pools":
        assert plan.thresholds["p"] != plan.thresholds["s"]
    if name != "thresholds":  # the first set of thresholds alone is worse with units than without
        assert ("c" in plan.channel_units) == (EQUALISED not in left_out)
    if name == "channel-units":
        assert not any(is_before_batch_norm(model, value) for value in plan.channel_units)
    if name == "compensated-rounding":
        assert plan.given["ip"] == "bias-correction"


def test_samples_to_choose_on_are_not_solved_on(model, sets_of, samples):
    """Other samples to choose on change no integer of a stage, but where the choice is what goes on."""
    options = RepairOptions(without=frozenset([EQUALISED]))
    rng = np.random.default_rng(77)
    other = [
        s if i % 5 != 4 else {"x": rng.normal(0, 3, (1, 3, 8, 8)).astype(np.float32)} for i, s in enumerate(samples)
    ]
    one, two = (repair(model, sets_of(["all"]), split(lambda s=s: iter(s), IMAGES), options) for s in (samples, other))
    for mine, theirs in zip(one.stages, two.stages, strict=True):
        assert mine.noise != theirs.noise and mine.plan.thresholds == theirs.plan.thresholds
        for name, form in mine.plan.forms.items():
            for a, b in zip(form.blobs if form else (), theirs.plan.forms[name].blobs if form else (), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def thorough(model, sets_of, samples):
    options = RepairOptions("thorough", threads=2)
    return repair(model, sets_of(["half", "all", "tiny", "impossible"]), split(lambda: iter(samples), IMAGES), options)


def test_thorough_goes_on_from_standard(found, thorough):
    """All plans of the standard repair are among those that the guard chooses from."""
    count = len(found.stages)
    assert [(s.name, s.noise) for s in thorough.stages[:count]] == [(s.name, s.noise) for s in found.stages]
    passes = ["channel-units", "compensated-rounding", "bias-correction", "refitted-weights"]
    assert [s.name for s in thorough.stages[count:]] == [
        name
        for start in ("least noise", "as it is", "output-noise")
        for name in (start, *(f"{start}, {one}" for one in passes))
    ]
    assert thorough.best.noise == min(s.noise for s in (*thorough.plain, *thorough.stages)) <= found.best.noise
    assert thorough.stages[-1].plan.given["ip"] == "refitted-weights"


def test_thresholds_are_searched_from_where_the_passes_began(model, sets_of, samples):
    options = RepairOptions("thorough", frozenset([EQUALISED, "refitted-weights"]))
    made = repair(model, sets_of(["all"]), split(lambda: iter(samples), IMAGES), options)
    start, searched = (next(s.plan for s in made.stages if s.name == n) for n in ("whole-multipliers", "output-noise"))
    assert searched.thresholds != start.thresholds


@pytest.mark.parametrize("name", ["output-noise", "refitted-weights"])
def test_each_thorough_pass_can_be_left_out(model, sets_of, samples, name):
    options = RepairOptions("thorough", frozenset([name]))
    made = repair(model, sets_of(["half", "all"]), split(lambda: iter(samples), IMAGES), options)
    assert not any(s.name.startswith(name) for s in made.stages) and len(made.stages) > 4


def test_progress_of_a_thorough_repair_counts_all_runs(model, sets_of, samples):
    done = []
    options = RepairOptions("thorough")
    repair(model, sets_of(["half"]), split(lambda: iter(samples), IMAGES), options, lambda *told: done.append(told))
    runs = [told[1:] for told in done if told[0] == "repairing"]
    assert runs == sorted(runs) and runs[-1][0] == runs[-1][1]
    for stage in ("searching thresholds", "refitting weights"):
        _, last, total = [told for told in done if told[0] == stage][-1]
        assert last == total > 2


@pytest.mark.parametrize("level", ["standard", "thorough"])
def test_the_number_of_threads_changes_nothing(model, sets_of, samples, level):
    runs = [
        repair(model, sets_of(["half", "all"]), split(lambda: iter(samples), IMAGES), RepairOptions(level, threads=n))
        for n in (1, 3)
    ]
    assert runs[0].lines() == runs[1].lines()
    for name, form in runs[0].best.plan.forms.items():
        for a, b in zip(form.blobs if form else (), runs[1].best.plan.forms[name].blobs if form else (), strict=True):
            np.testing.assert_array_equal(a, b)


def test_progress_counts_all_runs(model, sets_of, samples):
    done = []
    repair(
        model,
        sets_of(["half", "all"]),
        split(lambda: iter(samples), IMAGES),
        options=RepairOptions(),
        progress=lambda *told: done.append(told),
    )
    total = 5 * 24 + 15 * 6 + 11 * 24 - 2 * 30
    runs, refitted = ([told for told in done if told[0] == stage] for stage in ("repairing", "refitting weights"))
    assert runs == sorted(runs) and done[-1] == ("repairing", total, total)
    assert refitted == sorted(refitted) and refitted[-1][1] == refitted[-1][2]


def test_passes_begin_without_units_too_where_those_are_far_worse(model, sets_of, samples, found, monkeypatch):
    """Biases that are clamped do not show with float weights."""
    assert not any("as it is" in stage.name for stage in found.stages)
    monkeypatch.setattr("calib8.repair.work._BROKEN", 0.0)
    both = repair(model, sets_of(["half", "all", "tiny", "impossible"]), split(lambda: iter(samples), IMAGES))
    passes = ["channel-units", "compensated-rounding", "bias-correction", "refitted-weights"]
    count = len(found.stages)
    assert [(s.name, s.noise) for s in both.stages[:count]] == [(s.name, s.noise) for s in found.stages]
    assert [s.name for s in both.stages[count:]] == ["as it is", *(f"as it is, {one}" for one in passes)]
    assert both.best.noise <= found.best.noise

    done = []
    batches = split(lambda: iter(samples), IMAGES)
    repair(model, sets_of(["half", "all"]), batches, progress=lambda *told: done.append(told))
    assert done[-1][1] == done[-1][2]


@pytest.mark.parametrize("level", ["standard", "thorough"])
def test_thresholds_that_are_kept_stay(model, sets_of, plan_of, samples, level):
    """What moves none of them is done, and counted; sets of thresholds beside the first one are not looked at."""
    done, options = [], RepairOptions(level, keep_thresholds=True)
    batches = split(lambda: iter(samples), IMAGES)
    found = repair(model, sets_of(["all", "half"]), batches, options, lambda *told: done.append(told))
    assert [s.name for s in found.plain] == ["all"]
    assert [s.name for s in found.stages] == ["compensated-rounding", "bias-correction", "refitted-weights"]
    assert found.best.noise < found.plain[0].noise
    for stage in found.stages:
        assert stage.plan.thresholds == plan_of("all").thresholds and not stage.plan.channel_units
    runs = [told[1:] for told in done if told[0] == "repairing"]
    assert runs[-1][0] == runs[-1][1]


@pytest.mark.parametrize("names", [["all"], ["half", "all"]])
def test_a_start_without_units_has_room(model, sets_of, samples, names):
    """Few samples of small maps; whoever leaves the room out has the thresholds that were found."""
    found = {}
    for without in (frozenset(), frozenset({"tail-room"})):
        told = []
        repaired = repair(
            model, sets_of(names), split(lambda: iter(samples[:8]), 8), RepairOptions("thorough", without),
            lambda *one, told=told: told.append(one),
        )  # fmt: skip
        found[without] = next(stage for stage in repaired.stages if stage.name.endswith("as it is")).plan.thresholds
        runs = [one[1:] for one in told if one[0] == "repairing"]
        assert runs == sorted(runs) and runs[-1][0] == runs[-1][1]
    with_room, as_found = found.values()
    grown = [v for v in as_found if with_room[v] > as_found[v] * 1.01]
    assert grown and all(with_room[v] >= as_found[v] * 0.98 for v in as_found)


def test_the_search_goes_not_below_thresholds_with_room(model, sets_of, samples, monkeypatch):
    lowest = {}

    def spied(model, plan, *rest, **options):
        lowest.update({v: min(plan.thresholds[v], least) for v, least in options["least"].items()})
        found = search_thresholds(model, plan, *rest, **options)
        lowered = {v for v, t in found.changes.items() if t < plan.thresholds[v]}
        free = search_thresholds(model, plan, *rest, **{**options, "least": {}})
        assert all(found.changes.get(v, t) >= t for v, t in lowest.items())
        assert lowered != {v for v, t in free.changes.items() if t < plan.thresholds[v]}  # it would have gone there
        return found

    monkeypatch.setattr(work, "search_thresholds", spied)
    repair(model, sets_of(["all"]), split(lambda: iter(samples[:8]), 8), RepairOptions("thorough"))
    assert lowest


@pytest.mark.parametrize("level", ["standard", "thorough"])
@pytest.mark.parametrize("names", [["half"], ["half", "all"]])
def test_progress_comes_to_its_end_where_no_channel_can_have_a_unit(model, sets_of, samples, monkeypatch, level, names):
    monkeypatch.setattr(EqualisedChannels, "counters", {}, raising=False)
    monkeypatch.setattr(EqualisedChannels, "__init__", lambda self, model, plan, has_room: None)
    done = []
    parts, options = split(lambda: iter(samples), IMAGES), RepairOptions(level)
    repair(model, sets_of(names), parts, options, lambda *told: done.append(told))
    runs = [told[1:] for told in done if told[0] == "repairing"]
    assert runs[-1][0] == runs[-1][1]


def test_parts_that_kept_thresholds_leave_out_are_named(model, sets_of, samples):
    options = RepairOptions(without=frozenset(["exact-pools"]), keep_thresholds=True)
    found = repair(model, sets_of(["half"]), split(lambda: iter(samples), IMAGES), options)
    assert found.left_out == ("thresholds", "tail-room", "whole-sums", "equalised-channels", "channel-units")
    assert f"left out, as they move them: {', '.join(found.left_out)}" in "\n".join(found.lines())
    assert RepairOptions("thorough", keep_thresholds=True).left_out == MOVING_PASSES
    assert not RepairOptions("thorough").left_out


def test_options_that_are_not_possible():
    with pytest.raises(OptionError, match="`repair` is 'all'; choose one of none, standard, thorough"):
        RepairOptions(level="all")
    with pytest.raises(OptionError, match="`without` names 'rounding'; choose from thresholds, "):
        RepairOptions(without=frozenset(["rounding"]))


def test_of_large_networks_only_the_best_plan_keeps_its_integers(model, sets_of, samples, monkeypatch):
    """They measure thresholds on the guard's samples alone, whatever they cost."""
    monkeypatch.setattr("calib8.repair.work._FLOOR_PRODUCTS", 0)
    found = repair(model, sets_of(["half", "all", "tiny"]), split(lambda: iter(samples), IMAGES))
    monkeypatch.setattr("calib8.repair.work._FLOOR_PRODUCTS", 1e9)
    monkeypatch.setattr("calib8.repair.work._LARGE", 100)
    lighter = repair(model, sets_of(["half", "all", "tiny"]), split(lambda: iter(samples), IMAGES))
    assert lighter.lines() == found.lines()
    for stage in (*lighter.plain, *lighter.stages):
        assert bool(stage.plan.forms) == (stage.name == lighter.best.name)
        assert stage.plan.thresholds


def test_weights_that_are_too_many_are_refitted_where_it_is_thorough(model, sets_of, samples, monkeypatch):
    monkeypatch.setattr("calib8.repair.work._REFITTED_AT_ONCE", 100)
    for level in ("standard", "thorough"):
        parts, done = split(lambda: iter(samples), IMAGES), []
        found = repair(model, sets_of(["half"]), parts, RepairOptions(level), lambda *told, d=done: d.append(told))
        assert any("refitted-weights" in stage.name for stage in found.stages) == (level == "thorough")
        runs = [told[1:] for told in done if told[0] == "repairing"]
        assert runs[-1][0] == runs[-1][1]
