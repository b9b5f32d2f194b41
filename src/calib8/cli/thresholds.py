"""Options that say how thresholds are found, and thresholds that are given."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.calibrate.histogram import DEFAULT_BINS
from calib8.calibrate.thresholds import DEFAULT_METHOD, METHODS, ThresholdOptions
from calib8.calibration import Calibration
from calib8.errors import OptionError
from calib8.export import read_plain_table


def add_threshold_options(parser: argparse.ArgumentParser, method: str | None) -> None:
    """Add `--method` and what goes with it; `method` is its default, None for a command that has another one."""
    group = parser.add_argument_group("thresholds")
    methods = "; ".join(f"{m.name}: {m.summary}" for m in METHODS.values())
    default = method or f"take the files that PATH has, else {DEFAULT_METHOD}"
    group.add_argument("--method", choices=METHODS, default=method, help=f"{methods} (default: {default})")
    group.add_argument(
        "--percent", type=float, default=ThresholdOptions().percent, metavar="P",
        help="with --method percentile: this share of the values is not clipped (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--ignore-zeros", action="store_true", help="leave zeros out of the distributions")
    group.add_argument(
        "--bins", type=int, default=DEFAULT_BINS, metavar="N",
        help="bins of a histogram, a multiple of 128 (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--concat-quantize", action="store_true", help="every bottom of a Concat keeps a threshold of its own"
    )
    group.add_argument(
        "--thresholds", metavar="TABLE", type=Path,
        help="take the thresholds from a plain calibration table instead of measuring them",
    )  # fmt: skip


def given_thresholds(path: Path, calibration: Calibration) -> dict[str, float]:
    """The thresholds of a plain calibration table, by the names that `Calibration.tune_tables` takes.

    Raises:
        OptionError: the file cannot be read.
        TableError: it does not belong to the network.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as why:
        raise OptionError(f"{path}: cannot be read as a plain calibration table: {why}") from None
    net = calibration.model.net
    found = read_plain_table(text, calibration.model, str(path))
    # By layer, as in the file: a blob that is overwritten in place has a threshold for each of its layers.
    return {net.producer[v].name if net.producer[v].tops[0] == v else v: t for v, t in found.items()}
