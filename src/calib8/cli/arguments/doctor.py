"""The command line of `calib8 doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import DEFAULT_METHOD
from calib8.cli.arguments.common_options import Commands, add_common_options, add_gpu_option
from calib8.cli.arguments.image_options import add_image_options
from calib8.cli.arguments.network import add_network_arguments
from calib8.cli.arguments.threshold_options import add_threshold_options

_DESCRIPTION = """\
Say whether the images are the right ones, before you trust a calibration. No labels are needed.

  preprocessing  A network with BatchNorm remembers the mean and the variance of what it was trained with. They are
                 compared with those of your images, for the preprocessing that you gave and for the usual mistakes:
                 RGB for BGR, another mean, another scale, another way to resize. Without BatchNorm it is told from
                 how often rectifiers are on, which is weaker.
  images         Thresholds from one half of the images against those from the other: are there enough?
  samples        Constant ones, NaN, near duplicates, and those that alone set the range of many blobs.
  network        Dead channels, huge ones, branches that vanish beside another, saturated biases.

A problem will cost you; a hint is worth a look, and may be meant so."""

_EPILOG = """\
examples:
  calib8 doctor squeezenet models/squeezenet --images photos/ --resize crop --mean 104,117,123
  calib8 doctor lenet models/lenet -n 200 --json

what --json prints, one object (keys are added, never renamed or removed):
  network, images  the name, and how many images were looked at
  preprocessing    {"evidence", "kind", "given", "others", "tried", "sentence"}; given and others are {"recipe":
                   {"order", "mean", "scale"}, "what", "misfit", "gain", "sure", "alike"}; kind is "batchnorm",
                   "balance" or "" for none; alike is true for what the evidence cannot tell from the given one
  convergence      {"typical", "enough", "errors"}: the relative errors of thresholds by blob, their root mean square,
                   and how many images would bring it to 0.03, about
  findings         [{"area", "severity", "subject", "text", "advice"}]; severity is "problem" or "hint"

The exit code is 0, whatever is found."""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "doctor", help="say whether images and preprocessing are right", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_network_arguments(parser, "name of the network, for the output")
    parser.add_argument(
        "-n", "--iteration", type=int, default=100, metavar="N",
        help="how many images are looked at, at most (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where the record goes (default: PATH)")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
    add_threshold_options(parser, DEFAULT_METHOD)
    group = parser.add_argument_group("running")
    add_gpu_option(group)
    add_common_options(group)
    add_image_options(parser)
