"""`Report`: everything that a report shows, from the same objects that the commands print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from calib8.analyze.answers import Answer
from calib8.analyze.doctor.recipes import Recipe
from calib8.analyze.sensitivity import Sensitivity
from calib8.analyze.verdict import Verdict
from calib8.lowering import Model
from calib8.measure.histogram import BlobHistogram
from calib8.workflow import CalibrationResult, Diagnosis

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ShownSample:
    """One sample, seen by both networks.

    Attributes:
        name: of its file, or its number.
        image: the input (1, C, H, W); None where the network takes no images.
        fp32, int8: the outputs, by value.
    """

    name: str
    image: Array | None
    fp32: Mapping[str, Array]
    int8: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Report:
    """What is known of a network in INT8.

    Attributes:
        name: the network's.
        model: of one sample.
        calibration: the integers, and where they come from.
        verdict: how well INT8 follows FP32.
        sensitivity: what each layer costs.
        diagnosis: what the doctor says.
        histograms: of |x|, by observed value.
        thresholds: by observed value, what each method finds.
        answers: what the outputs say.
        samples: some, side by side.
        recipe: how pixels became samples, to show them again.
        classes: names of classes, by number; () for numbers.
        record: what was done: texts by title.
    """

    name: str
    model: Model
    calibration: CalibrationResult
    verdict: Verdict
    sensitivity: Sensitivity
    diagnosis: Diagnosis
    histograms: Mapping[str, BlobHistogram]
    thresholds: Mapping[str, Mapping[str, float]]
    answers: tuple[Answer, ...]
    samples: tuple[ShownSample, ...]
    recipe: Recipe | None = None
    classes: tuple[str, ...] = ()
    record: Mapping[str, str] = field(default_factory=dict)
