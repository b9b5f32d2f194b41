"""The command line of `calib8 sensitivity`."""

from __future__ import annotations

import argparse

from calib8.choices import USUAL_SAMPLES
from calib8.cli.arguments.common_options import Commands
from calib8.cli.arguments.judge_options import METRICS, add_judge_options
from calib8.cli.arguments.start_options import add_start_options

_DESCRIPTION = """\
Say which layer costs the accuracy.

Every layer that can run in INT8 (a BatchNorm together with its Scale) is judged in three networks: alone in INT8,
together with all layers before it, and as the only one that stays in FP32. The thresholds are those of the
calibration files in PATH, of a table, or measured here. The table has a row for each layer, the one that does most
harm alone first:
  loss              what the metric says of the layer alone
  SNR, cosine, top-1
                    of the outputs against FP32: signal to noise, cosine, how often the best class is the same, where
                    outputs hold classes
  own SNR           at the layer's own top; of a convolution with units of channels, behind its BatchNorm and ReLU
  cumulative SNR, SNR without
                    at the outputs: with all layers up to this one in INT8; with all but this one in INT8
  saturated, codes used
                    of the codes of its top: how many are -128 or 127, how many of the 256 occur; before a BatchNorm,
                    what the ReLU behind it takes away has no room, is -128 or 127, and costs nothing
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
    add_start_options(parser, samples=USUAL_SAMPLES["sensitivity"], output="PATH")
    add_judge_options(parser)
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")
