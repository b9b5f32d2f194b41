"""Samples that stand out: constant ones, NaN, near duplicates, and those that alone set thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from calib8.analyze.doctor.finding import Finding, Severity
from calib8.analyze.doctor.survey import Survey

_ALONE = 1.5
"""A sample sets the range of a blob alone if its largest |x| is this many times that of the next sample."""
_MANY_BLOBS = 0.1
_LEAST_BLOBS = 2
_FEWEST = 5  # among fewer images, each may stand out
_DUPLICATE = 0.01
"""Two samples are near duplicates if their thumbnails differ by less than this part of their range, in the mean."""
_MOST_COMPARED = 2000
_MOST_NAMED = 20


def check_samples(survey: Survey, name: Callable[[int], str]) -> tuple[Finding, ...]:
    """Name the odd ones out.

    Args:
        name: what a sample is called, by its number.
    """
    found = [*_not_finite(survey, name), *_constant(survey, name), *_alone(survey, name), *_duplicates(survey, name)]
    if len(found) > _MOST_NAMED:
        rest = Finding("samples", Severity.HINT, "", f"and {len(found) - _MOST_NAMED} more samples stand out")
        return (*found[:_MOST_NAMED], rest)
    return tuple(found)


def _not_finite(survey: Survey, name: Callable[[int], str]) -> Iterator[Finding]:
    for index in survey.not_finite:
        text = "holds NaN or infinite numbers, which no preprocessing of an image gives"
        yield Finding("samples", Severity.PROBLEM, name(index), text, "remove or repair it")


def _constant(survey: Survey, name: Callable[[int], str]) -> Iterator[Finding]:
    for index in np.flatnonzero(survey.spread == 0):
        if index not in survey.not_finite:
            yield Finding("samples", Severity.HINT, name(int(index)), "is the same number everywhere", "remove it")


def _alone(survey: Survey, name: Callable[[int], str]) -> Iterator[Finding]:
    if survey.images < _FEWEST:
        return
    order = np.sort(survey.peaks, axis=0)
    largest, second = order[-1], order[-2]
    alone = (largest > _ALONE * second) & (second > 0)
    winners = survey.peaks.argmax(axis=0)
    counts = np.bincount(winners[alone], minlength=survey.images)
    least = max(_LEAST_BLOBS, _MANY_BLOBS * len(survey.values))
    for index in np.argsort(-counts, kind="stable"):
        if counts[index] < least:
            return
        mine = np.flatnonzero(alone & (winners == index))
        worst = mine[np.argmax(largest[mine] / second[mine])]
        blob, times = survey.called[survey.values[worst]], largest[worst] / second[worst]
        text = (
            f"alone sets the range of {counts[index]} of {len(survey.values)} blobs; in {blob} it has {times:.1f} "
            "times the next largest |x|"
        )
        advice = "look whether it belongs to the data; methods that clip (kl, mse) mind it less than max"
        yield Finding("samples", Severity.HINT, name(int(index)), text, advice)


def _duplicates(survey: Survey, name: Callable[[int], str]) -> Iterator[Finding]:
    thumbs = survey.thumbs[:_MOST_COMPARED].astype(np.float64)
    span = np.maximum(thumbs.max(axis=1) - thumbs.min(axis=1), 1e-12)
    seen: set[int] = set()
    for first in range(len(thumbs)):
        if first in seen or survey.spread[first] == 0:
            continue
        distance = np.abs(thumbs[first + 1 :] - thumbs[first]).mean(axis=1) / span[first]
        same = [first + 1 + int(i) for i in np.flatnonzero(distance < _DUPLICATE) if survey.spread[first + 1 + i] > 0]
        if same:
            seen.update(same)
            text = f"is nearly the same image as {_listed([name(i) for i in same])}"
            yield Finding("samples", Severity.HINT, name(first), text, "other images would say more")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
