"""Verdicts: grades by figures, the worst output counts."""

from __future__ import annotations

import math

import pytest

from calib8.analyze.metrics import Comparison
from calib8.analyze.verdict import Grade, OutputVerdict, Verdict


def output(snr_db, agreeing=0, asked=0, kind="classes"):
    error = 10 ** (-snr_db / 10)
    return OutputVerdict(("y",), kind, Comparison(10, 1.0, 1.0, 0.9, error), agreeing, asked)


@pytest.mark.parametrize(
    ("one", "grade"),
    [
        (output(30), Grade.GOOD),
        (output(15), Grade.FAIR),
        (output(5), Grade.BAD),
        (output(5, 100, 100), Grade.GOOD),
        (output(30, 95, 100), Grade.FAIR),
        (output(30, 80, 100), Grade.BAD),
        (output(30, 91, 100, "boxes"), Grade.GOOD),
        (output(30, 80, 100, "boxes"), Grade.FAIR),
        (output(30, 4, 5), Grade.GOOD),  # one of a few says little
        (output(15, 4, 5), Grade.FAIR),
    ],
)
def test_grades(one, grade):
    assert one.grade is grade


def test_the_worst_output_counts_and_the_sentence_says_what_to_do():
    found = Verdict((output(30), output(5)), 4, True)
    assert found.grade is Grade.BAD and "doctor" in found.sentence
    assert "other images" in found.samples
    assert "own images" in Verdict((), 4, False).samples


def test_figures_in_words():
    assert output(30.04, 9, 10).text == "30.0 dB, cosine 0.9000, same best class 90.0%"
    assert "exact" in OutputVerdict(("y",), "numbers", Comparison(1, 1.0, 1.0, 1.0, 0.0)).text
    assert math.isnan(output(3).agreement)
