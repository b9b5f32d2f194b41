"""`calib8 thresholds FILE`: thresholds by any method from kept histograms, without running the network."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from calib8.atomic import claim_folder
from calib8.cli.calibrate import summary
from calib8.cli.table import aligned
from calib8.errors import OptionError
from calib8.export import write_calibration_files
from calib8.measure.histogram_file import HistogramSet, read_histograms
from calib8.measure.thresholds import METHODS, ThresholdOptions
from calib8.workflow import (
    CalibrateOptions,
    ComparedBlob,
    calibrate_from,
    compare_methods,
    methods_left_out,
    open_calibrated,
)


def run(options: argparse.Namespace) -> int:
    """Print the table, or write the files.

    Returns:
        The exit code.
    """
    histograms = read_histograms(options.file)
    if histograms.unfinished:
        raise OptionError(f"{options.file}: of a run that has not come to its end; run it again, it goes on there")
    choices = ThresholdOptions(options.ignore_zeros, options.percent)
    if options.name is not None:
        return _quantise(histograms, choices, options)
    methods = options.method or list(METHODS)
    print(f"{histograms.samples.size} samples, {histograms.identity.bins} bins")
    print(comparison(compare_methods(histograms, methods, choices, two_pass=options.two_pass)))
    for method in methods_left_out(histograms, methods, two_pass=options.two_pass):
        print(f"{method} needs exact counts, which the file does not have: see `calib8 merge --help`")
    return 0


def _quantise(histograms: HistogramSet, choices: ThresholdOptions, options: argparse.Namespace) -> int:
    if options.method is None or len(options.method) != 1:
        raise OptionError("say by which method the network is quantised: one `method=..`")
    output = options.output or options.path
    options.files.require()
    with claim_folder(output):
        return _write(output, histograms, choices, options)


def _write(output: Path, histograms: HistogramSet, choices: ThresholdOptions, options: argparse.Namespace) -> int:
    network = open_calibrated(options.files.definition, options.files.weights, histograms)
    identity = histograms.identity
    wanted = CalibrateOptions(
        iteration=int(histograms.samples.size), bins=identity.bins, two_pass=options.two_pass,
        method=options.method[0], threshold=choices, concat_quantize=identity.concat_quantize,
    )  # fmt: skip
    result = calibrate_from(network, histograms, wanted)
    paths = write_calibration_files(output, options.name, network.model, result.plan)
    print(summary(network.model, result))
    print("\n".join(str(path) for path in paths))
    return 0


def comparison(blobs: Sequence[ComparedBlob]) -> str:
    """Lay out a table: every blob with its largest |x| and all thresholds, and what the methods cost on average."""
    methods = list(blobs[0].by_method)
    rows = [("blob", "max|x|", *methods)]
    for one in blobs:
        found = ["dead" if one.dead else f"{one.by_method[m].threshold:.6g}" for m in methods]
        rows.append((one.name, f"{one.maximum:.6g}", *found))
    alive = [one for one in blobs if not one.dead]
    if alive:
        clipped = [sum(one.by_method[m].clipped for one in alive) / len(alive) for m in methods]
        rows.append(("clipped, mean", "", *(f"{share:.3%}" for share in clipped)))
        rows.append(("SNR in dB, mean", "", *(_mean([one.by_method[m].snr for one in alive]) for m in methods)))
        rows.append(("SNR in dB, least", "", *(f"{min(one.by_method[m].snr for one in alive):.1f}" for m in methods)))
    return aligned(rows, right=range(1, len(rows[0])))


def _mean(ratios: Sequence[float]) -> str:
    finite = [ratio for ratio in ratios if math.isfinite(ratio)]  # a blob of few values may lose nothing
    return f"{sum(finite) / len(finite):.1f}" if finite else ""
