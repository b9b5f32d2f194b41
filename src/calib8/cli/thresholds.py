"""`calib8 thresholds FILE`: thresholds by any method from kept histograms, without running the network."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from calib8.atomic import claim_folder
from calib8.cli.calibrate import summary
from calib8.cli.network import PATH, name_or_model
from calib8.cli.options import Commands
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

_DESCRIPTION = """\
Find thresholds in a file of histograms that `calib8 calibrate --histograms` has written.

Without NAME and PATH, a table of all methods (or of those that --method names): a threshold for every blob, and under
it what the methods cost on average: the share of the values that they clip, and the signal to noise ratio of each blob
after quantisation. That is of the blobs alone; `calib8 tune` measures the network.

With NAME and PATH, the network in PATH is quantised by one --method, and the files of `calib8 calibrate` are written.
Neither runs the network, or reads its data."""

_EPILOG = """\
examples:
  calib8 thresholds all.hist
  calib8 thresholds all.hist --method mse --method percentile --percent 99.9
  calib8 thresholds all.hist squeezenet models/squeezenet --method mse"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "thresholds", help="find thresholds in kept histograms, and compare methods", description=_DESCRIPTION,
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", type=Path, help="histograms")
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=name_or_model,
        help="name of the network, in the files; or an ONNX model, named after its file",
    )  # fmt: skip
    parser.add_argument("path", metavar="PATH", nargs="?", type=Path, help=PATH)
    parser.add_argument(
        "--method", choices=METHODS, action="append", help="can be given several times for the table (default: all)"
    )
    parser.add_argument(
        "--percent", type=float, default=ThresholdOptions().percent, metavar="P",
        help="with --method percentile: this share of the values is not clipped (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ignore-zeros", action="store_true", help="with --method percentile: leave zeros out of the distributions"
    )
    parser.add_argument(
        "--two-pass", action="store_true",
        help="take exact counts for every method, where the file has them: of a run with --two-pass",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where the files go (default: PATH)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done, changed and left out")


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
