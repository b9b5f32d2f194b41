"""Mixed precision: the drop is met, every kept layer is needed, and the string is one that int8_init takes."""

from __future__ import annotations

from itertools import combinations

import pytest

from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.analyze.judges import SquaredDifference
from calib8.analyze.mixed import propose_mixed_precision
from calib8.analyze.units import units_of
from calib8.quantize import fold_groups, integer_setup, parse_layer_list, replan, setup_of, without_idle_layers

SAMPLES = 12


@pytest.fixture(scope="module")
def experiment(digits):
    return Experiment(digits.model, digits.samples[:SAMPLES], ["prob"], ExperimentOptions(threads=2))


def drop_of(experiment, plan, judge, in_fp32):
    """With these layers in FP32, and those that only hand their values on."""
    layers = without_idle_layers(experiment.model, setup_of(plan).int8_layers - set(in_fp32))
    variant = experiment.variant(setup_of(plan, layers))
    samples = range(SAMPLES)

    def part(lane, sample):
        return judge.part(experiment.references[sample], lane.run(sample, variant, ["prob"]))

    return judge.loss(samples, experiment.each(part, samples))


def propose(digits, experiment, judge, allowed, plan=None):
    return propose_mixed_precision(experiment, plan or digits.plan, judge, allowed, ["prob"])


def damaged_in_two_places(digits):
    """Its thresholds, but for two that clip most of their values."""
    groups = [g for g in fold_groups(digits.model) if g.name in ("conv2b", "ip")]
    changes = {v: digits.plan.thresholds[v] / 8 for g in groups for v in g.members}
    assert len(groups) == 2
    return replan(digits.model, digits.plan, changes)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.0])
def test_the_drop_is_met_and_nothing_is_kept_for_nothing(digits, experiment, share):
    judge = SquaredDifference(["prob"])
    before = drop_of(experiment, digits.plan, judge, ())
    found = propose(digits, experiment, judge, share * before)
    assert found.drop_before == before and found.drop_after <= share * before
    kept = [kept.unit for kept in found.kept]
    assert drop_of(experiment, digits.plan, judge, {n for u in kept for n in u.layers}) == found.drop_after
    for one in found.kept:
        less = {name for unit in kept if unit is not one.unit for name in unit.layers}
        without = drop_of(experiment, digits.plan, judge, less)
        assert without > share * before
        assert one.buys == without - found.drop_after > 0


def test_no_single_layer_would_do_where_two_are_kept(digits, experiment):
    judge = SquaredDifference(["prob"])
    plan = damaged_in_two_places(digits)
    before = drop_of(experiment, plan, judge, ())
    allowed = 0.05 * before
    found = propose(digits, experiment, judge, allowed, plan)
    assert 2 <= len(found.kept) <= 3
    units = units_of(digits.model, plan, experiment.needed)
    smaller = [
        drop_of(experiment, plan, judge, {n for u in few for n in u.layers})
        for few in combinations(units, len(found.kept) - 1)
    ]
    assert min(smaller) > allowed


def test_a_drop_that_is_allowed_keeps_everything_in_int8(digits, experiment):
    found = propose(digits, experiment, SquaredDifference(["prob"]), 1e9)
    assert found.kept == () and found.int8_layer == "" and found.fp32_layers == ()
    assert set(found.int8_layers) == setup_of(digits.plan).int8_layers


def test_the_string_for_int8_init(digits, experiment):
    judge = SquaredDifference(["prob"])
    found = propose(digits, experiment, judge, 0.1 * drop_of(experiment, digits.plan, judge, ()))
    assert found.kept and set(parse_layer_list(found.int8_layer)) == set(found.int8_layers)
    setup = integer_setup(digits.model, digits.plan, found.int8_layer)
    assert setup.int8_layers == set(found.int8_layers)
    planned = {name for name, own in digits.plan.forms.items() if own is not None}
    assert planned - setup.int8_layers == set(found.fp32_layers)
    order = [layer.name for layer in digits.model.net.layers]
    assert sorted(found.fp32_layers, key=order.index) == list(found.fp32_layers)


def test_the_same_on_any_number_of_threads(digits, experiment):
    judge = SquaredDifference(["prob"])
    other = Experiment(digits.model, digits.samples[:SAMPLES], ["prob"], ExperimentOptions(threads=1, budget=0))
    assert propose(digits, experiment, judge, 1e-4) == propose(digits, other, judge, 1e-4)
