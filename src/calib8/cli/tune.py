"""`calib8 tune NAME PATH`: thresholds that bring INT8 closer to FP32, and layers that had better stay in FP32."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from calib8.cli.judging import METRICS, add_judge_options, check_judge_options
from calib8.cli.start import add_start_options, open_start, spellings
from calib8.cli.tuning import TuneRun, drop_metric
from calib8.errors import OptionError

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

SEARCHES = ("candidates", "original", "none")
PARTS = ("all", "test", "tune")


def add_parser(commands: Any) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "tune", help="tune thresholds, and choose layers that stay in FP32", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    add_start_options(parser, samples=10, output="PATH/tuned")
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


def run(options: argparse.Namespace) -> int:
    """Tune, write and print.

    Returns:
        The exit code.
    """
    _check(options)
    options.output = options.output or options.path / "tuned"
    searches_candidates = options.part == "all" and options.search == "candidates"
    found = TuneRun(options, open_start(options, with_histograms=searches_candidates), _ignored(options))
    return {"all": found.everything, "test": found.test, "tune": found.one_layer}[options.part]()


def _check(options: argparse.Namespace) -> None:
    problems = []
    if options.minutes is not None and not options.minutes > 0:
        problems.append(f"--minutes is {options.minutes}; it must be above 0")
    if options.held_out is not None and options.held_out < 0:
        problems.append(f"--held-out is {options.held_out}; it must be 0 or more")
    if options.max_drop is not None and not options.max_drop >= 0:
        problems.append(f"--max-drop is {options.max_drop}; it must be 0 or more")
    if options.drop_metric is not None and options.max_drop is None:
        problems.append("--drop-metric belongs to --max-drop")
    if options.difference is not None and not (math.isfinite(options.difference) and options.difference >= 0):
        problems.append(f"--difference is {options.difference}; it must be a number, 0 or more")
    if options.search == "none" and options.max_drop is None and options.part == "all":
        problems.append("--search none leaves nothing to do; give --max-drop, or choose a search")
    if options.part == "tune" and not options.layer:
        problems.append("--part tune needs --layer")
    if options.part == "all" and (options.layer or options.difference is not None):
        problems.append("--layer and --difference belong to --part test and --part tune")
    if problems:
        raise OptionError("calib8 tune cannot be run like this", problems)
    check_judge_options(options, [options.metric, *([] if options.max_drop is None else [drop_metric(options)])])


def _ignored(options: argparse.Namespace) -> frozenset[str]:
    text = options.ignore_layer_list
    try:
        if text and Path(text).is_file():
            text = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as why:
        raise OptionError(f"--ignore_layer_list {options.ignore_layer_list}: cannot be read: {why}") from None
    return frozenset(name for line in text.splitlines() for part in line.split(",") if (name := part.strip()))
