"""Options that say what counts as a good result."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib8.analyze.judges import Judge, QualityDrop, SquaredDifference, top1
from calib8.analyze.user_metric import user_metric
from calib8.analyze.yolo import Anchors, yolo_difference
from calib8.cli.samples import Samples, read_labels
from calib8.errors import OptionError
from calib8.lowering import Model

METRICS = """\
metrics, all of them as a loss, 0 for outputs that are those of FP32:
  difference        mean squared difference of each output, summed over outputs, averaged over images
  yolo              the same of boxes and scores, after decoding YOLO outputs; see --anchors
  top1              by how much top-1 accuracy falls; without labels, how often the best class is another than in FP32
  module:function   by how much function(fp32, int8) falls, or function(fp32, int8, labels) with labels: your own, in a
                    module in the working directory or on PYTHONPATH. fp32 and int8 are dicts, blob name -> array with
                    all images along axis 0; more is better"""


def add_judge_options(parser: argparse.ArgumentParser) -> Any:
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


def check_judge_options(options: argparse.Namespace, metrics: Sequence[str]) -> None:
    """Raises OptionError for options that none of these metrics reads."""
    if options.labels is not None and all(metric in ("difference", "yolo") for metric in metrics):
        raise OptionError(
            f"--labels are not read by --metric {metrics[0]}; they are for top1 and for functions of yours"
        )
    if options.anchors and "yolo" not in metrics:
        raise OptionError(f"--anchors are not read by --metric {metrics[0]}; they are for yolo")


def make_judge(name: str, options: argparse.Namespace, model: Model, samples: Samples, values: Sequence[str]) -> Judge:
    """The judge of a metric.

    Args:
        values: that stand for the network's outputs, for the built-in metrics.

    Raises:
        OptionError: no such metric, or options that it does not take.
        DataError: labels that cannot be used.
    """
    if name == "difference":
        return SquaredDifference(values)
    if name == "yolo":
        return yolo_difference(model, values, options.anchors)
    images = sum(len(next(iter(one.values()))) for one in samples.inputs)
    labels = samples.labels if options.labels is None else read_labels(options.labels, samples, images)
    if labels is not None and len(samples.inputs) != images:
        labels = labels.reshape(len(samples.inputs), -1)
    if name == "top1":
        return QualityDrop("top1", top1, values, labels)
    function, code = user_metric(name, model)
    return QualityDrop(name, function, model.net.outputs, labels, code)


def _anchors(text: str) -> Anchors:
    try:
        pairs = [tuple(float(number) for number in pair.split(",")) for pair in text.split()]
        return tuple((width, height) for width, height in pairs)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no anchors; expected pairs like '10,13 16,30'") from None
