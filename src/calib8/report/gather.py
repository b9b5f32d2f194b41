"""`gather`: everything that a report shows, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from calib8.analyze.answers import answers_of
from calib8.choices import USUAL_SAMPLES
from calib8.errors import OptionError
from calib8.measure.histogram import BlobHistogram
from calib8.measure.thresholds import METHODS, find_threshold
from calib8.proto.text import is_onnx
from calib8.report.contents import Report, ShownSample
from calib8.workflow import (
    CalibrationResult,
    DiagnoseOptions,
    Network,
    Progress,
    ProgressCallback,
    SensitivityOptions,
    VerdictOptions,
    diagnose,
    sensitivity,
    verdict,
)
from calib8.workflow.diagnosing import given_recipe, image_input, name_of_sample
from calib8.workflow.progress import quiet
from calib8.workflow.recording import digest_or_nothing, versions
from calib8.workflow.samples import runs_of
from calib8.workflow.side_by_side import SideBySide


@dataclass(frozen=True)
class FewSamples(SensitivityOptions):
    """How layers are judged, on fewer samples than `sensitivity` takes by itself."""

    usual_samples: ClassVar[int] = USUAL_SAMPLES["report"]


@dataclass(frozen=True)
class ReportOptions:
    """What a report rests on.

    Attributes:
        diagnosis: over which images blobs are counted, and the doctor looks at the data.
        sensitivity: over which samples layers are judged, and by which metric.
        calibrated: how many images, the first ones, the network was calibrated with; 0 where nobody knows.
        judged: how many samples the verdict rests on, if there are so many.
        shown: how many samples are shown side by side.
        classes: names of classes, by number.

    Raises:
        OptionError: a number of samples below 1.
    """

    diagnosis: DiagnoseOptions = DiagnoseOptions()
    sensitivity: SensitivityOptions = FewSamples()
    calibrated: int = 0
    judged: int = 32
    shown: int = 4
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises OptionError."""
        if self.shown < 1:
            raise OptionError(f"`shown` is {self.shown}; it must be at least 1")


def gather(
    network: Network,
    name: str,
    calibration: CalibrationResult,
    options: ReportOptions = ReportOptions(),
    progress: ProgressCallback = quiet,
) -> Report:
    """Measure everything that a report shows.

    Raises:
        QuantizationError: nothing of the network runs in INT8.
        DataError, UserLayerError: the samples cannot be used, or there are fewer.
        OptionError: a metric that cannot judge the network's outputs.
    """
    found = sensitivity(network, calibration, options.sensitivity, progress)
    diagnosis = diagnose(network, options.diagnosis, progress)
    model = network.of_one_sample
    anchors = options.sensitivity.metric.anchors
    judged = VerdictOptions(options.calibrated, options.judged, options.diagnosis.threads, anchors)
    return Report(
        name=name,
        model=model,
        calibration=calibration,
        verdict=verdict(network, calibration.plan, judged),
        sensitivity=found,
        diagnosis=diagnosis,
        histograms=diagnosis.survey.whole,
        thresholds=_thresholds(diagnosis.survey.whole, options.diagnosis, progress),
        answers=answers_of(model, anchors),
        samples=_samples(network, calibration, options),
        recipe=given_recipe(network),
        classes=options.classes,
        record=_record(network, calibration, options, found.samples),
    )


def _thresholds(
    histograms: Mapping[str, BlobHistogram], options: DiagnoseOptions, progress: ProgressCallback
) -> dict[str, dict[str, float]]:
    """Of every method."""
    found = {}
    for done, (value, histogram) in enumerate(histograms.items()):
        progress(Progress("thresholds of all methods", done, len(histograms)))
        if not histogram.dead:
            found[value] = {method: find_threshold(histogram, method, options.threshold) for method in METHODS}
    return found


def _samples(network: Network, calibration: CalibrationResult, options: ReportOptions) -> tuple[ShownSample, ...]:
    model, source = network.of_one_sample, network.samples
    both, blob, name = (
        SideBySide(model, [calibration.plan], threads=options.diagnosis.threads),
        image_input(model),
        name_of_sample(source),
    )
    count = options.shown if source.size is None else min(options.shown, source.size)
    shown = []
    for index, inputs in enumerate(runs_of(network, count)):
        fp32, int8 = both.run(inputs)
        shown.append(ShownSample(name(index), None if blob is None else inputs[blob].copy(), fp32, int8))
    return tuple(shown)


def _record(network: Network, calibration: CalibrationResult, options: ReportOptions, judged: int) -> dict[str, str]:
    recipe = given_recipe(network)
    definition = Path(network.model.net.source)
    kind = "ONNX model" if is_onnx(definition) else "prototxt"
    found = {
        kind: f"{definition.name}, {digest_or_nothing(definition) or 'no file'}",
        "thresholds": calibration.origin,
        "preprocessing": "unknown" if recipe is None else recipe.text,
        "images looked at": str(options.diagnosis.at_most(network.samples).iteration),
        "samples for sensitivity": str(judged),
    }
    return found | versions()
