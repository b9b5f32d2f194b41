"""Options that say what counts as a good result."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.cli.arguments.common_options import OptionHolder

METRICS = """\
metrics, all of them as a loss, 0 for outputs that are those of FP32:
  difference        mean squared difference of each output, summed over outputs, averaged over images
  yolo              the same of boxes and scores, after decoding YOLO outputs; see --anchors
  top1              by how much top-1 accuracy falls; without labels, how often the best class is another than in FP32;
                    of the outputs that hold classes, the first counts
  module:function   by how much function(fp32, int8) falls, or function(fp32, int8, labels) with labels: your own, in a
                    module in the working directory or on PYTHONPATH. fp32 and int8 are dicts, blob name -> array with
                    all images along axis 0; more is better"""


def add_judge_options(parser: argparse.ArgumentParser) -> OptionHolder:
    """Add `--metric` and what goes with it; returns their group."""
    group = parser.add_argument_group("what counts")
    group.add_argument(
        "--metric", default="difference", metavar="METRIC",
        help="difference, yolo, top1, or module:function, a Python function of yours (default: %(default)s); see below",
    )  # fmt: skip
    group.add_argument(
        "--labels", metavar="FILE", type=Path,
        help="for top1 and your own: a number a line in the order of the images, or `file-name number` (default: those "
        "of the network's data layer, if it gives any)",
    )  # fmt: skip
    group.add_argument(
        "--anchors", metavar="'W,H W,H ..'", type=_anchors, default=(),
        help="for yolo: the anchors in pixels, from the finest map to the coarsest (default: those of YOLOv3)",
    )  # fmt: skip
    return group


def _anchors(text: str) -> tuple[tuple[float, float], ...]:
    try:
        pairs = [tuple(float(number) for number in pair.split(",")) for pair in text.split()]
        return tuple((width, height) for width, height in pairs)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no anchors; expected pairs like '10,13 16,30'") from None
