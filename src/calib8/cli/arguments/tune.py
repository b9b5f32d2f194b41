"""The command line of `calib8 tune`."""

from __future__ import annotations

import argparse

from calib8.choices import SEARCHES, USUAL_SAMPLES
from calib8.cli.arguments.common_options import Commands
from calib8.cli.arguments.judge_options import METRICS, add_judge_options
from calib8.cli.arguments.start_options import add_start_options, spellings

_DESCRIPTION = """\
Tune the thresholds of a calibration, so that the INT8 network comes closer to the FP32 one.

Begins with the calibration files in PATH or, without any, with a calibration of its own. Thresholds are tried on
--samples images; what helps there is accepted if it does no harm on --held-out other ones. A search that was killed
goes on from where it was when the same command is given again. Into the output folder go
  the four bmnet_NAME files            as `calib8 calibrate` writes them, tuned
  bmnet_NAME_tuning.json               what was accepted; the loss before and after, on tuned and on held-out images
  report.log                           a line `layer difference` for each layer: INT8 up to it, at its own top
  bmnet_NAME_tuning.progress           the record of the search, with which it can go on
  with --max-drop:
  bmnet_NAME_mixed.json                the layers to keep in FP32, and what each of them buys
  bmnet_NAME_int8_layer.txt            the int8_layer string for int8_init
  bmnet_NAME_fp32_layers.txt           the layers in FP32, a line each, for the compiler"""

_EPILOG = f"""\
{METRICS}

searches:
  candidates   the best threshold method for the whole network; then for every threshold, in the order of the damage
               that its layers do, what all methods find, and values around the best: first with only the layers in
               INT8 that the threshold touches, then in the whole network; again while it pays. Judged by the metric at
               the network's outputs (`difference`: before a Softmax, the best classes weighing most)
  original     that of the BM1880's auto tuning tool: for every layer in order, threshold * 1.01^n until three trials in
               a row do not improve, then * 0.99^n; layers up to it in INT8; judged by the squared difference at its own
               top, or with --at outputs or a --metric by the metric at the network's outputs; held-out images decide
               nothing
  none         keep the thresholds, for --max-drop

examples:
  calib8 tune squeezenet models/squeezenet --images photos/ --resize crop --mean 104,117,123 --minutes 5
  calib8 tune yolov3 custom --data_list list.txt --image_params '{{"size": [416, 416], "padding": true}}' --metric yolo
  calib8 tune lenet models/lenet --search original --samples 10
  calib8 tune mine models/mine --samples 100 --labels labels.txt --max-drop 0.01"""

PARTS = ("all", "test", "tune")


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "tune", help="tune thresholds, and choose layers that stay in FP32", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_start_options(parser, samples=USUAL_SAMPLES["tune"], output="PATH/tuned")
    _add_search_options(parser)
    group = add_judge_options(parser)
    group.add_argument(
        "--max-drop", type=float, metavar="X",
        help="propose few layers to keep in FP32, so that --drop-metric is at most X over all images",
    )  # fmt: skip
    group.add_argument(
        "--drop-metric", metavar="METRIC", help="what may drop (default: --metric if that is a function, else top1)"
    )


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the search")
    group.add_argument("--search", choices=SEARCHES, default="candidates", help="see below (default: candidates)")
    group.add_argument("--minutes", type=float, metavar="M", help="stop then, with the best so far")
    group.add_argument(
        "--held-out", type=int, metavar="N",
        help="images that decide about what was found on the others, 0 for none (default: three times --samples, or, "
        "of few images, a third)",
    )  # fmt: skip
    group.add_argument(
        *spellings("ignore_layer_list"), dest="ignore_layer_list", default="", metavar="LAYERS",
        help="layers whose thresholds stay: names with commas, or a file with a name a line",
    )  # fmt: skip
    group.add_argument(
        "--at", choices=("layer", "outputs"),
        help="where --search original judges (default: layer; outputs with another --metric than difference)",
    )  # fmt: skip
    group.add_argument(
        "--part", choices=PARTS, default="all",
        help="one part of the original tool alone: test (only report.log: the difference of INT8 up to --layer, or of "
        "every layer), tune (only --layer, by the original's search)",
    )  # fmt: skip
    group.add_argument("--layer", default="", metavar="LAYER", help="the layer of --part")
    group.add_argument(
        "--difference", type=float, metavar="D", help="of --layer before tuning, as --part test has found it"
    )
