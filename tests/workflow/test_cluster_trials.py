"""`sensitivity`, `tune` and mixed precision on worker processes: the figures of one process, also if one is killed."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calib8.analyze.judges import QualityDrop
from calib8.cli.main import main
from calib8.errors import DataError
from calib8.workflow import (
    DropOptions,
    Metric,
    NetworkFiles,
    SensitivityOptions,
    TuneOptions,
    Tuner,
    connected,
    sensitivity,
)
from calib8.workflow.cluster_trials import _Seats

distributed = pytest.importorskip("distributed")

# Dask leaves sockets and loops to the garbage collector when a worker is killed.
pytestmark = pytest.mark.filterwarnings("default")

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
FILES = NetworkFiles(DIGITS / "deploy.prototxt", DIGITS / "custom.caffemodel")

ALL_BUT_ONE = frozenset(
    """
    data conv1 bn1 scale1 relu1 pool1 conv2a bn2a scale2a relu2a conv2b bn2b scale2b sum relu_sum conv3_1x1 relu3_1x1
    conv3_3x3 relu3_3x3 concat3 pool3 prob
    """.split()  # noqa: SIM905 - a list of so many names would be a column
)


def agreement(fp32, int8):
    """A user's metric, which only the process that asks has to know."""
    return -float(abs(int8["prob"] - fp32["prob"]).max())


@pytest.fixture(scope="module")
def cluster():
    """A scheduler, and two processes that work for it, one of them with two threads."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address=":0", silence_logs=50, memory_limit=0
    ) as local:
        yield local.scheduler_address


@pytest.fixture
def workers(cluster, network):
    with connected(cluster, network, FILES) as found:
        yield found


def figures(found):
    """All that was measured."""
    units = [(u.unit, u.type, u.threshold, u.damage, u.usage.counts.tolist()) for u in found.units]
    return units, found.whole, found.whole_loss, found.judge, found.samples


def kill_one(workers) -> None:
    os.kill(next(iter(workers.client.run(os.getpid).values())), signal.SIGKILL)


def tuned(network, result, options, workers=None, progress=None):
    tuner = Tuner(network, result, options, DropOptions(0.0, Metric("top1")), workers)
    found = tuner.tune(progress or (lambda _: None))
    return found, tuner.mixed_precision(found.plan)


@pytest.mark.parametrize("metric", [Metric(), Metric("mine", agreement)], ids=lambda m: m.name)
def test_sensitivity_gives_the_figures_of_one_process(network, result, workers, metric):
    options, seen = SensitivityOptions(samples=3, metric=metric), []
    alone = sensitivity(network, result, options)
    assert figures(sensitivity(network, result, options, seen.append, workers)) == figures(alone)
    assert [p.done for p in seen] == sorted(p.done for p in seen) and seen[-1].done == seen[-1].total == len(
        alone.units
    )


@pytest.mark.parametrize("options", [
    TuneOptions(samples=2, held_out=3, ignored=ALL_BUT_ONE),
    TuneOptions(samples=1, held_out=0, metric=Metric("mine", agreement), ignored=ALL_BUT_ONE),
], ids=["candidates", "fewer samples than threads"])  # fmt: skip
def test_tune_finds_what_one_process_finds(network, result, workers, options):
    assert options.ignored < {layer.name for layer in network.model.net.layers}
    (one, mixed), (other, other_mixed) = tuned(network, result, options), tuned(network, result, options, workers)
    assert other.plan.thresholds == one.plan.thresholds and other.found.accepted == one.found.accepted
    assert (other.found.before, other.found.after, other.found.trials) == (
        one.found.before, one.found.after, one.found.trials
    )  # fmt: skip
    assert other.differences == one.differences and other_mixed.found == mixed.found


def test_a_killed_worker_costs_its_trials_and_nothing_else(network, result, workers):
    """Losses are the same, no question is asked of the search again, and only seats of the dead one are made again."""
    options = TuneOptions(samples=3, search="original", layer="ip", at="outputs")
    one, seen = Tuner(network, result, options).tune(), []

    def kill_once(progress):
        seen.append(progress)
        if len(seen) == 3:
            kill_one(workers)

    other = Tuner(network, result, options, workers=workers).tune(kill_once)
    assert len(seen) > 4
    assert other.plan.thresholds == one.plan.thresholds and other.found.trials == one.found.trials
    assert (other.found.after, other.found.accepted) == (one.found.after, one.found.accepted)


def test_a_killed_worker_does_not_change_sensitivity(network, result, workers):
    seen = []

    def kill_once(progress):
        seen.append(progress.done)
        if len(seen) == 1:
            kill_one(workers)

    options = SensitivityOptions(samples=3)
    found = sensitivity(network, result, options, kill_once, workers)
    assert figures(found) == figures(sensitivity(network, result, options))


def test_workers_that_read_other_samples(network, result, workers):
    with pytest.raises(
        DataError, match=r"reads other samples than where the command was given, the first is number \d;"
    ):
        sensitivity(network.without_samples((0,)), result, SensitivityOptions(samples=4), workers=workers)


def test_samples_that_are_left_out(network, result, cluster):
    """Workers leave out the same ones."""
    fewer = network.without_samples((1, 2)).without_samples((0,))
    alone = sensitivity(fewer, result, SensitivityOptions(samples=2))
    with connected(cluster, fewer, replace(FILES, left_out=fewer.left_out)) as workers:
        assert figures(sensitivity(fewer, result, SensitivityOptions(samples=2), workers=workers)) == figures(alone)


def test_a_judge_goes_without_its_function_and_its_labels():
    judge = QualityDrop("mine", lambda *_: 0.0, ["prob"], np.arange(3))
    own = judge.for_parts
    (reference, result) = ({"prob": np.ones(2)}, {"prob": np.zeros(2)})
    assert own.part(reference, result)[1]["prob"].tolist() == judge.part(reference, result)[1]["prob"].tolist()
    assert own._labels is None and own._quality is not judge._quality


def test_seats_of_old_runners_are_given_up():
    seats = _Seats()
    first = seats.seat("a", 0)
    assert seats.seat("a", 0) is first and seats.seat("a", 1) is not first
    seats.seat("b", 0)
    seats.seat("c", 0)
    assert seats.seat("a", 0) is not first
    seats.leave("a")
    assert "a" not in seats._runners


@pytest.mark.parametrize("command", [
    ["sensitivity", "digits", "digits", "--samples", "2", "--no-picture"],
    ["tune", "digits", "digits", "--samples", "2", "--search", "none", "--max-drop", "0"],
], ids=lambda c: c[0])  # fmt: skip
def test_the_commands(cluster, tmp_path, monkeypatch, capsys, command):
    """The same files, and the same output."""
    monkeypatch.chdir(tmp_path)
    made = []
    for more in ([], ["--cluster", cluster]):
        shutil.copytree(DIGITS, "digits", ignore=shutil.ignore_patterns("bmnet_*"))
        assert main([*command, "--method", "mse", "--repair", "none", "-n", "4", *more]) == 0
        files = {p.relative_to("digits"): p.read_bytes() for p in Path("digits").rglob("*") if p.is_file()}
        made.append((*capsys.readouterr(), files))
        shutil.rmtree("digits")
    assert made[0] == made[1]
