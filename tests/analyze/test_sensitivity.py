"""Sensitivity against whole networks that are run one by one, and its order."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.analyze.judges import QualityDrop, SquaredDifference, top1
from calib8.analyze.metrics import compare, compare_outputs
from calib8.analyze.sensitivity import measure_sensitivity
from calib8.analyze.units import units_of
from calib8.engine import EngineOptions, run_int8
from calib8.lowering.readings import Codes
from calib8.quantize import setup_of
from calib8.repair import run_pass
from calib8.repair.channel_units import ChannelUnits

SAMPLES = 4


@pytest.fixture(scope="module")
def experiment(digits):
    return Experiment(digits.model, digits.samples[:SAMPLES], ["prob"], ExperimentOptions(threads=2))


def runs(digits, setup, names):
    for sample in digits.samples[:SAMPLES]:
        yield run_int8(digits.model, setup, sample, names, EngineOptions(1, repack_weights=True))


def test_every_unit_in_every_mode(digits, experiment):
    found = measure_sensitivity(experiment, digits.plan, SquaredDifference(["prob"]), ["prob"])
    units = units_of(digits.model, digits.plan, experiment.needed)
    assert [u.unit for u in found.units] == list(units) and found.samples == SAMPLES
    everything = setup_of(digits.plan).int8_layers
    seen: set[str] = set()
    for unit, row in zip(units, found.units, strict=True):
        seen |= set(unit.layers)
        layers = {"alone": set(unit.layers), "cumulative": seen, "without": everything - set(unit.layers)}
        fp32 = list(runs(digits, setup_of(digits.plan, ()), ["prob", unit.top]))
        for mode, chosen in layers.items():
            int8 = list(runs(digits, setup_of(digits.plan, chosen), ["prob", unit.top]))
            outputs = [compare_outputs(a, b, ["prob"]) for a, b in zip(fp32, int8, strict=True)]
            own = [compare(a[unit.top], b[unit.top]) for a, b in zip(fp32, int8, strict=True)]
            assert row.damage[mode].outputs == sum(outputs[1:], outputs[0]), (unit.name, mode)
            assert row.damage[mode].own == sum(own[1:], own[0]), (unit.name, mode)
            losses = [np.mean((a["prob"].astype(float) - b["prob"]) ** 2) for a, b in zip(fp32, int8, strict=True)]
            assert row.damage[mode].loss == pytest.approx(np.mean(losses), rel=1e-6, abs=1e-18)
        codes = np.concatenate(
            [f[Codes(unit.top)].ravel() for f in runs(digits, setup_of(digits.plan), [Codes(unit.top)])]
        )
        assert row.usage.in_use == len(np.unique(codes)) / 256
        assert row.usage.saturation == np.mean((codes == 0) | (codes == 255))


def test_a_convolution_in_units_is_seen_behind_its_relu(digits, experiment):
    """Its codes have no room for what the ReLU takes away, which would look like an error at its own top."""
    plan = run_pass(ChannelUnits(len(digits.samples)), digits.model, digits.plan, lambda: iter(digits.samples))
    unit = units_of(digits.model, plan, experiment.needed)[0]
    assert unit.top in plan.channel_units and unit.layers == ("conv1",)
    assert unit.seen == digits.model.net.layer_by_name["relu1"].tops[0]
    assert units_of(digits.model, digits.plan, experiment.needed)[0].seen == unit.top
    found = measure_sensitivity(experiment, plan, SquaredDifference(["prob"]), ["prob"]).units[0]
    everything = setup_of(plan).int8_layers
    layers = {"alone": {"conv1"}, "cumulative": {"conv1"}, "without": everything - {"conv1"}}
    fp32 = list(runs(digits, setup_of(plan, ()), [unit.seen]))
    for mode, chosen in layers.items():
        int8 = list(runs(digits, setup_of(plan, chosen), [unit.seen]))
        own = [compare(a[unit.seen], b[unit.seen]) for a, b in zip(fp32, int8, strict=True)]
        assert found.damage[mode].own == sum(own[1:], own[0]), mode
        assert found.damage[mode].own.snr_db > 25


def test_batch_norm_and_scale_are_one_unit(digits, experiment):
    names = [unit.layers for unit in units_of(digits.model, digits.plan, experiment.needed)]
    assert ("bn1", "scale1") in names and not any(n in (("bn1",), ("scale1",)) for n in names)


def test_ranked_by_the_judge(digits, experiment):
    judge = QualityDrop("top1", top1, ["prob"], digits.labels[:SAMPLES])
    found = measure_sensitivity(experiment, digits.plan, judge, ["prob"])
    losses = [u.damage["alone"].loss for u in found.ranked()]
    assert losses == sorted(losses, reverse=True) and found.judge == "top1"
    order = [u.unit.start for u in found.ranked() if u.damage["alone"].loss == losses[-1]]
    assert order == sorted(order)


def test_the_whole_network_is_the_last_cumulative_one(digits, experiment):
    steps = []
    found = measure_sensitivity(
        experiment, digits.plan, SquaredDifference(["prob"]), ["prob"], lambda *at: steps.append(at)
    )
    assert found.whole == found.units[-1].damage["cumulative"].outputs
    assert found.whole_loss == found.units[-1].damage["cumulative"].loss > 0
    assert [done for done, _, _ in steps] == list(range(len(found.units) + 1))


def test_the_same_figures_on_any_number_of_threads(digits, experiment):
    found = measure_sensitivity(experiment, digits.plan, SquaredDifference(["prob"]), ["prob"])
    other = Experiment(digits.model, digits.samples[:SAMPLES], ["prob"], ExperimentOptions(threads=1, budget=0))
    again = measure_sensitivity(other, digits.plan, SquaredDifference(["prob"]), ["prob"])
    assert [u.damage for u in found.units] == [u.damage for u in again.units]


def test_the_same_figures_in_stretches_of_any_length(digits, experiment, monkeypatch):
    judge = SquaredDifference(["prob"])
    found = measure_sensitivity(experiment, digits.plan, judge, ["prob"])
    monkeypatch.setattr("calib8.analyze.sensitivity._UNITS_OF_A_STRETCH", 2)
    again = measure_sensitivity(experiment, digits.plan, judge, ["prob"])
    assert [u.damage for u in found.units] == [u.damage for u in again.units]
