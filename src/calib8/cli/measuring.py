"""How values are measured and thresholds found, as the options say it."""

from __future__ import annotations

import argparse
from dataclasses import replace

from calib8.measure.thresholds import ThresholdOptions
from calib8.workflow import CalibrateOptions, MeasureOptions, Network


def settle_iteration(options: argparse.Namespace, network: Network) -> None:
    """Set how many images are used: where the command does not say it, and where `--skip-bad` leaves fewer."""
    asked = CalibrateOptions().iteration if options.iteration is None else options.iteration
    if network.source is not None and (options.iteration is None or options.skip_bad):
        asked = min(asked, network.samples.size or asked)
    options.iteration = asked


def measure_options(options: argparse.Namespace) -> MeasureOptions:
    """Read how values are measured."""
    return MeasureOptions(iteration=options.iteration, bins=options.bins, threads=options.threads)


def calibrate_options(options: argparse.Namespace) -> CalibrateOptions:
    """Read how values are measured, and thresholds found in them."""
    wanted = CalibrateOptions(
        **vars(measure_options(options)), method=options.method,
        repair=getattr(options, "repair", "none"), without=frozenset(getattr(options, "without", ())),
        threshold=ThresholdOptions(percent=options.percent, ignore_zeros=options.ignore_zeros),
        concat_quantize=options.concat_quantize,
    )  # fmt: skip
    return wanted.as_original() if options.original else wanted


def wanted_of(options: argparse.Namespace) -> CalibrateOptions:
    """Read how a network is calibrated, and how it is run for that."""
    return replace(calibrate_options(options), two_pass=options.two_pass, memory_opt=options.memory_opt)


def as_one_run(options: argparse.Namespace) -> argparse.Namespace:
    """The options of a run that counts nothing into files and gives the same bytes, for the record."""
    wanted = calibrate_options(options)
    method = options.method if options.original or wanted.repair != "none" else wanted.one_method
    return argparse.Namespace(**{**vars(options), "method": method})
