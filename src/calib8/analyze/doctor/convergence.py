"""Are there enough images? Thresholds from one half of them against those from the other.

With thresholds a and b of the halves, the threshold of all images is about as sure as |a - b| / (a + b), relatively:
two independent halves differ by sqrt(2) times the error of one, and the whole has 1/sqrt(2) of that. The error falls
with the square root of the number of images, which tells how many would do. One difference says little, the root mean
square over all values says more: the number is right within a factor of about two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from calib8.analyze.doctor.finding import Finding, Severity
from calib8.analyze.doctor.survey import Survey
from calib8.measure.thresholds import ThresholdOptions, find_threshold

CONVERGED = 0.05
"""A threshold is sure enough within this part of it: 5 % clip or waste a twentieth of the 127 codes."""
_USUAL = 0.03  # root mean square over all values
_FEWEST = 4
_MOST_NAMED = 5


@dataclass(frozen=True)
class Convergence:
    """How sure thresholds are.

    Attributes:
        images: how many were looked at.
        errors: by value, the relative error of its threshold, 0.05 for 5 %.
        typical: their root mean square.
        enough: how many images would bring that to 3 %, about; at least those that there are if it is so.
        findings: what to say.
    """

    images: int
    errors: Mapping[str, float]
    typical: float
    enough: int
    findings: tuple[Finding, ...] = ()

    @property
    def unsure(self) -> tuple[str, ...]:
        """The values whose thresholds have not converged, the least sure first."""
        return tuple(sorted((v for v, e in self.errors.items() if e > CONVERGED), key=lambda v: -self.errors[v]))


def check_convergence(survey: Survey, method: str, options: ThresholdOptions) -> Convergence:
    """Compare the thresholds of the halves by one of the methods.

    Raises:
        OptionError: no such method, or a number of bins that it cannot search.
    """
    if survey.images < _FEWEST:
        text = f"{survey.images} images are too few to say anything about thresholds"
        few = Finding("images", Severity.PROBLEM, "", text, "use 100 images or more (-n 100)")
        return Convergence(survey.images, {}, math.nan, 100, (few,))
    errors = {}
    for value in survey.values:
        pair = [half[value] for half in survey.halves]
        if not any(histogram.dead for histogram in pair):
            a, b = (find_threshold(histogram, method, options) for histogram in pair)
            errors[value] = abs(a - b) / (a + b)
    typical = float(np.sqrt(np.mean(np.square(list(errors.values()))))) if errors else 0.0
    enough = max(_FEWEST, math.ceil(survey.images * (typical / _USUAL) ** 2 / 10) * 10)
    found = Convergence(survey.images, errors, typical, enough)
    return replace(found, findings=_findings(survey, found))


def _findings(survey: Survey, found: Convergence) -> tuple[Finding, ...]:
    unsure = found.unsure
    if found.typical <= _USUAL or not unsure:
        return ()
    named = ", ".join(f"{survey.called[v]} {found.errors[v]:.0%}" for v in unsure[:_MOST_NAMED])
    more = f" and {len(unsure) - _MOST_NAMED} more" if len(unsure) > _MOST_NAMED else ""
    text = (
        f"thresholds of the one half of the {found.images} images differ from those of the other: {len(unsure)} of "
        f"{len(found.errors)} blobs are not sure within {CONVERGED:.0%} ({named}{more})"
    )
    return (Finding("images", Severity.HINT, "", text, f"about {found.enough} images would do (-n {found.enough})"),)
