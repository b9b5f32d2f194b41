"""What `calib8 calibrate` does with histograms that are kept, counted in parts, or counted on a cluster."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace

from calib8.cli.cluster import import_dask, network_files
from calib8.cli.images import images_of, open_files, without_bad
from calib8.cli.measuring import settle_iteration, wanted_of
from calib8.cli.progress import ProgressLines
from calib8.measure.histogram_file import read_histograms
from calib8.workflow import (
    CalibrationResult,
    CountOptions,
    Network,
    calibrate_counted,
    count_on_cluster,
    count_to_file,
    part_of,
)
from calib8.workflow.recording import described

_log = logging.getLogger(__name__)
_ONE_PASS = "max"  # a method that needs no exact counts


def count_shard(options: argparse.Namespace) -> int:
    """Count a part; other parts may be counted at the same time, with files in the same folder.

    Returns:
        The exit code.
    """
    wanted, maxima = wanted_of(options), None
    if options.maxima is not None:
        maxima = read_histograms(options.maxima)
    else:  # exact counts over the maxima of a part would have to be counted again
        wanted = replace(wanted, method=_ONE_PASS, two_pass=False)
    with ProgressLines() as progress:
        network = open_files(options)
        network = without_bad(network, options)
        settle_iteration(options, network)
        wanted = replace(wanted, iteration=options.iteration)
        part = part_of(network, options.iteration, *options.shard)
        counted = count_to_file(network, wanted, options.histograms, CountOptions(part, maxima), progress)
    samples = f"{counted.samples.size} samples, {part.start + 1} to {part.stop} of {options.iteration}"
    print(f"{options.histograms}: {samples}")
    return 0


def calibrate_kept(
    network: Network, options: argparse.Namespace, progress: ProgressLines
) -> tuple[CalibrationResult, dict[str, object]]:
    """Calibrate as always, but count into a file, or on a cluster, or both; with a description of the samples."""
    wanted = wanted_of(options)
    if options.cluster is None:
        counted = count_to_file(network, wanted, options.histograms, progress=progress)
    else:
        import_dask()
        files = network_files(options, network, images_of(options))
        counted = count_on_cluster(network, files, wanted, options.cluster, progress, path=options.histograms)
    return calibrate_counted(network, counted, wanted, progress), described(counted.samples)
