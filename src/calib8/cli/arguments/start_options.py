"""Options of commands that begin with a network, its thresholds, and samples to run it on."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import DEFAULT_BUDGET
from calib8.cli.arguments.cluster_option import add_cluster_option
from calib8.cli.arguments.common_options import add_common_options, add_gpu_option
from calib8.cli.arguments.image_options import add_image_options, add_samples_option
from calib8.cli.arguments.network import add_network_arguments
from calib8.cli.arguments.threshold_options import add_repair_options, add_threshold_options


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
        "--budget", type=int, default=DEFAULT_BUDGET, metavar="MB",
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
