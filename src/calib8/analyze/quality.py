"""Measures of quality against labels, and how sure the difference of two networks is.

A measure turns each sample into a part, and any choice of parts into a value: so samples can be drawn anew. The
difference between INT8 and FP32 comes with an interval from a paired bootstrap: samples are drawn with replacement,
both networks on the same ones; 95 of 100 differences lie in it. Source: B. Efron, R. Tibshirani, "An Introduction to
the Bootstrap", 1993, chapter 13 (percentile intervals).

- `TopK`: share of samples whose label is among the k best classes
- `MeanAveragePrecision`: as COCO's: precision at 101 recalls, mean over classes, and over overlaps from 0.5 to 0.95.
  Equal to pycocotools for boxes of all sizes without crowds.
- `MeanIou`: intersection over union of each class, over all pixels, mean over classes that occur
- `Psnr`, `Ssim`: of pictures against wanted ones, values from 0 to `peak`. SSIM with Gaussian windows of 11 pixels:
  Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calib8.analyze.answers import Answer, Boxes, Classes, ClassMap, Detection, Outputs, Picture, overlap
from calib8.graph import Array

Truth = Any
"""Of one sample: a class, boxes, a map (H, W), or a picture (1, C, H, W), as the measure wants it."""

RESAMPLINGS = 1000
_TAILS = (2.5, 97.5)
_RECALLS = np.linspace(0, 1, 101)
_COCO_OVERLAPS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2).tolist())
_MOST_DETECTIONS = 100
_FEW = 5
_LEAST_SCORE = 0.001
VOID = 255
"""The class of pixels that count for nothing."""
_WINDOW, _SIGMA = 11, 1.5


class Measure(ABC):
    """A measure of quality; more is better.

    Attributes:
        name: for people.
        unit: "%" for shares from 0 to 1, "dB" or "".
    """

    name: str
    unit: str = "%"

    @abstractmethod
    def part(self, outputs: Outputs, truth: Truth) -> Any:
        """Compute what one sample contributes."""

    @abstractmethod
    def value(self, parts: Sequence[Any], weights: NDArray[np.int64]) -> float:
        """Compute the value of so many of each part; NaN where there is nothing to measure."""


class TopK(Measure):
    """See the module's text."""

    def __init__(self, answer: Classes, k: int) -> None:
        self._answer, self._k, self.name = answer, k, f"top-{k}"

    def part(self, outputs: Outputs, truth: Truth) -> float:
        """Return 1 or 0; of equal scores the first class counts as the better one, as in Caffe."""
        scores = self._answer.scores(outputs)[0]
        best = np.argsort(-scores, kind="stable")[: self._k]
        return float(int(truth) in best)

    def value(self, parts: Sequence[float], weights: NDArray[np.int64]) -> float:
        """Take the mean."""
        return float(np.dot(parts, weights) / weights.sum())


@dataclass(frozen=True)
class _Matches:
    """One sample's detections and boxes: by class the scores, the hits at each overlap, and the number of boxes."""

    scores: dict[int, Array]
    hits: dict[int, Array]
    wanted: dict[int, int]


class MeanAveragePrecision(Measure):
    """See the module's text. Labels of detections and boxes are numbers of the same classes."""

    def __init__(self, answer: Boxes, overlaps: Sequence[float] = _COCO_OVERLAPS, name: str = "mAP 0.5:0.95") -> None:
        self._answer, self._overlaps, self.name = answer, tuple(overlaps), name

    def part(self, outputs: Outputs, truth: Sequence[Detection]) -> _Matches:
        """Match detections to boxes, the best score first, at each overlap."""
        detections = self._answer.detections(outputs, _LEAST_SCORE)
        labels = sorted({d.label for d in detections} | {t.label for t in truth})
        scores, hits, wanted = {}, {}, {}
        for label in labels:
            own = [d for d in detections if d.label == label][:_MOST_DETECTIONS]
            boxes = [t.box for t in truth if t.label == label]
            scores[label] = np.array([d.score for d in own])
            found_at = [_hits(own, boxes, limit) for limit in self._overlaps]
            hits[label] = np.array(found_at, bool).reshape(len(self._overlaps), len(own))
            wanted[label] = len(boxes)
        return _Matches(scores, hits, wanted)

    def value(self, parts: Sequence[_Matches], weights: NDArray[np.int64]) -> float:
        """Take the mean over classes that have boxes, and over overlaps."""
        labels = sorted({label for part in parts for label, number in part.wanted.items() if number})
        precisions = [self._of_class(label, parts, weights) for label in labels]
        known = [p for p in precisions if not np.isnan(p)]
        return float(np.mean(known)) if known else np.nan

    def _of_class(self, label: int, parts: Sequence[_Matches], weights: NDArray[np.int64]) -> float:
        wanted = sum(int(w) * part.wanted.get(label, 0) for part, w in zip(parts, weights, strict=True))
        if not wanted:
            return np.nan
        own = [(part, w) for part, w in zip(parts, weights, strict=True) if w and part.scores.get(label, _NONE).size]
        if not own:
            return 0.0
        scores = np.concatenate([part.scores[label] for part, _ in own])
        hits = np.concatenate([part.hits[label] for part, _ in own], axis=1)
        times = np.concatenate([np.full(part.scores[label].size, w) for part, w in own])
        order = np.argsort(-scores, kind="stable")
        return float(np.mean([_average_precision(row[order], times[order], wanted) for row in hits]))


_NONE = np.zeros(0)


def _hits(detections: Sequence[Detection], boxes: Sequence[Sequence[float]], limit: float) -> list[bool]:
    """Whether each detection takes a box that no better one has taken."""
    free = set(range(len(boxes)))
    hits = []
    for one in detections:
        near = [(overlap(one.box, boxes[b]), b) for b in free]
        best = max(near, default=(0.0, -1))
        hits.append(best[0] >= limit)
        if hits[-1]:
            free.remove(best[1])
    return hits


def _average_precision(hits: Array, times: Array, wanted: int) -> float:
    """The mean of the precision at 101 recalls; precision never falls with a lower recall."""
    true = np.cumsum(hits * times)
    precision = true / np.cumsum(times)
    recall = true / wanted
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.mean(np.where(places < len(best), best[np.minimum(places, len(best) - 1)], 0.0)))


class MeanIou(Measure):
    """See the module's text; pixels of class 255 count for nothing."""

    name = "mean IoU"

    def __init__(self, answer: ClassMap) -> None:
        self._answer = answer

    def part(self, outputs: Outputs, truth: Array) -> Array:
        """Count pixels by wanted and given class, (K, K); the truth is brought to the output's size."""
        given = self._answer.classes(outputs)[0]
        size = (given.shape[1], given.shape[0])
        wanted = cv2.resize(truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
        counted = wanted != VOID
        classes = int(max(given.max(initial=0), wanted[counted].max(initial=0))) + 1
        pairs = wanted[counted] * classes + given[counted]
        return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def value(self, parts: Sequence[Array], weights: NDArray[np.int64]) -> float:
        """Take the mean over classes that are wanted somewhere."""
        classes = max(part.shape[0] for part in parts)
        total = np.zeros((classes, classes))
        for part, weight in zip(parts, weights, strict=True):
            total[: part.shape[0], : part.shape[0]] += weight * part
        both, wanted = np.diag(total), total.sum(axis=1)
        union = wanted + total.sum(axis=0) - both
        return float(np.mean(both[wanted > 0] / union[wanted > 0])) if (wanted > 0).any() else np.nan


class Psnr(Measure):
    """Peak signal to noise ratio, in dB, of each sample; the mean of them."""

    name, unit = "PSNR", "dB"

    def __init__(self, answer: Picture, peak: float) -> None:
        self._value, self._peak = answer.values[0], peak

    def part(self, outputs: Outputs, truth: Array) -> float:
        """Compute that of one picture; at most 100 dB."""
        error = float(np.mean((outputs[self._value].astype(np.float64) - truth) ** 2))
        return float(10 * np.log10(self._peak**2 / max(error, self._peak**2 * 1e-10)))

    def value(self, parts: Sequence[float], weights: NDArray[np.int64]) -> float:
        """Take the mean."""
        return float(np.dot(parts, weights) / weights.sum())


class Ssim(Measure):
    """Structural similarity of each sample; the mean of them."""

    name, unit = "SSIM", ""

    def __init__(self, answer: Picture, peak: float) -> None:
        self._value, self._peak = answer.values[0], peak

    def part(self, outputs: Outputs, truth: Array) -> float:
        """Take the mean over channels."""
        return float(np.mean([self._of_plane(x, y) for x, y in zip(outputs[self._value][0], truth[0], strict=True)]))

    def value(self, parts: Sequence[float], weights: NDArray[np.int64]) -> float:
        """Take the mean."""
        return float(np.dot(parts, weights) / weights.sum())

    def _of_plane(self, x: Array, y: Array) -> float:
        x, y = x.astype(np.float64), y.astype(np.float64)
        # Means, then variances and the covariance, of each window; c1 and c2 keep what is flat from a division by 0.
        a, b = _blurred(x), _blurred(y)
        xx, yy, xy = _blurred(x * x) - a * a, _blurred(y * y) - b * b, _blurred(x * y) - a * b
        c1, c2 = (0.01 * self._peak) ** 2, (0.03 * self._peak) ** 2
        return float(np.mean((2 * a * b + c1) * (2 * xy + c2) / ((a * a + b * b + c1) * (xx + yy + c2))))


def _blurred(plane: Array) -> Array:
    """Gaussian windows that lie within the picture."""
    edge = _WINDOW // 2
    blurred = cv2.GaussianBlur(plane, (_WINDOW, _WINDOW), _SIGMA, borderType=cv2.BORDER_REFLECT)
    inner = np.asarray(blurred[edge:-edge, edge:-edge])
    return inner if inner.size else np.asarray(blurred)


@dataclass(frozen=True)
class Difference:
    """A measure of two networks on the same samples.

    Attributes:
        measure, unit: what was measured.
        fp32, int8: its values.
        low, high: the interval of `int8 - fp32`.
        images: how many samples.
    """

    measure: str
    unit: str
    fp32: float
    int8: float
    low: float
    high: float
    images: int

    @property
    def difference(self) -> float:
        """Below 0 for a loss."""
        return self.int8 - self.fp32

    @property
    def sentence(self) -> str:
        """Whether so few images can tell."""
        if not np.isfinite(self.low + self.high):
            return "there is nothing to measure it by"
        if self.low > 0:
            return "INT8 is better, more than chance explains"
        if self.high < 0:
            return "INT8 is worse, more than chance explains"
        return f"{self.images} images cannot tell INT8 from FP32"


def difference_of(measure: Measure, fp32: Sequence[Any], int8: Sequence[Any]) -> Difference:
    """Compare the parts of two networks, sample by sample."""
    once = np.ones(len(fp32), np.int64)
    values = measure.value(fp32, once), measure.value(int8, once)
    random = np.random.default_rng(0)  # the same interval every time
    differences = []
    for _ in range(RESAMPLINGS):
        weights = np.bincount(random.integers(0, len(fp32), len(fp32)), minlength=len(fp32))
        differences.append(measure.value(int8, weights) - measure.value(fp32, weights))
    known = [value for value in differences if np.isfinite(value)]
    low, high = np.percentile(known, _TAILS) if known else (np.nan, np.nan)
    return Difference(measure.name, measure.unit, *values, float(low), float(high), len(fp32))


def measures_for(answer: Answer, peak: float = 255.0, classes: int | None = None) -> tuple[Measure, ...]:
    """Choose what an answer is measured by; () for numbers, of whose meaning nothing is known.

    Args:
        classes: how many there are, if somebody knows: the best five of five are always right.
    """
    if isinstance(answer, Classes):
        return (TopK(answer, 1), TopK(answer, 5)) if classes is None or classes > _FEW else (TopK(answer, 1),)
    if isinstance(answer, Boxes):
        return MeanAveragePrecision(answer, (0.5,), "mAP 0.5"), MeanAveragePrecision(answer)
    if isinstance(answer, ClassMap):
        return (MeanIou(answer),)
    return (Psnr(answer, peak), Ssim(answer, peak)) if isinstance(answer, Picture) else ()
