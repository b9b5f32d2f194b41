"""`calib8 sensitivity NAME PATH`: which layer costs the accuracy."""

from __future__ import annotations

import argparse
import importlib.util
import logging

from calib8.analyze.report import SENSITIVITY_HEADER, sensitivity_rows
from calib8.analyze.sensitivity import Sensitivity
from calib8.atomic import claim_folder, write_together
from calib8.cli.cluster_options import workers_of
from calib8.cli.judging import METRICS, add_judge_options, metrics_of
from calib8.cli.options import Commands
from calib8.cli.progress import ProgressLines
from calib8.cli.recording import entry_of, note, source_of
from calib8.cli.start import add_start_options, open_start, start_images
from calib8.cli.table import aligned
from calib8.cli.threshold_options import measure_options
from calib8.errors import OptionError
from calib8.export.record import run_of
from calib8.reading import require_folder
from calib8.workflow import SensitivityOptions, draw_sensitivity, sensitivity, write_sensitivity
from calib8.workflow.recording import hashed

_log = logging.getLogger(__name__)

_DESCRIPTION = """\
Say which layer costs the accuracy.

Every layer that can run in INT8 (a BatchNorm together with its Scale) is judged in three networks: alone in INT8,
together with all layers before it, and as the only one that stays in FP32. The thresholds are those of the
calibration files in PATH, of a table, or measured here. The table has a row for each layer, the one that does most
harm alone first:
  loss              what the metric says of the layer alone
  SNR, cosine, top-1
                    of the outputs against FP32: signal to noise, cosine, how often the best class is the same
  own SNR           at the layer's own top
  cumulative SNR, SNR without
                    at the outputs: with all layers up to this one in INT8; with all but this one in INT8
  saturated, codes used
                    of the codes of its top: how many are -128 or 127, how many of the 256 occur
Into the output folder go
  bmnet_NAME_sensitivity.json, .csv    all figures
  bmnet_NAME_sensitivity.png           damage along the network; values and thresholds of the worst layers"""

_EPILOG = f"""\
{METRICS}

examples:
  calib8 sensitivity lenet models/lenet --samples 50
  calib8 sensitivity squeezenet models/squeezenet --images photos/ --resize crop --mean 104,117,123 --method mse
  calib8 sensitivity mine models/mine --labels labels.txt --metric mymetrics:accuracy

what the JSON file holds, one object (keys are added, never renamed or removed):
  network, thresholds, samples, metric
                  the name, where the thresholds come from, how many images, which metric
  int8            {{"loss", "outputs"}} of the network with everything in INT8
  units           [{{"layers", "type", "threshold", "saturation", "codes_in_use", "alone", "cumulative", "without"}}] in
                  the order of the network; the last three are {{"loss", "outputs", "own_top"}}
  outputs and own_top are {{"cosine", "snr_db", "mse", "top1"}}; null for infinite (no error) or not applicable. Of
  several outputs the worst counts, but for mse, which is summed."""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "sensitivity", help="say which layer costs the accuracy", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    add_start_options(parser, samples=20, output="PATH")
    add_judge_options(parser)
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")


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
    print(aligned([SENSITIVITY_HEADER, *sensitivity_rows(result)], right=range(2, len(SENSITIVITY_HEADER))))
    print(f"\neverything in INT8, {result.samples} samples: {_whole(result)}; thresholds: {calibration.origin}")
    print("\n".join(map(str, paths)))
    return 0


def _whole(result: Sensitivity) -> str:
    figures = [f"{result.judge} {result.whole_loss:.3g}", f"{result.whole.snr_db:.1f} dB"]
    figures.append(f"cosine {result.whole.cosine:.5f}")
    if result.whole.top1 == result.whole.top1:  # there are channels
        figures.append(f"top-1 as in FP32 {result.whole.top1:.2%}")
    return ", ".join(figures)


def _can_draw() -> bool:
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    _log.warning("no picture: there is no matplotlib (pip install 'calib8[plot]'); --no-picture silences this")
    return False
