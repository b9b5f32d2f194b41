"""Options that say how thresholds are found, and what is repaired."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import (
    DEFAULT_BINS,
    DEFAULT_PERCENT,
    METHOD_SUMMARIES,
    ORIGINAL_METHOD,
    REPAIR_LEVELS,
    REPAIR_PASSES,
)


def add_threshold_options(parser: argparse.ArgumentParser, method: str | None) -> None:
    """Add `--method` and what goes with it; `method` is its default, None for a command that has another one."""
    group = parser.add_argument_group("thresholds")
    methods = "; ".join(f"{name}: {what}" for name, what in METHOD_SUMMARIES.items())
    default = method or "take the files that PATH has, else several, and the best of them"
    which = group.add_mutually_exclusive_group()
    which.add_argument("--method", choices=METHOD_SUMMARIES, default=None, help=f"{methods} (default: {default})")
    which.add_argument(
        "--original", action="store_true",
        help=f"do what the original tool does, and nothing else: --method {ORIGINAL_METHOD}, and integers by the "
        "contract's own rounding",
    )  # fmt: skip
    group.add_argument(
        "--percent", type=float, default=DEFAULT_PERCENT, metavar="P",
        help="with --method percentile: this share of the values is not clipped (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--ignore-zeros", action="store_true",
        help="with --method percentile: leave zeros out of the distributions, as kl and kl-fine always do",
    )  # fmt: skip
    group.add_argument(
        "--bins", type=int, default=DEFAULT_BINS, metavar="N",
        help="bins of a histogram, a multiple of 128 (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--concat-quantize", action="store_true", help="every bottom of a Concat keeps a threshold of its own"
    )
    group.add_argument(
        "--thresholds", metavar="TABLE", type=Path,
        help="take the thresholds from a plain calibration table instead of measuring them; a repair moves none of "
        "them, and solves for the integers on the images, if there are any",
    )  # fmt: skip


def add_repair_options(parser: argparse.ArgumentParser) -> None:
    """Add `--repair` and what goes with it."""
    group = parser.add_argument_group("repair")
    repairs = "; ".join(f"{name}: {what}" for name, what in REPAIR_PASSES.items())
    group.add_argument(
        "--repair", choices=REPAIR_LEVELS, default="standard",
        help="what is done to lose less in INT8, judged on every fifth image, which nothing is solved on: standard "
        "takes seconds; thorough goes on from there and takes minutes; none rounds as the contract does (default: "
        "%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--without", action="append", choices=REPAIR_PASSES, default=[], metavar="PASS",
        help=f"leave a part of the repair out; may be given several times. {repairs}",
    )  # fmt: skip
