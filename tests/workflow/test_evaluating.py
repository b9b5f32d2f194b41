"""Evaluation: the numbers of other ways to the same, whatever is in memory; labels; what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from calib8 import EvaluateOptions, Metric, SensitivityOptions, evaluate, sensitivity
from calib8.data import takes
from calib8.engine import run_float
from calib8.errors import DataError, OptionError


def test_as_sensitivity_says_of_the_whole_network(network, result):
    found = evaluate(network, result, EvaluateOptions(samples=25))
    other = sensitivity(network, result, SensitivityOptions(samples=25))
    assert found.loss == pytest.approx(other.whole_loss, rel=1e-3) and found.loss > 0
    assert found.outputs.snr_db == pytest.approx(other.whole.snr_db) and found.outputs.top1 == other.whole.top1
    assert (found.metric, found.samples, found.fp32, found.int8) == ("difference", 25, None, None)


@pytest.mark.parametrize("metric", [Metric(), Metric("top1")], ids=lambda metric: metric.name)
def test_what_is_in_memory_changes_nothing(network, result, monkeypatch, metric):
    found = evaluate(network, result, EvaluateOptions(samples=33, metric=metric, threads=1))
    for few in (1, 11, 1000):
        monkeypatch.setattr("calib8.workflow.evaluating._IN_MEMORY", few)
        assert evaluate(network, result, EvaluateOptions(samples=33, metric=metric, threads=2)) == found


def test_top1_with_labels(network, result, tmp_path):
    model = network.of_one_sample
    images = [image for batch in takes(network.samples, 30) for image in batch["data"]]
    fp32 = [run_float(model, {"data": image[np.newaxis]})["prob"].argmax() for image in images]
    labels = [int(best) if number % 3 else (int(best) + 1) % 10 for number, best in enumerate(fp32)]
    (tmp_path / "labels").write_text("\n".join(map(str, labels)))
    found = evaluate(network, result, EvaluateOptions(samples=30, metric=Metric("top1", labels=tmp_path / "labels")))
    assert found.fp32 == pytest.approx(20 / 30) and found.int8 == pytest.approx(found.fp32 - found.loss)


def test_progress_ends_with_all(network, result):
    told = []
    evaluate(network, result, EvaluateOptions(samples=15), told.append)
    assert [one.done for one in told] == list(range(1, 16)) and {one.total for one in told} == {15}


def test_what_is_refused(network, result, tmp_path):
    with pytest.raises(DataError, match="`samples` asks for 151"):
        evaluate(network, result, EvaluateOptions(samples=151))
    with pytest.raises(OptionError, match="no built-in meaning"):
        evaluate(network, result, EvaluateOptions(metric=Metric("best")))
    told = []
    (tmp_path / "labels").write_text("1\n2\n")
    with pytest.raises(DataError, match="has 2 labels for 10 images"):
        evaluate(network, result, EvaluateOptions(10, Metric("top1", labels=tmp_path / "labels")), told.append)
    assert told == []  # before anything runs
