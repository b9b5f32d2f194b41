"""Options of `calib8 calibrate` for histograms that are kept, counted in parts, or counted on a cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.cli.arguments.cluster_option import add_cluster_option
from calib8.errors import OptionError


def add_histogram_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("many images")
    group.add_argument(
        "--histograms", metavar="FILE", type=Path,
        help="keep what is counted in this file, for `calib8 thresholds` and `calib8 merge`; go on with what it "
        "has, or where an interrupted run was",
    )  # fmt: skip
    group.add_argument(
        "--shard", metavar="I/N", type=_shard,
        help="with --histograms: count only part I of N of the images, and write nothing but the histograms",
    )  # fmt: skip
    group.add_argument(
        "--maxima", metavar="FILE", type=Path,
        help="with --shard: count exactly, for --method kl or --two-pass, over the maxima of these histograms, which "
        "are those of all parts merged",
    )  # fmt: skip
    add_cluster_option(group, "count")


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not all(part.isascii() and part.isdigit() and len(part) < 8 for part in (index, count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; expected I/N, like 2/4 for the second of four")
    return int(index), int(count)


def check_histogram_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        OptionError: which.
    """
    if options.thresholds is not None and (options.histograms is not None or options.cluster is not None):
        raise OptionError("`thresholds` are given, so that there is nothing to count: no `histograms`, no `cluster`")
    if options.cluster is not None and options.shard is not None:
        raise OptionError("`cluster` cuts the images itself: leave out `shard`")
    if options.shard is not None and options.histograms is None:
        raise OptionError("`shard` counts a part of the images into a file: say `histograms=..`")
    if options.maxima is not None and options.shard is None:
        raise OptionError("`maxima` are for parts of the data: say `shard=..`, 1/1 for all images of this machine")
