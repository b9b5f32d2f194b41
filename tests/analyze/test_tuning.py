"""Searches run to their end: killed and begun again, out of time, and never worse than they began."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from calib8.analyze.candidates import candidates_of, method_thresholds, original_targets
from calib8.analyze.experiment import Experiment, ExperimentOptions
from calib8.analyze.journal import Journal
from calib8.analyze.judges import QualityDrop, SquaredDifference, top1
from calib8.analyze.search import SearchOptions, candidate_search, original_search
from calib8.analyze.trials import Trials
from calib8.analyze.tuning import layer_differences, run_search
from calib8.quantize import make_plan, setup_of

TUNED, HELD_OUT = range(6), range(6, 12)


@pytest.fixture(scope="module")
def experiment(digits):
    return Experiment(digits.model, digits.samples[:12], ["prob"], ExperimentOptions(threads=2))


def begin(digits, experiment, judge=None):
    """Trials and the default search, with as few groups and sweeps as show everything."""
    trials = Trials(experiment, digits.plan, judge or SquaredDifference(["prob"]), TUNED, HELD_OUT)
    methods = method_thresholds(trials, digits.histograms)
    methods = {name: found for name, found in methods.items() if name in ("kl", "mse", "max")}
    candidates = candidates_of(methods)
    some = {group: candidates[group] for group in list(candidates)[2::3]}
    search = candidate_search(some, trials.thresholds, SearchOptions(sweeps=2), methods)
    return trials, search


def tuned(digits, experiment, **options):
    trials, search = begin(digits, experiment)
    return run_search(search, trials, **options)


def facts(result):
    return result.plan.thresholds, result.before, result.after, result.accepted, result.trials, result.finished


def test_it_ends_better_than_it_began(digits, experiment):
    found = tuned(digits, experiment)
    assert found.finished and found.accepted
    assert found.after.tuned < found.before.tuned and found.after.held_out <= found.before.held_out
    assert (found.after.tuned, found.after.held_out) == (found.accepted[-1].after, found.accepted[-1].held_out_after)
    anew = make_plan(digits.model, found.plan.thresholds)
    for name, own in anew.forms.items():
        if own is not None:
            assert [b.tobytes() for b in own.blobs] == [b.tobytes() for b in found.plan.forms[name].blobs]


def test_the_losses_that_it_reports_are_those_of_the_network(digits, experiment):
    found = tuned(digits, experiment)
    variant = experiment.variant(setup_of(make_plan(digits.model, found.plan.thresholds)))
    judge = SquaredDifference(["prob"])

    def part(lane, sample):
        return judge.part(experiment.references[sample], lane.run(sample, variant, ["prob"]))

    for samples, loss in ((TUNED, found.after.tuned), (HELD_OUT, found.after.held_out)):
        assert judge.loss(samples, experiment.each(part, samples)) == loss


def test_the_same_on_other_threads_and_with_less_memory(digits, experiment):
    other = Experiment(digits.model, digits.samples[:12], ["prob"], ExperimentOptions(threads=1, budget=100_000))
    assert facts(tuned(digits, other)) == facts(tuned(digits, experiment))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("trial", [0, 30, 60])
def test_killed_and_begun_again(digits, experiment, tmp_path, trial):
    path = tmp_path / "progress"
    expected = facts(tuned(digits, experiment))
    trials, search = begin(digits, experiment)
    asked = [0]
    answer = trials.losses

    def until_killed(questions):
        if asked[0] + len(questions) > trial:
            raise KilledError
        asked[0] += len(questions)
        return answer(questions)

    trials.losses = until_killed
    with pytest.raises(KilledError), Journal(path, "d") as journal:
        run_search(search, trials, journal)

    trials, search = begin(digits, experiment)
    again = [0]
    answer = trials.losses

    def counted(questions):
        again[0] += len(questions)
        return answer(questions)

    trials.losses = counted
    with Journal(path, "d") as journal:
        assert journal.recorded == asked[0]
        found = run_search(search, trials, journal)
    assert facts(found) == expected
    assert again[0] == expected[4] - asked[0]  # nothing is computed twice


def unbounded(trials):
    """The same trials, which know all losses."""
    answer = trials.losses
    trials.losses = lambda questions: answer(
        [one if math.isinf(one.bound) else replace(one, bound=math.inf) for one in questions]
    )
    return trials


class Counted(SquaredDifference):
    runs = 0

    def part(self, reference, result):
        self.runs += 1
        return super().part(reference, result)


def test_bounds_change_nothing_but_the_runs(digits, experiment, tmp_path):
    judges = [Counted(["prob"]), Counted(["prob"])]
    trials, search = begin(digits, experiment, judges[0])
    found = run_search(search, trials)
    trials, search = begin(digits, experiment, judges[1])
    with Journal(tmp_path / "p", "d") as journal:
        exact = run_search(search, unbounded(trials), journal)
    assert facts(found) == facts(exact) and judges[0].runs < 0.95 * judges[1].runs
    targets = original_targets(trials)
    by_the_original = []
    for change in (lambda trials: trials, unbounded):
        trials = change(begin(digits, experiment)[0])
        by_the_original.append(run_search(original_search(targets, trials.thresholds), trials))
    assert facts(by_the_original[0]) == facts(by_the_original[1])
    assert by_the_original[0].differences == by_the_original[1].differences

    lines = (tmp_path / "p").read_bytes().splitlines(keepends=True)  # of a search without bounds, half-way
    (tmp_path / "p").write_bytes(b"".join(lines[: len(lines) // 2]))
    trials, search = begin(digits, experiment)
    with Journal(tmp_path / "p", "d") as journal:
        assert journal.recorded == len(lines) // 2 - 1
        assert facts(run_search(search, trials, journal)) == facts(exact)


def test_a_finished_search_is_answered_by_its_record(digits, experiment, tmp_path):
    with Journal(tmp_path / "p", "d") as journal:
        first = tuned(digits, experiment, journal=journal)
    trials, search = begin(digits, experiment)
    answer, asked = trials.losses, []
    trials.losses = lambda questions: asked.extend(questions) or answer(questions)
    with Journal(tmp_path / "p", "d") as journal:
        assert facts(run_search(search, trials, journal)) == facts(first)
    assert len(asked) <= 2  # the losses at the end, which no search asks for


def test_out_of_time(digits, experiment, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("calib8.analyze.tuning.time.monotonic", lambda: now[0])
    trials, search = begin(digits, experiment)
    answer = trials.losses

    def slow(questions):
        now[0] += 1.0
        return answer(questions)

    trials.losses = slow
    with Journal(tmp_path / "p", "d") as journal:
        found = run_search(search, trials, journal, seconds=10)
    assert not found.finished and found.after.tuned <= found.before.tuned
    assert now[0] <= 10 + 4  # no question is begun after that but what the report needs

    trials, search = begin(digits, experiment)
    with Journal(tmp_path / "p", "d") as journal:
        assert 9 <= journal.seconds <= 11
        again = run_search(search, trials, journal, seconds=journal.seconds)  # no time left
    assert again.plan.thresholds == found.plan.thresholds and again.after == found.after
    trials, search = begin(digits, experiment)
    with Journal(tmp_path / "p", "d") as journal:
        whole = run_search(search, trials, journal)
    assert facts(whole) == facts(tuned(digits, experiment))


def test_no_time_at_all(digits, experiment):
    found = tuned(digits, experiment, seconds=0)
    assert not found.finished and found.after == found.before and found.accepted == ()
    assert found.plan.thresholds == digits.plan.thresholds


def test_original_search_and_its_differences(digits, experiment):
    trials = Trials(experiment, digits.plan, SquaredDifference(["prob"]), TUNED)
    before = layer_differences(trials, original_targets(trials))
    assert layer_differences(trials, original_targets(trials)) == before
    found = run_search(original_search(original_targets(trials), trials.thresholds), trials)
    assert list(found.differences) == list(before) and found.before.held_out is None
    for step in found.accepted:
        assert found.differences[step.target] == step.after < step.before
    first = next(iter(before))
    assert found.differences[first] <= before[first]


def test_a_quality_of_the_user_s(digits, experiment):
    found = run_search(*reversed(begin(digits, experiment, QualityDrop("top1", top1, ["prob"], digits.labels[:12]))))
    assert found.after.tuned <= found.before.tuned and found.after.held_out <= found.before.held_out


def test_progress_says_what_is_tried(digits, experiment):
    seen = []
    tuned(digits, experiment, watch=seen.append)
    assert any(status.what.startswith("all by ") for status in seen)
    assert any(status.threshold is not None and status.change is not None and status.change < 0 for status in seen)
    assert [s.done for s in seen] == sorted(s.done for s in seen) and all(s.done <= s.steps for s in seen)
