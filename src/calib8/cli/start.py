"""What `calib8 sensitivity` and `calib8 tune` begin with: a network, its thresholds, and samples to run it on."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib8.analyze.experiment import DEFAULT_BUDGET
from calib8.calibrate.collect import CollectOptions, collect_histograms
from calib8.calibrate.histogram import BlobHistogram
from calib8.calibrate.thresholds import DEFAULT_METHOD, ThresholdOptions
from calib8.calibration import Calibration
from calib8.cli.images import add_image_options, images_of
from calib8.cli.options import add_common_options, add_gpu_option, network_name
from calib8.cli.progress import ProgressLine
from calib8.cli.samples import Samples, read_samples
from calib8.cli.thresholds import add_threshold_options
from calib8.data import SampleSource, open_source, read_image_params, takes
from calib8.engine import EngineOptions
from calib8.errors import DataError, OptionError, QuantizationError
from calib8.export import read_plan
from calib8.lowering import Model
from calib8.proto.text import Prototxt, read_prototxt
from calib8.quantize import QuantPlan, observed_values, settled
from calib8.workflow import data_layer, read_thresholds

_log = logging.getLogger(__name__)
_MEGABYTE = 1 << 20


def add_start_options(parser: argparse.ArgumentParser, samples: int, output: str) -> None:
    """Add everything that both commands share.

    Args:
        samples: how many images are run by default.
        output: where the results go by default, for the help.
    """
    parser.add_argument(
        "name", metavar="NAME", type=network_name, help="name of the network, in the files and in the table"
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="folder with deploy.prototxt and custom.caffemodel")
    for option, what in (
        ("model", "the FP32 weights (default: custom.caffemodel in PATH)"),
        ("proto", "the network (default: deploy.prototxt in PATH)"),
        ("calibration_model", "the INT8 weights to begin with (default: bmnet_NAME_int8.caffemodel in PATH)"),
        (
            "calibration_proto",
            "the calibration table to begin with (default: bmnet_NAME_calibration_table.pb2 in PATH)",
        ),
    ):
        parser.add_argument(*spellings(option), dest=option, metavar="FILE", type=Path, help=what)
    parser.add_argument(
        "--output", *spellings("output_path"), dest="output", metavar="FOLDER", type=Path,
        help=f"where the results go (default: {output})",
    )  # fmt: skip
    parser.add_argument(
        "--samples", *spellings("data_limit"), dest="samples", type=int, default=samples, metavar="N",
        help="how many images the network is run on (default: %(default)s)",
    )  # fmt: skip
    add_threshold_options(parser, None)
    parser.add_argument(
        "-n", "--iteration", type=int, default=10, metavar="N",
        help="how many images thresholds are measured on (default: 10)",
    )  # fmt: skip
    group = parser.add_argument_group("running")
    group.add_argument(
        "--budget", type=int, default=DEFAULT_BUDGET // _MEGABYTE, metavar="MB",
        help="most memory for values that are kept between runs; less of it is slower (default: %(default)s)",
    )  # fmt: skip
    add_gpu_option(group)
    add_common_options(group)
    add_image_options(parser)
    group = parser.add_argument_group("images, by the names of the auto tuning tool")
    group.add_argument(*spellings("data_list"), dest="images", metavar="LIST", help="the same as --images")
    group.add_argument(
        *spellings("image_params"), dest="image_params", metavar="JSON",
        help="in the place of all options above: an object with size [h, w], padding, mirror, color_format, r_mean, "
        "g_mean, b_mean, scale",
    )  # fmt: skip


def spellings(option: str) -> tuple[str, ...]:
    """An option of the original, with its underscores and with dashes."""
    return tuple(dict.fromkeys((f"--{option}", f"--{option.replace('_', '-')}")))


@dataclass(frozen=True)
class Start:
    """A quantised network.

    Attributes:
        prototxt, source: the network's text, and its samples.
        model: of one sample, or of a whole batch where samples are not independent.
        plan: the integers to begin with.
        origin: where they come from, for reports.
        histograms: by value; empty where none were asked for.
        whole: the model with the batch of its prototxt, which the files are written for.
    """

    prototxt: Prototxt
    source: SampleSource
    model: Model
    plan: QuantPlan
    origin: str
    histograms: Mapping[str, BlobHistogram]
    whole: Model

    def samples(self, count: int) -> Samples:
        """The first samples.

        Raises:
            OptionError: a count below 1.
            DataError: there are fewer, or they do not fit the network.
        """
        if count < 1:
            raise OptionError(f"--samples is {count}; it must be at least 1")
        size = self.source.size
        if size is not None and count > size:
            raise DataError(f"--samples asks for {count} images, and the data have {size}")
        return read_samples(self.model, self.source, count)


def open_start(options: argparse.Namespace, *, with_histograms: bool) -> Start:
    """Read the network, and its thresholds: from `--thresholds`, from the files of PATH, or measured.

    Raises:
        Calib8Error: whatever is wrong with any of them.
    """
    check_start(options)
    proto = options.proto or options.path / "deploy.prototxt"
    prototxt = read_prototxt(proto)
    source = _source(options, prototxt)
    info = {
        "model_name": options.name,
        "in_prototxt": proto,
        "in_caffemodel": options.model or options.path / "custom.caffemodel",
        "iteration": _iteration(options, source),
        "histogram_bin_num": options.bins,
        "enable_concat_quantize": options.concat_quantize,
    }
    with ProgressLine("calibrating", info["iteration"]) as progress:
        calibration = Calibration(
            info, source=source, method=options.method or DEFAULT_METHOD,
            threshold_options=ThresholdOptions(percent=options.percent, ignore_zeros=options.ignore_zeros),
            threads=options.threads, progress=progress,
        )  # fmt: skip
        plan, origin = _plan(options, calibration)
        histograms = calibration.histograms
        if with_histograms and not histograms:
            observed = observed_values(calibration.model, plan.enable_concat_quantize)
            histograms = histograms_of(options, calibration.model, source, observed, progress)
    if all(own is None for own in plan.forms.values()):
        raise QuantizationError(
            f"{proto}: no layer of this network runs in INT8, so there is nothing to judge or to tune"
        )
    single = calibration.model.batch_of_one()
    return Start(prototxt, source, single or calibration.model, plan, origin, histograms, calibration.model)


def check_start(options: argparse.Namespace) -> None:
    """What would be found out too late.

    Raises:
        OptionError: no such folder, less memory than none.
    """
    if not options.path.is_dir():
        raise OptionError(f"{options.path}: no such folder; it holds deploy.prototxt and custom.caffemodel")
    if options.budget < 0:
        raise OptionError(f"--budget is {options.budget}; it must be 0 or more")


def histograms_of(
    options: argparse.Namespace, model: Model, source: SampleSource, values: Any, progress: Any
) -> dict[str, BlobHistogram]:
    """Histograms of any values, over the images that thresholds are measured on."""
    engine = EngineOptions(threads=options.threads)
    count = _iteration(options, source)

    def batches() -> Iterator[Mapping[str, Any]]:
        return takes(source, count)

    return collect_histograms(model, batches, tuple(values), CollectOptions(options.bins, engine=engine), progress)


def given_integers(start: Start) -> QuantPlan:
    """The plan of a start, and a word on integers that do not follow from its thresholds."""
    plan = settled(start.model, start.plan)
    if plan.given:
        _log.warning(
            "%s: the integers of %d layers (%r ..) are not those that follow from its thresholds; they are kept, but "
            "where a new threshold of the layer is accepted: there they are rounded anew",
            start.origin, len(plan.given), next(iter(plan.given)),
        )  # fmt: skip
    return plan


def _source(options: argparse.Namespace, prototxt: Prototxt) -> SampleSource:
    preprocess = read_image_params(options.image_params) if options.image_params is not None else None
    given = images_of(options, preprocess)
    if given is not None:
        return given.source_for(prototxt)
    if preprocess is not None:
        raise OptionError("--image_params says how images become samples; give the images, too (--data_list LIST)")
    own = data_layer(prototxt)
    if own is None:
        raise DataError(
            f"{prototxt.source}: the network has no data layer that gives samples; give images (--images LIST)"
        )
    return open_source(own, Path(prototxt.source).parent)


def _iteration(options: argparse.Namespace, source: SampleSource) -> int:
    return int(options.iteration if source.size is None else min(options.iteration, source.size))


def _plan(options: argparse.Namespace, calibration: Calibration) -> tuple[QuantPlan, str]:
    if options.thresholds is not None:
        calibration.tune_tables(read_thresholds(calibration.network, options.thresholds))
        return calibration.plan, str(options.thresholds)
    table = options.calibration_proto or options.path / f"bmnet_{options.name}_calibration_table.pb2"
    weights = options.calibration_model or options.path / f"bmnet_{options.name}_int8.caffemodel"
    asked_for = options.calibration_proto is not None or options.calibration_model is not None
    if asked_for or (options.method is None and table.exists()):
        return read_plan(calibration.model, table, weights), str(table)
    calibration.calc_tables()
    method = options.method or DEFAULT_METHOD
    return calibration.plan, f"{method}, {calibration.info.iteration} images"
