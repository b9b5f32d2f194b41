"""Figures over samples that know how sure they are: a value, and an interval from resampling the samples.

Every figure here is a function of weights, one for each sample. All ones give the figure itself; drawing the samples
anew with replacement (bootstrap) gives other weights, and the spread of the figures is what another set of samples of
that size might have said. Figures that are given the same weights are compared pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Figure = Callable[[Array], float]
"""From weights, shape (samples,), to a number."""
RESAMPLES = 400
SURE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, spec: str) -> str:
        """All three, formatted alike."""
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def ratio(numerators: Sequence[float] | Array, denominators: Sequence[float] | Array | None = None) -> Figure:
    """The sum of the numerators over that of the denominators, 1 for each sample by default; 1 for 0/0."""
    over = np.asarray(numerators, np.float64)
    under = np.ones(len(over)) if denominators is None else np.asarray(denominators, np.float64)

    def figure(weights: Array) -> float:
        total = float(weights @ under)
        return float(weights @ over) / total if total else 1.0

    return figure


def decibels(signals: Sequence[float], noises: Sequence[float]) -> Figure:
    """10 * log10 of the whole signal over the whole noise."""
    signal, noise = np.asarray(signals, np.float64), np.asarray(noises, np.float64)

    def figure(weights: Array) -> float:
        lost = float(weights @ noise)
        return 10 * float(np.log10(float(weights @ signal) / lost)) if lost else float("inf")

    return figure


def difference(a: Figure, b: Figure) -> Figure:
    """How much more a is than b, over the same samples."""
    return lambda weights: a(weights) - b(weights)


def mean(figures: Sequence[Figure]) -> Figure:
    """The mean of several figures over the same samples."""
    return lambda weights: float(np.mean([figure(weights) for figure in figures]))


def estimate(figure: Figure, samples: int, resamples: int = RESAMPLES) -> Estimate:
    """The figure, and between which values 95 % of the resampled ones lie. The same draws for every figure."""
    random = np.random.default_rng(0)
    draws = [random.multinomial(samples, np.full(samples, 1 / samples)) for _ in range(resamples)]
    found = np.sort([figure(draw.astype(np.float64)) for draw in draws])
    tail = (1 - SURE) / 2
    low, high = found[int(tail * (resamples - 1))], found[int(np.ceil((1 - tail) * (resamples - 1)))]
    return Estimate(figure(np.ones(samples)), float(low), float(high))
