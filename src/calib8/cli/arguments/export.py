"""The command line of `calib8 export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib8.choices import EXPORT_FORMATS
from calib8.cli.arguments.common_options import Commands, add_shape_option
from calib8.cli.arguments.network import add_network_arguments

_DESCRIPTION = """\
Write a network for other tools.

PATH is a folder with deploy.prototxt, custom.caffemodel and what `calib8 calibrate NAME PATH` has made of them.
The formats:
  tpu-mlir   NAME_cali_table: the calibration table for model_deploy.py of the vendor's current toolchain
             NAME_qtable: a quantize table for it; only if parts of the network cannot run in INT8
  onnx       NAME_float.onnx: the network in FP32, weights inside, BatchNorm and Scale folded
             NAME_qdq.onnx: the BM1880's integers, with QuantizeLinear and DequantizeLinear; if it is calibrated
  onnx-int8  NAME_int8.onnx: QuantizeLinear and DequantizeLinear, weights per channel, signed codes: for TensorRT
  onnx-uint8 NAME_uint8.onnx: the same with unsigned codes: for ONNX Runtime
  tensorrt   NAME_float.onnx and NAME.cache: a calibration cache for TensorRT 8 to 10
  ncnn       NAME_float.param, NAME_float.bin: the network in FP32, BatchNorm and Scale folded
             NAME.param, NAME.bin: the network in INT8, weights per channel; if it is calibrated
             NAME.table: the scales for ncnn2int8; if it is calibrated
PATH may be an ONNX model, and one alone is NAME and PATH. There is no tpu-mlir for it: the table has Caffe's names."""

_EPILOG = """\
examples:
  calib8 export lenet models/lenet --format tpu-mlir
  calib8 export lenet models/lenet --format onnx --batch 1 --output build
  calib8 export resnet18.onnx --format onnx-uint8 --reduce-range"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "export", help="write a network for other tools", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_network_arguments(
        parser, "name of the network, as `calib8 calibrate` was told", "folder, or ONNX model, that was calibrated"
    )
    parser.add_argument("--format", required=True, choices=EXPORT_FORMATS, help="what is written")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where the files go (default: PATH)")
    parser.add_argument(
        "--calibration", metavar="FOLDER", type=Path,
        help="where `calib8 calibrate --output FOLDER` has put its files (default: PATH)",
    )  # fmt: skip
    parser.add_argument("--batch", metavar="N", type=int, help="images in a batch (default: as in the prototxt)")
    parser.add_argument(
        "--reduce-range", action="store_true",
        help="onnx-int8 and onnx-uint8: weights of 7 bits, for ONNX Runtime on x86 processors without VNNI, where its "
        "kernels for 8 bits saturate",
    )  # fmt: skip
    add_shape_option(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="say also what was changed or left out")
