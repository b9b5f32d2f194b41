"""`calib8 report NAME PATH`: one page that shows what INT8 does to a network."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from calib8.atomic import claim_folder, write_together
from calib8.cli.judging import metrics_of
from calib8.cli.measuring import calibrate_options
from calib8.cli.progress import ProgressLines
from calib8.cli.recording import entry_of, note, source_of
from calib8.cli.start import open_start
from calib8.errors import OptionError
from calib8.export import write_files
from calib8.export.record import calibrated_images, run_of
from calib8.reading import exists, read_file, require_folder
from calib8.report import report_html
from calib8.report.gather import FewSamples, ReportOptions, gather
from calib8.report.shown_samples import names_of_classes
from calib8.workflow import CalibrationResult, DiagnoseOptions
from calib8.workflow.recording import hashed

_MOST_CLASSES_BYTES = 1 << 20


def run(options: argparse.Namespace) -> int:
    """Measure and write.

    Returns:
        The exit code.
    """
    if options.output is not None:
        require_folder(options.output, OptionError, "the report would go there")
    metric = _metric(options)
    calibrated = calibrate_options(options)
    wanted = ReportOptions(
        diagnosis=DiagnoseOptions(**{**vars(calibrated), "iteration": options.examined}),
        sensitivity=FewSamples(options.samples, metric, options.threads, options.budget),
        shown=options.shown, classes=_classes(options.classes),
    )  # fmt: skip
    output = options.output or options.path
    require_folder(options.path, OptionError, "it holds deploy.prototxt and custom.caffemodel")
    with claim_folder(output):
        with ProgressLines() as progress:
            network, calibration = open_start(options, progress)
            network, source = hashed(network)
            wanted = replace(wanted, calibrated=_calibrated(calibration, options))
            gathered = gather(network, options.name, calibration, wanted, progress)
        page = report_html(gathered)
        entry = entry_of(
            options, output, source.samples(gathered.diagnosis.survey.images),
            thresholds=source_of(calibration.origin, output),
            run=run_of(options.name, network.model, calibration.plan),
            result={"verdict": gathered.verdict.grade.value, "samples": gathered.verdict.samples},
        )  # fmt: skip
        with write_together():
            (path,) = write_files(output, [(f"bmnet_{options.name}_report.html", page)])
            note(options, output, "report", entry)
    print(f"{gathered.verdict.grade.value}: {gathered.verdict.samples}")
    print(path)
    return 0


def _calibrated(calibration: CalibrationResult, options: argparse.Namespace) -> int:
    """With how many images, the first ones: as measured here, or as the record of the files says; else 0."""
    if calibration.histograms:
        return int(options.iteration)
    return (calibrated_images(calibration.origin) if exists(calibration.origin) else None) or 0


def _metric(options: argparse.Namespace) -> Any:
    (metric,) = metrics_of(options, options.metric)
    return metric


def _classes(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return names_of_classes(read_file(path, _MOST_CLASSES_BYTES, OptionError).decode("utf-8", "replace"))
