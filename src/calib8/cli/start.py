"""What `calib8 sensitivity` and `calib8 tune` begin with: a network, its thresholds, and samples to run it on."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.cli.cluster_options import add_cluster_option
from calib8.cli.images import add_image_options, add_samples_option, images_of, shapes_of, without_bad
from calib8.cli.network import add_network_arguments
from calib8.cli.options import add_common_options, add_gpu_option
from calib8.cli.threshold_options import add_repair_options, add_threshold_options, calibrate_options
from calib8.data import read_image_params
from calib8.errors import OptionError
from calib8.reading import exists
from calib8.workflow import (
    Arrays,
    CalibrationResult,
    Images,
    JudgeOptions,
    Network,
    ProgressCallback,
    calibrate,
    change_thresholds,
    open_network,
    read_calibration,
    read_thresholds,
)


def add_start_options(parser: argparse.ArgumentParser, samples: int, output: str) -> None:
    """Add everything that both commands share.

    Args:
        samples: how many images are run by default.
        output: where the results go by default, for the help.
    """
    add_network_arguments(parser)
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
    add_samples_option(parser, f"how many images the network is run on (default: {samples}, or all where fewer are)")
    add_threshold_options(parser, None)
    add_repair_options(parser)
    parser.add_argument(
        "-n", "--iteration", type=int, default=10, metavar="N",
        help="how many images thresholds are measured on (default: 10)",
    )  # fmt: skip
    group = parser.add_argument_group("running")
    group.add_argument(
        "--budget", type=int, default=JudgeOptions().budget, metavar="MB",
        help="most memory for values that are kept between runs; less of it is slower (default: %(default)s)",
    )  # fmt: skip
    add_gpu_option(group)
    add_cluster_option(group, "run the images")
    add_common_options(group)
    add_image_options(parser, with_samples=False)
    group = parser.add_argument_group("images, by the names of the auto tuning tool")
    group.add_argument(*spellings("data_list"), dest="images", metavar="LIST", help="the same as --images")
    group.add_argument(
        *spellings("image_params"), dest="image_params", metavar="JSON",
        help="in the place of all options above: an object with size [h, w], padding, mirror, color_format, r_mean, "
        "g_mean, b_mean, scale",
    )  # fmt: skip


def spellings(option: str) -> tuple[str, ...]:
    """Spell an option of the original with its underscores and with dashes."""
    return tuple(dict.fromkeys((f"--{option}", f"--{option.replace('_', '-')}")))


def open_start(options: argparse.Namespace, progress: ProgressCallback) -> tuple[Network, CalibrationResult]:
    """Open the network, and its integers: from `--thresholds`, from the files of PATH, or measured.

    Raises:
        Calib8Error: whatever is wrong with any of them.
    """
    options.files.require()
    if options.files.is_onnx and (options.proto or options.model):
        raise OptionError(
            f"{options.files.given}: an ONNX model is the network with its weights, and has no caffemodel: leave out "
            "`proto` and `model`"
        )
    network = open_network(
        options.proto or options.files.definition, options.model or options.files.weights, start_images(options),
        shapes=shapes_of(options),
    )  # fmt: skip
    _ = network.samples  # refuses a network without any
    network = without_bad(network, options)
    return network, _calibration(options, network, progress)


def _calibration(options: argparse.Namespace, network: Network, progress: ProgressCallback) -> CalibrationResult:
    if options.thresholds is not None:
        given, origin = read_thresholds(network, options.thresholds), str(options.thresholds)
        return change_thresholds(network, given, concat_quantize=options.concat_quantize, origin=origin)
    table = options.calibration_proto or options.path / f"bmnet_{options.name}_calibration_table.pb2"
    weights = options.calibration_model or options.path / f"bmnet_{options.name}_int8.caffemodel"
    asked_for = options.calibration_proto is not None or options.calibration_model is not None
    if asked_for or (options.method is None and not options.original and exists(table)):
        return read_calibration(network, table, weights)
    return calibrate(network, calibrate_options(options).at_most(network.samples), progress)


def start_images(options: argparse.Namespace) -> Images | Arrays | None:
    """Return the images or arrays that the options name; None for those of the network's own data layer.

    Raises:
        OptionError: options that do not go together.
    """
    preprocess = read_image_params(options.image_params) if options.image_params is not None else None
    images = images_of(options, preprocess)
    if images is None and preprocess is not None:
        raise OptionError("--image_params says how images become samples; give the images, too (--data_list LIST)")
    return images
