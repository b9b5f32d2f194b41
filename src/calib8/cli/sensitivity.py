"""`calib8 sensitivity NAME PATH`: which layer costs the accuracy."""

from __future__ import annotations

import argparse
import importlib.util
import logging

from calib8.analyze.report import sensitivity_table
from calib8.analyze.sensitivity import Sensitivity
from calib8.atomic import claim_folder, write_together
from calib8.cli.cluster import workers_of
from calib8.cli.judging import metrics_of
from calib8.cli.measuring import measure_options
from calib8.cli.progress import ProgressLines
from calib8.cli.recording import entry_of, note, source_of
from calib8.cli.start import open_start, start_images
from calib8.cli.table import aligned
from calib8.errors import OptionError
from calib8.export.record import run_of
from calib8.reading import require_folder
from calib8.workflow import SensitivityOptions, draw_sensitivity, sensitivity, write_sensitivity
from calib8.workflow.recording import hashed

_log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Measure, write and print.

    Returns:
        The exit code.
    """
    if options.output is not None:
        require_folder(options.output, OptionError, "the results would go there")
    (metric,) = metrics_of(options, options.metric)
    judged = SensitivityOptions(options.samples, metric, options.threads, options.budget)
    output = options.output or options.path
    require_folder(options.path, OptionError, "it holds deploy.prototxt and custom.caffemodel")
    with claim_folder(output), ProgressLines() as progress:
        network, calibration = open_start(options, progress)
        with workers_of(options, network, start_images(options)) as workers:
            network, source = hashed(network)
            result = sensitivity(network, calibration, judged, progress, workers)
        picture = None
        if not options.no_picture and _can_draw():
            measured = measure_options(options).at_most(network.samples)
            picture = draw_sensitivity(network, options.name, result, measured, progress)
        progress.clear()
        samples, origin = source.samples(judged.count_for(network)), source_of(calibration.origin, output)
        run = run_of(options.name, network.model, calibration.plan)
        with write_together():
            paths = write_sensitivity(output, options.name, result, calibration.origin, picture)
            note(options, output, "sensitivity", entry_of(options, output, samples, thresholds=origin, run=run))
    rows = sensitivity_table(result)
    print(aligned(rows, right=range(2, len(rows[0]))))
    print(f"\neverything in INT8, {result.samples} samples: {_whole(result)}; thresholds: {calibration.origin}")
    print("\n".join(map(str, paths)))
    return 0


def _whole(result: Sensitivity) -> str:
    figures = [f"{result.judge} {result.whole_loss:.3g}", f"{result.whole.snr_db:.1f} dB"]
    figures.append(f"cosine {result.whole.cosine:.5f}")
    if result.whole.top1 == result.whole.top1:  # there are classes
        figures.append(f"top-1 as in FP32 {result.whole.top1:.2%}")
    return ", ".join(figures)


def _can_draw() -> bool:
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    _log.warning("no picture: there is no matplotlib (pip install 'calib8[plot]'); --no-picture silences this")
    return False
