"""Verdicts: grades by figures, the worst output counts."""

from __future__ import annotations

import math

import pytest

from calib8.analyze.lost_parts import LostParts
from calib8.analyze.metrics import Comparison
from calib8.analyze.verdict import Grade, OutputVerdict, Verdict


def output(snr_db, agreeing=0, asked=0, kind="classes", runs=5):
    error = 10 ** (-snr_db / 10)
    return OutputVerdict(("y",), kind, Comparison(10, 1.0, 1.0, 0.9, error), agreeing, asked, runs)


@pytest.mark.parametrize(
    ("one", "grade"),
    [
        (output(30), Grade.GOOD),
        (output(15), Grade.FAIR),
        (output(5), Grade.BAD),
        (output(11), Grade.BAD),
        # So many answers that signal to noise counts no more.
        (output(5, 100, 100), Grade.GOOD),
        (output(5, 50, 50), Grade.FAIR),
        (output(30, 90, 100), Grade.FAIR),
        (output(30, 80, 100), Grade.BAD),
        (output(30, 91, 100, "boxes"), Grade.GOOD),
        (output(30, 80, 100, "boxes"), Grade.FAIR),
        (output(18, 22, 25, "boxes"), Grade.FAIR),
        # Few answers make nothing better.
        (output(12.5, 2, 2), Grade.FAIR),
        (output(16, 3, 3), Grade.FAIR),
        (output(16, 16, 16), Grade.FAIR),
        (output(9, 5, 5), Grade.BAD),
        (output(9, 10, 10, "boxes"), Grade.BAD),
        # One that has changed makes nothing worse; many do.
        (output(23, 5, 5), Grade.GOOD),
        (output(23, 4, 5), Grade.GOOD),
        (output(23, 14, 16), Grade.GOOD),
        (output(23, 3, 5), Grade.FAIR),
        (output(15, 4, 5), Grade.FAIR),
        (output(23, 11, 16), Grade.BAD),
        # The pixels of two images are no more than two images.
        (output(5, 9999, 10000, "map", 2), Grade.BAD),
        (output(5, 9999, 10000, "map", 400), Grade.GOOD),
        (output(30, 9500, 10000, "map", 2), Grade.FAIR),
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
    assert output(30.04, 9, 10).text == "30.0 dB, cosine 0.9000, same best class 9 of 10 (61% or more of all, 95% sure)"
    assert output(30.04, 3, 3).text.endswith("same best class 3 of 3 (37% or more of all, 95% sure)")
    assert output(3, 17, 20, "boxes").text.endswith(
        "boxes matched (F1) 85.0% of about 10 (49% or more of all, 95% sure)"
    )
    assert output(3, 19, 20, "map").text.endswith("pixels with the same class 95.0%")
    assert "exact" in OutputVerdict(("y",), "numbers", Comparison(1, 1.0, 1.0, 1.0, 0.0)).text
    assert math.isnan(output(3).agreement)


@pytest.mark.parametrize(("same", "count", "low", "high"), [(0, 4, 0, 0.527), (3, 3, 0.368, 1), (9, 10, 0.606, 0.995)])
def test_what_few_answers_leave_possible(same, count, low, high):
    """Clopper and Pearson's limits, as tables have them."""
    assert output(30, same, count).interval == pytest.approx((low, high), abs=1e-3)


def test_nothing_asked_and_very_many():
    assert output(30).interval == (0, 1)
    low, high = output(30, 90_000, 100_000).interval
    assert 0.898 < low < 0.9 < high < 0.902


@pytest.mark.parametrize(("joins", "advice"), [(True, "`concat_quantize`"), (False, "leave layer 'join' in FP32")])
def test_lost_parts_are_bad_at_any_signal_to_noise(joins, advice):
    lost = LostParts(1, (4, 5), 6, 0.93, "join", joins)
    one = OutputVerdict(("y",), "numbers", Comparison(10, 1.0, 1.0, 1.0, 1e-4), lost=lost)
    found = Verdict((output(30), one), 4, True)
    assert found.grade is Grade.BAD and found.losing is one
    assert advice in found.sentence and "'y' holds small numbers beside large ones" in found.sentence
    assert one.text.endswith("2 of 6 channels lost (4 to 5: one number in INT8, up to 0.93 in FP32)")
