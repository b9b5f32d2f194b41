"""`Verdict`: how well INT8 follows FP32, in a few figures and a sentence on what to do next. No labels are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from calib8.analyze.answers import Answer
from calib8.analyze.metrics import Comparison

_GOOD_DB, _FAIR_DB = 20.0, 10.0
SHARES = {"classes": (0.98, 0.9), "map": (0.98, 0.9), "boxes": (0.9, 0.75)}
"""Good and fair shares of answers that are the same; boxes come and go with scores near the limit."""
_AGREEMENTS = {"classes": "same best class", "boxes": "boxes matched (F1)", "map": "pixels with the same class"}


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
    """

    blobs: tuple[str, ...]
    kind: str
    comparison: Comparison
    agreeing: int = 0
    asked: int = 0

    @property
    def agreement(self) -> float:
        """From 0 to 1; NaN where there is nothing to agree on."""
        return self.agreeing / self.asked if self.asked else math.nan

    @property
    def grade(self) -> Grade:
        """By the answers where there are enough of them, else by signal to noise."""
        snr = self.comparison.snr_db
        by_numbers = Grade.GOOD if snr >= _GOOD_DB else Grade.FAIR if snr >= _FAIR_DB else Grade.BAD
        if not self.asked:
            return by_numbers
        share, (good, fair) = self.agreement, SHARES[self.kind]
        by_answers = Grade.GOOD if share >= good else Grade.FAIR if share >= fair else Grade.BAD
        order = list(Grade)
        # One of a few answers that changed says little: then numbers that are near count, too.
        few = self.asked - self.agreeing <= 1
        return min(by_answers, by_numbers, key=order.index) if few else by_answers

    @property
    def text(self) -> str:
        """The figures."""
        snr = self.comparison.snr_db
        parts = [f"{snr:.1f} dB" if math.isfinite(snr) else "exact" if snr > 0 else "no signal"]
        parts.append(f"cosine {self.comparison.cosine:.4f}")
        if self.asked:
            parts.append(f"{_AGREEMENTS[self.kind]} {self.agreement:.1%}")
        return ", ".join(parts)


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
    def sentence(self) -> str:
        """What it means, and what to do next."""
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


def output_verdict(
    answer: Answer, blobs: Sequence[str], comparisons: Mapping[str, Comparison], counts: Sequence[tuple[int, int]]
) -> OutputVerdict:
    """Judge one answer over all runs.

    Args:
        comparisons: of the values that stand for its outputs; the worst counts.
        counts: agreeing and asked, of each run.
    """
    worst = min(comparisons.values(), key=lambda c: c.snr_db, default=Comparison())
    return OutputVerdict(tuple(blobs), answer.kind, worst, sum(a for a, _ in counts), sum(n for _, n in counts))
