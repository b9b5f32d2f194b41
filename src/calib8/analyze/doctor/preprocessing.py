"""Is the preprocessing right? The given recipe against the usual ones, by what the network remembers of its training.

All recipes are tried on a few samples, the best of them and the given one on more. What beats the given one must do so
by some margin, and on nearly all resamplings of the samples (paired bootstrap): another kind of images than those of
the training shifts statistics, too, though hardly ever towards one of these recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.analyze.doctor.evidence import Doubles, Evidence, evidence_of, steps_for
from calib8.analyze.doctor.finding import Finding, Severity
from calib8.analyze.doctor.recipes import Recipe, resampled, usual_recipes
from calib8.engine import Crew, EngineOptions, Executor
from calib8.engine.memory import settle
from calib8.lowering import Model
from calib8.measure.collect import PIECE_BYTES, CollectOptions

Array = NDArray[Any]
Samples = Sequence[Mapping[str, Array]]
"""The inputs of one run each, by value."""

_SCREENED = 3  # samples that recipes are tried on which one sample has not ruled out
_NOT_RULED_OUT = 16
FINALISTS = 8
_RESAMPLINGS = 200
_MOST_NAMED = 3
_SURE = 0.99
_GAIN = {"batchnorm": 1.15, "balance": 1.1}
"""What is better by less than that says nothing. With BatchNorms a resampling of the images shows how much they
scatter; without, the evidence itself is off: with eight networks (bench/doctor.py), by up to 1.07."""
_LARGE_GAIN = {"batchnorm": 2.0, "balance": 1.25}
"""Both are for evidence of full weight; of few BatchNorms more is asked (`_needed`)."""
_EQUAL = 1.1
_SAME = 1.001
"""What differs by less is the rounding of floats: gray pictures are the same in both orders of channels."""
_BAD_MISFIT = 0.5
"""A network whose BatchNorms fit no recipe better than this has been given other images than it was trained with."""


@dataclass(frozen=True)
class Fit:
    """How well a recipe fits a network.

    Attributes:
        recipe: from pixels to samples.
        what: what it changes besides, like "letterbox"; "" for the way the samples were given.
        misfit: 0 for a perfect fit; in nats with BatchNorms, in bits without.
        gain: by which factor it is better than the given recipe; below 1 for a worse one.
        sure: the share of resamplings in which it is better than the given one, 0 to 1.
        alike: whether the evidence cannot tell it from the given one.
    """

    recipe: Recipe
    what: str
    misfit: float
    gain: float = 1.0
    sure: float = 0.0
    alike: bool = False


@dataclass(frozen=True)
class PreprocessingCheck:
    """The given recipe against others.

    Attributes:
        given: how well it fits; None where the network has no evidence.
        others: the best others, the best one first.
        tried: how many others were tried.
        kind: of the evidence: "batchnorm", "balance" or "" for none.
        weight: of the evidence; below 1 for few BatchNorms.
        evidence: what it rests on, for people.
        findings: what to say.
    """

    given: Fit | None
    others: tuple[Fit, ...] = ()
    tried: int = 0
    kind: str = ""
    evidence: str = ""
    findings: tuple[Finding, ...] = ()
    weight: float = 1.0

    @property
    def alike(self) -> tuple[Fit, ...]:
        """The others that the evidence cannot tell from the given one, the best one first."""
        return tuple(fit for fit in self.others if fit.alike)

    @property
    def sentence(self) -> str:
        """What it means; what it does not mean, too."""
        if self.given is None:
            return (
                "nothing to tell it by: no input for pictures, or neither BatchNorm nor rectifiers (which say nothing "
                "where a network makes pictures)"
            )
        if self.findings:
            return self.findings[0].text
        if not self.alike:
            return "the given one fits best"
        named = "; ".join(_named(fit) for fit in self.alike[:_MOST_NAMED])
        more = f"; and {len(self.alike) - _MOST_NAMED} more" if len(self.alike) > _MOST_NAMED else ""
        if self.kind == "batchnorm" and self.weight == 1:
            return f"the given one fits; these images cannot tell it from {named}{more}"
        norms = "with so few BatchNorms" if self.kind == "batchnorm" else "without a BatchNorm"
        return (
            f"nothing fits clearly better, but {norms} nobody can tell it from {named}{more}: look up how the network "
            "was trained"
        )


@dataclass(frozen=True)
class Variation:
    """Samples of the same images that were prepared in another way, which no recipe expresses: another resize mode."""

    what: str
    recipe: Recipe
    samples: Samples


def check_preprocessing(
    model: Model,
    samples: Samples,
    blob: str,
    given: Recipe,
    variations: Sequence[Variation] = (),
    advice: Callable[[Fit], str] = lambda fit: fit.recipe.text,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    evidence: Evidence | None = None,
    finalists: int = FINALISTS,
) -> PreprocessingCheck:
    """Try the usual recipes in the place of the given one.

    Args:
        model: runs take one of the samples each.
        samples: as the given recipe has made them, two or more.
        blob: the value among the inputs that holds the images, (N, C, H, W).
        variations: further ways to prepare the same images.
        advice: the options that give a recipe.
        progress: called with how many samples were run, each prepared in some way, and of how many.
        evidence: None for the best that the network has.
        finalists: how many of the others are tried on all samples, and are in the result.
    """
    evidence = evidence or evidence_of(model)
    if evidence is None:
        return PreprocessingCheck(None)
    trial = _Trial(model, evidence, blob, threads)
    ways = [_Way("", recipe, _resampler(blob, samples, given, recipe)) for recipe in (given, *usual_recipes(given))]
    ways += [_Way(v.what, v.recipe, v.samples.__getitem__) for v in variations]
    rows = _Rows(trial, ways, len(samples), progress)
    others = list(range(1, len(ways)))
    rounds = ((1, _NOT_RULED_OUT), (min(_SCREENED, len(samples)), finalists))
    kept = [min(most, len(others)) for _, most in rounds]
    rows.expected = len(others) + kept[0] * (rounds[1][0] - 1) + (kept[1] + 1) * len(samples) - kept[1] * rounds[1][0]
    for count, most in rounds:
        rows.reach(others, count)
        others = sorted(others, key=lambda index: (trial.misfit(rows.of(index)), index))[:most]
    rows.reach([0, *others], len(samples))
    reference, resampled_mine = trial.misfit(rows.of(0)), trial.resampled(rows.of(0))
    fits = [trial.fit(ways[index], rows.of(index), reference, resampled_mine) for index in others]
    fits.sort(key=lambda fit: fit.misfit)
    own = Fit(given, "", reference)
    findings = _findings(own, fits, evidence, advice)
    return PreprocessingCheck(own, tuple(fits), len(ways) - 1, evidence.kind, evidence.text, findings, evidence.weight)


def given_misfit(model: Model, samples: Samples, threads: int | None = None) -> tuple[str, float]:
    """The misfit of samples as they are, with the kind of evidence: cheap, one pass over few samples."""
    evidence = evidence_of(model)
    if evidence is None:
        return "", 0.0
    trial = _Trial(model, evidence, "", threads)
    way = _Way("", Recipe((), (), "given"), samples.__getitem__)
    return evidence.kind, trial.misfit(np.stack(trial.rows([(way, index) for index in range(len(samples))])))


@dataclass(frozen=True)
class _Way:
    what: str
    recipe: Recipe
    sample: Callable[[int], Mapping[str, Array]]


def _resampler(blob: str, samples: Samples, given: Recipe, other: Recipe) -> Callable[[int], Mapping[str, Array]]:
    def sample(index: int) -> Mapping[str, Array]:
        own = samples[index]
        return own if other is given else {**own, blob: resampled(own[blob], given, other)}

    return sample


class _Trial:
    """One network, run on samples of one way after another."""

    def __init__(self, model: Model, evidence: Evidence, blob: str, threads: int | None) -> None:
        self._evidence, self._blob = evidence, blob
        steps = steps_for(model, evidence, PIECE_BYTES)
        options = CollectOptions(engine=EngineOptions(threads=threads))
        self._crew = Crew(options.workers)
        executor = Executor(steps, evidence.values, options.engine_of_worker, share=True)
        self._executors = [executor, *(executor.sibling() for _ in range(1, options.workers))]
        settle(steps)

    def rows(self, wanted: Sequence[tuple[_Way, int]]) -> list[Doubles]:
        """Numbers of samples, each prepared in a way."""
        return self._crew.each(lambda lane, one: self._row(lane, one[0].sample(one[1])), wanted)

    def misfit(self, rows: Doubles) -> float:
        """Infinite where values are."""
        found = self._evidence.misfit(rows) if np.isfinite(rows).all() else np.inf
        return float(found)

    def resampled(self, rows: Doubles) -> Doubles:
        """Misfits of rows that are drawn at random, the same places every time."""
        drawn = np.random.default_rng(0).integers(0, len(rows), (_RESAMPLINGS, len(rows)))
        shares = np.stack([np.bincount(choice, minlength=len(rows)) for choice in drawn]) / len(rows)
        finite = np.isfinite(rows).all(axis=1, keepdims=True)
        found = self._evidence.misfits(shares @ np.where(finite, rows, 0.0))
        return np.where(shares @ ~finite > 0, np.inf, found[:, None])[:, 0]

    def fit(self, way: _Way, rows: Doubles, reference: float, given: Doubles) -> Fit:
        """Against the given way, over the same samples.

        Args:
            reference: the given one's misfit.
            given: its misfits of samples drawn at random.
        """
        misfit = self.misfit(rows)
        gain = _gain(self._evidence.kind, misfit, reference)
        near = gain >= 1 / _GAIN[self._evidence.kind]
        drawn = self.resampled(rows) if near else np.full_like(given, np.inf)
        sure, worse = float(np.mean(drawn < given)), float(np.mean(drawn > _SAME * given))
        clearly_better = gain >= _needed(_GAIN, self._evidence) and sure >= _SURE
        clearly_worse = self._evidence.kind == "batchnorm" and worse >= _SURE
        return Fit(way.recipe, way.what, misfit, gain, sure, near and not clearly_better and not clearly_worse)

    def _row(self, lane: int, inputs: Mapping[str, Array]) -> Doubles:
        parts: dict[str, tuple[Doubles, Doubles]] = {}

        def take(value: Any, array: Array) -> None:
            parts[value] = self._evidence.part(value, array)

        with np.errstate(over="ignore", invalid="ignore"):
            self._executors[lane].run(inputs, take)
            return self._evidence.row(parts)


class _Rows:
    """What is known of each way so far, sample by sample.

    Attributes:
        expected: how many rows there will be at last, for the progress.
    """

    _AT_A_TIME = 16

    def __init__(self, trial: _Trial, ways: Sequence[_Way], samples: int, progress: Callable[[int, int], None]) -> None:
        self._trial, self._ways, self._progress = trial, ways, progress
        self._rows: list[list[Doubles]] = [[] for _ in ways]
        self.expected = len(ways) * samples

    def of(self, index: int) -> Doubles:
        """The rows of a way."""
        return np.stack(self._rows[index])

    def reach(self, ways: Sequence[int], count: int) -> None:
        """Run what is missing to so many samples of each of these ways, all threads at once."""
        missing = [(way, sample) for way in ways for sample in range(len(self._rows[way]), count)]
        for first in range(0, len(missing), self._AT_A_TIME):
            part = missing[first : first + self._AT_A_TIME]
            for (way, _), row in zip(part, self._trial.rows([(self._ways[w], s) for w, s in part]), strict=True):
                self._rows[way].append(row)
            self._progress(sum(map(len, self._rows)), self.expected)


def _gain(kind: str, misfit: float, reference: float) -> float:
    """By which factor a misfit is better; without BatchNorms, in balance, which runs from 0 to 1."""
    if kind == "balance":
        return (1 - misfit) / max(1 - reference, 1e-9)
    return reference / max(misfit, 1e-9)


def _needed(gains: Mapping[str, float], evidence: Evidence) -> float:
    """A gain that evidence of this weight must show, so that all layers together say as much as is usual."""
    return float(gains[evidence.kind] ** (1 / evidence.weight))


def _findings(own: Fit, others: Sequence[Fit], evidence: Evidence, advice: Callable[[Fit], str]) -> tuple[Finding, ...]:
    better = [fit for fit in others if fit.gain >= _needed(_GAIN, evidence) and fit.sure >= _SURE]
    if better:
        return (_mistake(own, better, evidence, advice),)
    if evidence.kind == "batchnorm" and own.misfit > _BAD_MISFIT:
        text = (
            f"{evidence.text} do not fit these images, whatever the preprocessing (misfit {own.misfit:.2f}, expected "
            f"below {_BAD_MISFIT:g}); the network was trained with other images, or has been changed since"
        )
        return (Finding("preprocessing", Severity.HINT, "", text, "calibrate with images of the network's own kind"),)
    return ()


def _mistake(own: Fit, better: Sequence[Fit], evidence: Evidence, advice: Callable[[Fit], str]) -> Finding:
    best = better[0]
    large = best.gain >= _needed(_LARGE_GAIN, evidence)
    is_weak = evidence.weight < 1 and not large
    # Few layers tell the right one from one that fits a little better no more than from the given one.
    near = _needed(_GAIN, evidence) if is_weak else _EQUAL
    equal = [fit for fit in better[1:] if fit.misfit <= near * best.misfit]
    strong = large and evidence.kind == "batchnorm"
    words = "the preprocessing looks wrong" if strong else "another preprocessing fits better"
    text = f"{words}: {_named(best)} fits {best.gain:.1f} times as well as {own.recipe.text}, by {evidence.text}"
    if equal:
        text += f"; about as well: {'; '.join(map(_named, equal[:3]))}"
    told = f"look up how the network was trained, or {advice(best)}" if is_weak else advice(best)
    return Finding("preprocessing", Severity.PROBLEM if strong else Severity.HINT, "", text, told)


def _named(fit: Fit) -> str:
    return f"{fit.what}, {fit.recipe.text}" if fit.what else fit.recipe.text
