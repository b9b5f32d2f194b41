"""Trials against whole networks: quantised anew, written to files, read back, run from the first layer on."""

from __future__ import annotations

import math

import pytest

from calib8.analyze.candidates import candidates_of, method_thresholds, original_targets
from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.analyze.judges import QualityDrop, SquaredDifference, top1
from calib8.analyze.search import Accept, Alone, Damage, Together, Trial
from calib8.analyze.trials import Trials
from calib8.engine import EngineOptions, run_int8
from calib8.export import read_plan, write_calibration_files
from calib8.measure.thresholds import find_threshold
from calib8.quantize import make_plan, replan, setup_of

TUNED, HELD_OUT = (0, 2, 3), (1, 4)


@pytest.fixture(scope="module")
def experiment(digits):
    return Experiment(digits.model, digits.samples[:5], ["ip", "prob"], ExperimentOptions(threads=2))


def make_trials(digits, experiment, at_layer=True):
    return Trials(experiment, digits.plan, SquaredDifference(["prob"]), TUNED, HELD_OUT, at_layer)


class Naive:
    """Nothing shared: files, whole graphs, loops over elements left to the judge alone."""

    def __init__(self, digits, folder):
        self.digits, self.folder, self.thresholds = digits, folder, dict(digits.plan.thresholds)

    def loss(self, changes, chosen, values, layers=None):
        model = self.digits.model
        written = make_plan(model, {**self.thresholds, **changes})
        weights, table, *_ = write_calibration_files(self.folder, "naive", model, written)
        plan = read_plan(model, f"{table}.pb2", weights)
        judge, parts = SquaredDifference(values), []
        reference = self.run(setup_of(plan, ()), values, chosen)
        for x, y in zip(reference, self.run(setup_of(plan, layers), values, chosen), strict=True):
            parts.append(judge.part(x, y))
        return judge.loss(chosen, parts)

    def run(self, setup, values, chosen):
        options = EngineOptions(1, repack_weights=True)
        for sample in chosen:
            yield run_int8(self.digits.model, setup, self.digits.samples[sample], values, options)


def up_to(model, target):
    """Names of the layers as far as the target; a BatchNorm only with its Scale."""
    names = [layer.name for layer in model.net.layers]
    names = names[: names.index(target) + 1]
    return [n for n in names if n not in (pairs := model.batch_norm_pairs) or pairs[n].name in names]


@pytest.mark.parametrize("at_layer", [True, False])
def test_every_group_up_and_down(digits, experiment, tmp_path, at_layer):
    trials, naive = make_trials(digits, experiment, at_layer), Naive(digits, tmp_path)
    for target, group in original_targets(trials):
        factors = (1.03, 0.5, 2.0)
        values = digits.model.net.layer_by_name[target].tops if at_layer else ("prob",)
        asked = [Trial(group, trials.thresholds[group] * f, target=target) for f in factors]
        found = trials.losses([Trial(group, None, target=target), *asked])
        members = trials.touched[group].group.members
        expected = [
            naive.loss(dict.fromkeys(members, t) if t else {}, TUNED, values, up_to(digits.model, target))
            for t in (None, *(one.threshold for one in asked))
        ]
        assert found == expected, target


def test_all_layers_in_int8_and_held_out(digits, experiment, tmp_path):
    trials, naive = make_trials(digits, experiment), Naive(digits, tmp_path)
    for group, touched in trials.touched.items():
        threshold = trials.thresholds[group] * 1.2
        changes = dict.fromkeys(touched.group.members, threshold)
        assert trials.losses([Trial(group, threshold)]) == [naive.loss(changes, TUNED, ("prob",))]
        assert trials.losses([Trial(group, threshold, held_out=True)]) == [naive.loss(changes, HELD_OUT, ("prob",))]


def test_accepted_thresholds_stay(digits, experiment, tmp_path):
    trials, naive = make_trials(digits, experiment), Naive(digits, tmp_path)
    for group, factor in zip(list(trials.touched)[1::3], (1.4, 0.8, 1.2, 1.1), strict=False):
        threshold = trials.thresholds[group] * factor
        trials.accept(Accept({group: threshold}, 1.0, 0.5))
        naive.thresholds.update(dict.fromkeys(trials.touched[group].group.members, threshold))
        assert trials.losses([Trial(group, None)]) == [naive.loss({}, TUNED, ("prob",))]


def test_damage_is_the_loss_without_the_layers_that_write_the_group(digits, experiment, tmp_path):
    trials, naive = make_trials(digits, experiment), Naive(digits, tmp_path)
    everything = setup_of(digits.plan).int8_layers
    for group, touched in trials.touched.items():
        writers = {digits.model.net.producer[v].name for v in touched.group.members}
        pairs = [(name, scale.name) for name, scale in digits.model.batch_norm_pairs.items()]
        writers |= {name for pair in pairs if writers & set(pair) for name in pair}
        assert touched.writers == writers & everything
        assert trials.losses([Damage(group)]) == [naive.loss({}, TUNED, ("prob",), everything - writers)]


@pytest.mark.parametrize("judge", [SquaredDifference(["prob"]), QualityDrop("top1", top1, ["prob"])])
def test_a_group_alone(digits, experiment, tmp_path, judge):
    """With other thresholds changed, too; a quality is replaced by the difference of what it looks at."""
    trials = Trials(experiment, digits.plan, judge, TUNED, HELD_OUT)
    naive, layers = Naive(digits, tmp_path), digits.model.net.layers
    everything = setup_of(digits.plan).int8_layers
    others = {group: t * 1.1 for group, t in trials.thresholds.items()}
    for group, touched in trials.touched.items():
        members = set(touched.group.members)
        near = {x.name for x in layers if members & {*x.bottoms, *x.tops}}
        pairs = [(name, scale.name) for name, scale in digits.model.batch_norm_pairs.items()]
        near |= {name for pair in pairs if near & set(pair) for name in pair}
        changes = {v: t for g, t in others.items() for v in trials.touched[g].group.members}
        threshold = trials.thresholds[group] * 0.9
        found = trials.losses([Alone(group, threshold, others)])
        changes.update(dict.fromkeys(members, threshold))
        assert found == [naive.loss(changes, TUNED, ("prob",), near & everything)], group


def test_all_groups_together(digits, experiment, tmp_path):
    trials, naive = make_trials(digits, experiment), Naive(digits, tmp_path)
    methods = method_thresholds(trials, digits.histograms)
    asked = [Together(name, thresholds) for name, thresholds in methods.items()]
    for one, loss in zip(asked, trials.losses(asked), strict=True):
        changes = {v: t for g, t in one.thresholds.items() for v in trials.touched[g].group.members}
        assert loss == naive.loss(changes, TUNED, ("prob",)), one.method


class Counted(SquaredDifference):
    """Counts the parts, so the runs of samples."""

    def __init__(self, values):
        super().__init__(values)
        self.runs = 0

    def part(self, reference, result):
        self.runs += 1
        return super().part(reference, result)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_loss_that_has_reached_its_bound_needs_no_more_samples(digits, threads):
    experiment = Experiment(digits.model, digits.samples[:5], ["prob"], ExperimentOptions(threads=threads))
    judge = Counted(["prob"])
    trials = Trials(experiment, digits.plan, judge, range(5))
    group = "ip"
    thresholds = [trials.thresholds[group] * factor for factor in (0.1, 0.95, 1.05, 8.0)]
    exact = trials.losses([Trial(group, threshold) for threshold in thresholds])
    assert judge.runs == 20
    bound = sorted(exact)[1]
    found = trials.losses([Trial(group, threshold, bound=bound) for threshold in thresholds])
    assert [a == b for a, b in zip(found, exact, strict=True)].count(False) >= 2
    for said, loss in zip(found, exact, strict=True):
        assert said == loss if loss < bound else bound <= said <= loss
    if threads == 1:
        assert 20 < judge.runs < 20 + 15
    one = Experiment(digits.model, digits.samples[:5], ["prob"], ExperimentOptions(threads=1))
    alone = Trials(one, digits.plan, SquaredDifference(["prob"]), range(5))
    alone.losses([Trial(group, threshold) for threshold in thresholds])
    assert found == alone.losses([Trial(group, threshold, bound=bound) for threshold in thresholds])


def test_the_sample_that_says_most_is_the_first(digits):
    experiment = Experiment(digits.model, digits.samples[:5], ["prob"], ExperimentOptions(threads=1))
    judge = Counted(["prob"])
    trials, largest = Trials(experiment, digits.plan, judge, range(5)), Trial("ip", None)
    parts = trials.parts([largest], range(5))[0]
    loss, judge.runs = trials.losses([largest])[0], 0
    assert trials.losses([Trial("ip", None, bound=max(parts) / 5)]) == [max(parts) / 5] and judge.runs == 1
    assert trials.losses([Trial("ip", None, bound=math.nextafter(loss, math.inf))]) == [loss]


def test_a_quality_that_may_rise_is_never_given_up(digits, experiment):
    """The drop of one sample says nothing of that of all."""
    seen = []

    def quality(reference, result, labels):
        seen.append(len(result["prob"]))
        return float(result["prob"].max())

    trials = Trials(experiment, digits.plan, QualityDrop("q", quality, ["prob"]), TUNED)
    exact = trials.losses([Trial("ip", None)])
    assert trials.losses([Trial("ip", None, bound=-9.0)]) == exact and set(seen) == {3}


def test_a_threshold_that_cannot_be_expressed_is_an_infinite_loss(digits, experiment):
    trials = make_trials(digits, experiment)
    (group,) = [g for g, t in trials.touched.items() if "ip" in t.group.members]
    possible = trials.thresholds[group]
    found = trials.losses([Trial(group, 1e-9), Trial(group, possible), Trial(group, 1e-8)])
    assert found[0] == found[2] == math.inf and math.isfinite(found[1])


def test_plans_of_layers_that_a_threshold_does_not_reach_are_shared(digits, experiment):
    trials = make_trials(digits, experiment)
    trials.accept(Accept({"ip": trials.thresholds["ip"] * 1.1}, 1.0, 0.5))
    changed = {n for n in digits.plan.forms if digits.plan.forms[n] is not trials.plan.forms[n]}
    assert changed == {"ip"}
    assert trials.plan.thresholds == replan(digits.model, digits.plan, trials.plan.thresholds).thresholds


def test_what_the_methods_find(digits, experiment):
    trials = make_trials(digits, experiment)
    methods = method_thresholds(trials, digits.histograms)
    for group, touched in trials.touched.items():
        written, rectified = (digits.histograms[touched.group.measured(as_written=w)] for w in (True, False))
        assert methods["kl"][group] == find_threshold(written, "kl")
        assert methods["kl behind ReLU"][group] == find_threshold(rectified, "kl")
        assert methods["mse"][group] == find_threshold(rectified, "mse")
        assert methods["max"][group] == find_threshold(rectified, "max")
        candidates = candidates_of(methods)[group]
        assert list(candidates) == sorted(set(candidates)) and set(candidates) == {m[group] for m in methods.values()}


def test_ignored_layers_keep_their_thresholds(digits, experiment):
    trials = make_trials(digits, experiment)
    assert "ip" not in method_thresholds(trials, digits.histograms, ["ip"])["mse"]
    names = [name for name, _ in original_targets(trials, ["conv1", "ip"])]
    assert "conv1" not in names and "ip" not in names and "pool1" in names


def test_targets_of_the_original(digits, experiment):
    """No data layer, no BatchNorm, no Softmax; each with the group of its top."""
    trials = make_trials(digits, experiment)
    targets = original_targets(trials)
    types = {digits.model.net.layer_by_name[name].type for name, _ in targets}
    assert types == {"Convolution", "Scale", "ReLU", "Pooling", "Eltwise", "Concat", "InnerProduct"}
    for name, group in targets:
        assert digits.model.net.layer_by_name[name].tops[0] in trials.touched[group].group.members
