"""The command line of `calib8 thresholds`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import DEFAULT_PERCENT, METHOD_SUMMARIES
from calib8.cli.arguments.common_options import Commands
from calib8.cli.arguments.network import PATH, name_or_model

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
    parser.add_argument("file", metavar="FILE", type=Path, help="histograms")
    parser.add_argument(
        "name", metavar="NAME", nargs="?", type=name_or_model,
        help="name of the network, in the files; or an ONNX model, named after its file",
    )  # fmt: skip
    parser.add_argument("path", metavar="PATH", nargs="?", type=Path, help=PATH)
    parser.add_argument(
        "--method", choices=METHOD_SUMMARIES, action="append",
        help="can be given several times for the table (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--percent", type=float, default=DEFAULT_PERCENT, metavar="P",
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
