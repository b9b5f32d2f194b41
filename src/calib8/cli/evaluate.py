"""`calib8 evaluate NAME PATH`: how much accuracy INT8 costs, on labelled data."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path

from calib8.analyze.quality import Difference
from calib8.cli.judging import metrics_of
from calib8.cli.progress import ProgressLines
from calib8.cli.recording import entry_of, note_if_possible, source_of
from calib8.cli.start import open_start
from calib8.cli.table import aligned
from calib8.errors import OptionError
from calib8.export.record import run_of
from calib8.reading import exists, read_file, require_folder
from calib8.report.shown_samples import names_of_classes
from calib8.workflow import (
    CalibrationResult,
    EvaluateOptions,
    Network,
    QualityOptions,
    QualityReport,
    Truth,
    change_thresholds,
    evaluate,
    measure_quality,
    read_calibration,
    read_thresholds,
)
from calib8.workflow.recording import hashed

_MOST_BYTES = 1 << 20


def run(options: argparse.Namespace) -> int:
    """Measure and print.

    Returns:
        The exit code.
    """
    if options.output is not None:
        require_folder(options.output, OptionError, "the record would go there")
    if options.metric not in ("difference", "top1"):
        return _by_metric(options)
    layers = None if options.int8_layers is None else tuple(options.int8_layers.split(","))
    truth = Truth(
        options.labels, options.boxes, options.maps, options.pictures, _classes(options.classes),
        _classes(options.own_classes), options.peak,
    )  # fmt: skip
    wanted = QualityOptions(
        samples=options.samples, threads=options.threads, budget=options.budget, truth=truth, int8_layers=layers,
        anchors=options.anchors,
    )  # fmt: skip
    with ProgressLines() as progress:
        network, calibration = open_start(options, progress)
        network, source = hashed(network)
        tables: dict[str, CalibrationResult] = {}
        for path in options.tables:
            tables[str(path)] = _read(network, path)
        used = tables or {calibration.origin: calibration}
        report = measure_quality(network, used, wanted, progress)
    found = as_json(options.name, report)
    print(json.dumps(found, indent=1) if options.json else as_text(report))
    _note(options, network, used, source.samples(report.images), found)
    return 0


def _note(
    options: argparse.Namespace,
    network: Network,
    tables: Mapping[str, CalibrationResult],
    samples: Mapping[str, object],
    result: Mapping[str, object],
) -> None:
    """Write it into the record."""
    folder = options.output or options.path
    runs = [run_of(options.name, network.model, one.plan) for one in tables.values()]
    origins = [source_of(name, folder) for name in tables]
    if isinstance(tables_found := result.get("tables"), list):
        named = [{**one, "table": origin} for one, origin in zip(tables_found, origins, strict=True)]
        result = {**result, "tables": named}
    entry = entry_of(
        options, folder, samples, thresholds=", ".join(origins), run=runs[0] if len(runs) == 1 else "", result=result
    )
    note_if_possible(options, "evaluate", entry)


def _read(network: Network, path: Path) -> CalibrationResult:
    """A table, with the weights of its run where they lie beside it; of a plain one, which hands edit, thresholds."""
    if path.suffix in (".pb2", ".prototxt"):
        base, named, _ = path.name.partition("_calibration_table")
        weights = path.with_name(f"{base}_int8.caffemodel")
        return read_calibration(network, path, weights if named and exists(weights) else None)
    return change_thresholds(network, read_thresholds(network, path), origin=str(path))


def _by_metric(options: argparse.Namespace) -> int:
    """A function of the user's, or the difference of YOLO's boxes, over one table."""
    (metric,) = metrics_of(options, options.metric)
    with ProgressLines() as progress:
        network, calibration = open_start(options, progress)
        network, source = hashed(network)
        judged = EvaluateOptions(options.samples, metric, options.threads, options.budget)
        result = evaluate(network, calibration, judged, progress)
    figures = {"network": options.name, "samples": result.samples, "metric": result.metric, "loss": result.loss}
    figures |= {"fp32": result.fp32, "int8": result.int8}
    _note(options, network, {calibration.origin: calibration}, source.samples(result.samples), figures)
    if options.json:
        print(json.dumps(figures, indent=1))
    else:
        print(
            aligned(
                [
                    ("metric", "FP32", "INT8", "loss"),
                    (result.metric, *map(_plain, (result.fp32, result.int8, result.loss))),
                ]
            )
        )
    return 0


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _classes(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return names_of_classes(read_file(path, _MOST_BYTES, OptionError).decode("utf-8", "replace"))


def as_text(report: QualityReport) -> str:
    """Write a table for each calibration table, and what its figures mean."""
    parts = []
    for table in report.tables:
        rows = [("", "FP32", "INT8", "difference", "95 of 100 lie in"), *map(_row, table.differences)]
        snr, sentence = table.outputs.snr_db, table.differences[0].sentence
        near = f"outputs {snr:.1f} dB, cosine {table.outputs.cosine:.4f}" if math.isfinite(snr) else "outputs are equal"
        figures = aligned(rows, right=range(1, 5))
        parts.append(f"{table.name}, {report.images} images\n{figures}\n{near}; {sentence}")
    return "\n\n".join(parts)


def _row(one: Difference) -> tuple[str, ...]:
    return (
        one.measure, _figure(one, one.fp32), _figure(one, one.int8), _signed(one, one.difference),
        f"{_signed(one, one.low)} to {_signed(one, one.high)}",
    )  # fmt: skip


def _figure(one: Difference, value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.2%}" if one.unit == "%" else f"{value:.4f} {one.unit}".strip()


def _signed(one: Difference, value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{100 * value:+.2f}" if one.unit == "%" else f"{value:+.4f}"


def as_json(name: str, report: QualityReport) -> dict[str, object]:
    """Make the object that the help documents."""
    return {
        "network": name,
        "samples": report.images,
        "kind": report.kind,
        "tables": [
            {
                "table": table.name,
                "measures": [_difference_json(one) for one in table.differences],
                "outputs": {key: _finite(getattr(table.outputs, key)) for key in ("snr_db", "cosine", "top1")},
            }
            for table in report.tables
        ],
    }


def _difference_json(one: Difference) -> dict[str, object]:
    figures = {key: _finite(getattr(one, key)) for key in ("fp32", "int8", "difference", "low", "high")}
    return {"measure": one.measure, "unit": one.unit, **figures, "sentence": one.sentence}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
