"""Judges: losses by their formulas, qualities, labels, and what stands for a network's outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calib8.analyze.judges import (
    QualityDrop,
    ScoreDifference,
    SquaredDifference,
    compared_values,
    score_difference,
    top1,
)
from calib8.errors import OptionError

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 4, 2, 2] } } }\n'


def one(name, kind, bottoms, more=""):
    reads = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{name}" {more} }}\n'


def test_squared_difference_by_loops():
    rng = np.random.default_rng(0)
    samples = [
        {"a": rng.standard_normal((1, 3, 2), np.float32), "b": rng.standard_normal((1, 2), np.float32)} for _ in "123"
    ]
    results = [{name: x + rng.standard_normal(x.shape, np.float32) for name, x in sample.items()} for sample in samples]
    judge = SquaredDifference(["a", "b"])
    loss = judge.loss(range(3), [judge.part(x, y) for x, y in zip(samples, results, strict=True)])
    expected = 0.0
    for x, y in zip(samples, results, strict=True):
        for name in ("a", "b"):
            pairs = list(zip(x[name].ravel().tolist(), y[name].ravel().tolist(), strict=True))
            expected += sum((p - q) ** 2 for p, q in pairs) / len(pairs) / 3
    assert loss == pytest.approx(expected, rel=1e-6)
    assert judge.loss(range(3), [judge.part(x, x) for x in samples]) == 0


def test_only_the_values_of_a_judge_count():
    judge = SquaredDifference(["a"])
    x = {"a": np.ones((1, 2), np.float32), "other": np.zeros((1, 2), np.float32)}
    assert judge.part(x, {**x, "other": np.ones((1, 2), np.float32)}) == 0


def scores(*rows):
    return [{"p": np.array([row], np.float32)} for row in rows]


def test_top1_falls():
    fp32, int8 = scores([1, 2, 3], [3, 2, 1], [1, 5, 1]), scores([1, 4, 3], [3, 2, 1], [1, 5, 1])
    for labels, expected in ((None, 1 / 3), (np.array([2, 0, 0]), 1 / 3), (np.array([1, 0, 1]), -1 / 3)):
        judge = QualityDrop("top1", top1, ["p"], labels)
        parts = [judge.part(x, y) for x, y in zip(fp32, int8, strict=True)]
        assert judge.loss(range(3), parts) == pytest.approx(expected)
        assert judge.loss([2], parts[2:]) == 0


def test_labels_follow_the_samples():
    judge = QualityDrop("top1", top1, ["p"], np.array([0, 1, 2]))
    parts = [judge.part(x, y) for x, y in zip(scores([1, 0, 0], [0, 0, 1]), scores([0, 1, 0], [0, 0, 1]), strict=True)]
    assert judge.loss([0, 2], parts) == 0.5


def test_parts_survive_the_next_run():
    judge = QualityDrop("top1", top1, ["p"])
    (result,) = scores([0, 1, 0])
    part = judge.part(result, result)
    result["p"][:] = 0
    assert part[1]["p"].argmax() == 1


@pytest.mark.parametrize("label", [1.5, np.nan])
def test_top1_needs_classes(label):
    judge = QualityDrop("top1", top1, ["p"], np.array([0, label]))
    with pytest.raises(OptionError, match="no whole numbers"):
        judge.loss([0, 1], [judge.part(x, x) for x in scores([0, 1], [1, 0])])


def test_labels_that_do_not_fit():
    judge = QualityDrop("top1", top1, ["p"], np.zeros((2, 3)))
    with pytest.raises(OptionError, match="one class for each sample"):
        judge.loss([0], [judge.part(*scores([0, 1], [0, 1]))])


def test_a_quality_that_is_no_number():
    judge = QualityDrop("mine", lambda fp32, int8, labels: float("nan"), ["p"])
    with pytest.raises(OptionError, match="metric mine gave nan"):
        judge.loss([0], [judge.part(*scores([0, 1], [0, 1]))])


def test_keys_tell_judges_apart():
    judges = [
        SquaredDifference(["a"]),
        SquaredDifference(["b"]),
        QualityDrop("q", top1, ["a"]),
        QualityDrop("q", top1, ["a"], np.array([1])),
        QualityDrop("q", top1, ["a"], code="1"),
    ]
    assert len({judge.key for judge in judges}) == len(judges)


def test_what_stands_for_outputs(tmp_path, monkeypatch, random_model):
    """Through a layer in Python to what it reads; through a Softmax where that is wanted."""
    (tmp_path / "rows.py").write_text(
        "import caffe\nclass Rows(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(1, 1)\n"
        "    def forward(self, bottom, top): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    text = INPUT + one("c", "Convolution", "x", "convolution_param { num_output: 3 kernel_size: 1 }")
    text += one("s", "Softmax", "c") + one("r", "ReLU", "c")
    text += one("py", "Python", "r s x", 'python_param { module: "rows" layer: "Rows" }') + one("t", "TanH", "c")
    model = random_model(text)
    assert compared_values(model) == ("r", "s", "t")
    assert compared_values(model, before_softmax=True) == ("r", "c", "t")
    judge = score_difference(model)
    assert judge.values == ("r", "c", "t") and judge.key == ScoreDifference(["r", "c", "t"], {"c": 1}).key


def test_places_have_no_distance_and_what_they_are_places_of_is_compared(random_model):
    text = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 5 kernel_size: 1 } }
layer { name: "a" type: "ArgMax" bottom: "c" top: "a" argmax_param { axis: 1 } }
"""
    assert compared_values(random_model(text)) == ("c",)
    assert compared_values(random_model(text.replace("axis: 1", "axis: 1 out_max_val: true"))) == ("a",)


def naive_scores(x, y, axis):
    """Position by position, class by class."""
    x, y = np.moveaxis(x, axis, 0), np.moveaxis(y, axis, 0)
    classes, total, positions = len(x), 0.0, list(np.ndindex(x.shape[1:]))
    for at in positions:
        shares = [math.exp(float(x[(c, *at)]) / 2) for c in range(classes)]
        for c in range(classes):
            weight = (shares[c] / sum(shares) + 1 / classes) / 2
            total += weight * (float(x[(c, *at)]) - float(y[(c, *at)])) ** 2
    return total / len(positions)


@pytest.mark.parametrize(("shape", "axis"), [((1, 5), 1), ((2, 3, 2, 4), 1), ((1, 6, 3), 2), ((1, 6, 3), -1)])
def test_scores(shape, axis):
    rng = np.random.default_rng(0)
    x, y, z, w = (rng.standard_normal(shape).astype(np.float32) for _ in range(4))
    judge = ScoreDifference(["s", "o"], {"s": axis})
    found = judge.part({"s": x, "o": z, "other": x}, {"s": y, "o": w, "other": z})
    expected = naive_scores(x, y, axis) + SquaredDifference(["o"]).part({"o": z}, {"o": w})
    assert found == pytest.approx(expected, rel=1e-6)
    assert judge.part({"s": x, "o": z}, {"s": x, "o": z}) == 0


def test_the_best_class_weighs_most():
    x = np.zeros((1, 1000), np.float32)
    x[0, 7] = 20
    losses = []
    for wrong in (7, 8):
        y = x.copy()
        y[0, wrong] -= 1
        losses.append(ScoreDifference(["s"], {"s": 1}).part({"s": x}, {"s": y}))
    assert losses[0] > 100 * losses[1] > 0


def test_scores_far_apart():
    x = np.array([[-1e4, 0.0, 1e4]], np.float32)
    assert ScoreDifference(["s"], {"s": 1}).part({"s": x}, {"s": x + 1}) == pytest.approx(1)


def test_rows_of_finds_of_several_runs_are_one_array():
    """Two images a run; the first number of a row is its image."""
    seen = []

    def quality(fp32, int8, labels):
        seen.append(int8["d"])
        return 0.0

    judge = QualityDrop("q", quality, ["d", "s"], finds={"d": 2})
    runs = [np.full((1, 1, n, 7), 0.5, np.float32) for n in (3, 1, 2)]
    for run in runs:
        run[0, 0, :, 0] = np.arange(run.shape[2]) % 2
    outputs = [{"d": run, "s": np.zeros((2, 4), np.float32)} for run in runs]
    judge.loss((0, 1, 2), [judge.part(o, o) for o in outputs])
    assert seen[-1].shape == (1, 1, 6, 7)
    assert seen[-1][0, 0, :, 0].tolist() == [0, 1, 0, 2, 4, 5]
    assert runs[1][0, 0, 0, 0] == 0  # the samples' own arrays stay


def test_outputs_that_fit_no_array_are_said():
    judge = QualityDrop("q", lambda *_: 0.0, ["x"])
    outputs = [{"x": np.zeros((1, n), np.float32)} for n in (2, 3)]
    with pytest.raises(OptionError, match=r"output 'x' has the shapes \(2,\) and \(3,\) for different samples"):
        judge.loss((0, 1), [judge.part(o, o) for o in outputs])
