"""The command line of `calib8 report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import USUAL_SAMPLES
from calib8.cli.arguments.common_options import Commands
from calib8.cli.arguments.judge_options import METRICS, add_judge_options
from calib8.cli.arguments.start_options import add_start_options

_DESCRIPTION = """\
Write a page that shows what INT8 does to a network: bmnet_NAME_report.html, one file that opens in any browser,
offline, and asks nobody for anything. On it are
  the verdict        how well INT8 follows FP32, and what to do next
  the network        each layer coloured by the damage that it does alone
  layers             the sensitivity as a table that can be sorted and searched
  samples            FP32 and INT8 side by side: best classes, boxes, maps of classes, pictures
  the doctor         whether the images, and what is done to them, are the right ones
  every blob         its distribution, the thresholds of all methods, what they clip; ranges by channel

The thresholds are those of the calibration files in PATH, of a table, or measured here."""

_EPILOG = f"""\
{METRICS}

examples:
  calib8 report lenet models/lenet
  calib8 report squeezenet models/squeezenet --images photos/ --resize crop --mean 104,117,123 --classes synset.txt
  calib8 report yolo models/yolo --images photos/ --color rgb --scale 0.00392 --anchors '26,48 67,84 72,175 ..'"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "report", help="write one page that shows what INT8 does", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_start_options(parser, samples=USUAL_SAMPLES["report"], output="PATH")
    add_judge_options(parser)
    group = parser.add_argument_group("the page")
    group.add_argument("--classes", metavar="FILE", type=Path, help="names of the network's classes, one a line")
    group.add_argument(
        "--shown",
        type=int,
        default=4,
        metavar="N",
        help="how many samples are shown side by side (default: %(default)s)",
    )
    group.add_argument(
        "--examined", type=int, default=100, metavar="N",
        help="how many images blobs are counted on, and the doctor looks at, at most (default: %(default)s)",
    )  # fmt: skip
