"""`Verdict`: how well INT8 follows FP32, in a few figures and a sentence on what to do next. No labels are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from calib8.analyze.answers import Answer
from calib8.analyze.lost_parts import LostParts
from calib8.analyze.metrics import Comparison

_GOOD_DB, _FAIR_DB = 20.0, 12.0
"""Measured (docs/report.md, docs/accuracy.md): from 20 dB on FP32's best class stays in 95 images of 100 or more,
near 12 dB in 90. The YOLO keeps three boxes of four at 13.5 dB, and fewer at 10.8 dB."""
SHARES = {"classes": (0.95, 0.9), "map": (0.98, 0.9), "boxes": (0.9, 0.75)}
"""Good and fair shares of answers that are the same; boxes come and go with scores near the limit."""
_CHANCE = 0.05
"""What answers may be by chance without saying anything."""
_HALVINGS = 40


class Grade(Enum):
    """In a word."""

    GOOD = "good"
    FAIR = "fair"
    BAD = "bad"


@dataclass(frozen=True)
class OutputVerdict:
    """One output, or several that are read together.

    Attributes:
        blobs: its names.
        kind: see `answers`.
        comparison: of the numbers; for detections, of what goes into the layer that makes them.
        agreeing, asked: how many answers are the same, of how many; 0 of 0 for numbers.
        runs: how many samples were run.
        lost: of plain numbers, the parts in which INT8 says nothing; None where it says something everywhere.
    """

    blobs: tuple[str, ...]
    kind: str
    comparison: Comparison
    agreeing: int = 0
    asked: int = 0
    runs: int = 0
    lost: LostParts | None = None

    @property
    def agreement(self) -> float:
        """From 0 to 1; NaN where there is nothing to agree on."""
        return self.agreeing / self.asked if self.asked else math.nan

    @property
    def answers(self) -> int:
        """How many answers there are that may be right or wrong each by itself.

        A box that both networks find was asked for twice. The pixels of a map follow their neighbours.
        """
        return {"boxes": -(-self.asked // 2), "map": min(self.asked, self.runs)}.get(self.kind, self.asked)

    @property
    def interval(self) -> tuple[float, float]:
        """The least and the largest share of all images' answers that is likely with these few, 95% sure each."""
        count = self.answers
        if not count:
            return 0.0, 1.0
        same = self.agreement * count
        return _least_share(math.floor(same), count), 1 - _least_share(count - math.ceil(same), count)

    @property
    def grade(self) -> Grade:
        """By signal to noise, unless so many answers are the same, or are others, that they say more.

        Three equal classes of three may stand for 37 % of all: they make no network good that is not near in numbers.
        Numbers of which a part is lost are bad, whatever the others are: the lost ones may be the scores.
        """
        if self.lost is not None:
            return Grade.BAD
        snr, order = self.comparison.snr_db, list(Grade)
        by_numbers = Grade.GOOD if snr >= _GOOD_DB else Grade.FAIR if snr >= _FAIR_DB else Grade.BAD
        if not self.asked:
            return by_numbers
        least, most = self.interval
        # A map may lose its grade by the pixels that were seen: only what makes it better has to be sure.
        most = self.agreement if self.kind == "map" else most
        at_worst, at_best = self._by_share(least), self._by_share(most)
        return max(at_best, min(at_worst, by_numbers, key=order.index), key=order.index)

    def _by_share(self, share: float) -> Grade:
        good, fair = SHARES[self.kind]
        return Grade.GOOD if share >= good else Grade.FAIR if share >= fair else Grade.BAD

    @property
    def text(self) -> str:
        """The figures."""
        snr = self.comparison.snr_db
        parts = [f"{snr:.1f} dB" if math.isfinite(snr) else "exact" if snr > 0 else "no signal"]
        parts.append(f"cosine {self.comparison.cosine:.4f}")
        if self.asked:
            parts.append(self._agreement_text)
        if self.lost is not None:
            parts.append(self.lost.text)
        return ", ".join(parts)

    @property
    def _agreement_text(self) -> str:
        if self.kind == "map":
            return f"pixels with the same class {self.agreement:.1%}"
        surely = f"({self.interval[0]:.0%} or more of all, 95% sure)"
        if self.kind == "boxes":
            return f"boxes matched (F1) {self.agreement:.1%} of about {self.answers} {surely}"
        return f"same best class {self.agreeing} of {self.asked} {surely}"


@dataclass(frozen=True)
class Verdict:
    """A network in INT8 against FP32.

    Attributes:
        outputs: one by one.
        images: how many it was run on.
        held_out: whether these are others than those it was calibrated with.
    """

    outputs: tuple[OutputVerdict, ...]
    images: int
    held_out: bool

    @property
    def grade(self) -> Grade:
        """That of the worst output."""
        order = list(Grade)
        return max((output.grade for output in self.outputs), key=order.index, default=Grade.GOOD)

    @property
    def losing(self) -> OutputVerdict | None:
        """The first output of which parts are lost, which no repair brings back; None where there is none."""
        return next((one for one in self.outputs if one.lost is not None), None)

    @property
    def sentence(self) -> str:
        """What it means, and what to do next."""
        if self.losing is not None and self.losing.lost is not None:
            return _LOST.format(self.losing.blobs[0], self.losing.lost.advice)
        return _SENTENCES[self.grade]

    @property
    def samples(self) -> str:
        """Which images, in words."""
        which = "other images than those of the calibration" if self.held_out else "of the calibration's own images"
        return f"{self.images} {which}"


_SENTENCES = {
    Grade.GOOD: "INT8 follows FP32 closely; `calib8 evaluate` measures it with labels",
    Grade.FAIR: "INT8 loses a little; measure it with labels (`calib8 evaluate`), try another `method`, or tune it "
    "(`calib8 tune`)",
    Grade.BAD: "INT8 loses much; look at the images (`calib8 doctor`), try another `method`, then find the layer "
    "(`calib8 sensitivity`) and tune it or leave it in FP32 (`calib8 tune`)",
}
_LOST = (
    "{0!r} holds small numbers beside large ones, and one step of INT8 is larger than the small ones, at any signal to "
    "noise: {1}"
)


def output_verdict(
    answer: Answer,
    blobs: Sequence[str],
    comparisons: Mapping[str, Comparison],
    counts: Sequence[tuple[int, int]],
    lost: LostParts | None = None,
) -> OutputVerdict:
    """Judge one answer over all runs.

    Args:
        comparisons: of the values that stand for its outputs; the worst counts.
        counts: agreeing and asked, of each run.
        lost: as `OutputVerdict` has it.
    """
    worst = min(comparisons.values(), key=lambda c: c.snr_db, default=Comparison())
    agreeing, asked = (sum(numbers) for numbers in zip(*counts, strict=True)) if counts else (0, 0)
    return OutputVerdict(tuple(blobs), answer.kind, worst, agreeing, asked, len(counts), lost)


def _least_share(same: int, count: int) -> float:
    """The share from which on so many of so many are no rare chance (Clopper and Pearson), 0 to 1."""
    those = np.arange(same, count + 1)
    ways = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in those]
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS if same > 0 else 0):
        share = (low + high) / 2
        chance = np.exp(ways + those * math.log(share) + (count - those) * math.log1p(-share)).sum()
        low, high = (share, high) if chance < _CHANCE else (low, share)
    return low
