"""Options of `calib8 calibrate` for histograms that are kept, counted in parts, or counted on a cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.cli.arguments.cluster_option import add_cluster_option


def add_histogram_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("many images")
    group.add_argument(
        "--histograms", metavar="FILE", type=Path,
        help="keep what is counted in this file, for `calib8 thresholds` and `calib8 merge`; go on with what it "
        "has, or where an interrupted run was. Nothing is repaired, and without --method it is kl",
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
