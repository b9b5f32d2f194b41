"""The command line of `calib8 calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import DEFAULT_IMAGES
from calib8.cli.arguments.common_options import Commands, add_common_options, add_gpu_option
from calib8.cli.arguments.histogram_options import add_histogram_options
from calib8.cli.arguments.image_options import add_image_options
from calib8.cli.arguments.network import add_network_arguments
from calib8.cli.arguments.threshold_options import add_repair_options, add_threshold_options

_DESCRIPTION = """\
Quantise a Caffe network, or an ONNX model, to INT8 for the BM1880.

PATH is a folder with deploy.prototxt and custom.caffemodel. Calibration images come through the network's own data
layer (a Data layer over an LMDB, ImageData, HDF5Data or a Python layer, named "data"), or from --images for a network
with a plain Input layer. Into the same folder go
  bmnet_NAME_int8.caffemodel                       integer weights and biases
  bmnet_NAME_calibration_table, .pb2, .prototxt    a threshold for every blob, shifts and multipliers
  bmnet_NAME.calib8.json                           which files are of one run

PATH may be an ONNX model, and one alone is NAME and PATH: its operators become Caffe's layers, the images come from
--images, and the files go beside it. There is no caffemodel of it, so none for the BM1880's compiler: the integers that
are written serve the other commands, and `calib8 export` writes ONNX with QuantizeLinear and DequantizeLinear."""

_EPILOG = """\
examples:
  calib8 calibrate lenet models/lenet --iteration 100
  calib8 calibrate squeezenet models/squeezenet -n 100 --images photos/ --resize crop --mean 104,117,123
  calib8 calibrate yolov3 custom -n 200 --method mse --memory_opt
  calib8 calibrate resnet18.onnx -n 100 --images photos/ --color rgb --mean 124,116,104 --scale 0.0171,0.0175,0.0174"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "calibrate", help="quantise a network to INT8", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_network_arguments(parser)
    parser.add_argument(
        "-n", "--iteration", type=int, metavar="N",
        help=f"how many images are used (default: {DEFAULT_IMAGES}, or all where there are fewer)",
    )  # fmt: skip
    parser.add_argument(
        "--no-verdict", action="store_true", help="do not say how well INT8 follows FP32; saves a few forward passes"
    )
    parser.add_argument(
        "--from", dest="from_record", metavar="RECORD", type=Path,
        help="the options of an earlier calibration, from its bmnet_NAME.calib8.json; others that are given count more",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where the files go (default: PATH)")
    add_threshold_options(parser, "several, and the best of them; kl where nothing is repaired")
    add_repair_options(parser)
    _add_run_options(parser)
    add_image_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument(
        "--memory_opt", "--memory-opt", "--memory", action="store_true", dest="memory_opt",
        help="free every blob behind its last reader: less memory, somewhat slower, the same result",
    )  # fmt: skip
    group.add_argument(
        "--two-pass", action="store_true",
        help="measure maxima first and count in a second pass, exactly by the formula, as --method kl always does; one "
        "pass may count a value one bin beside its own if it lies within 1/4 of a bin of the edge between them",
    )  # fmt: skip
    add_gpu_option(group)
    add_common_options(group)
    add_histogram_options(parser)
