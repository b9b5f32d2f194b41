"""`calib8 export NAME PATH --format FORMAT`: a calibrated network for other tools."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from calib8.atomic import claim_folder
from calib8.cli.network import add_network_arguments
from calib8.cli.options import Commands, add_shape_option
from calib8.errors import OptionError
from calib8.export import FORMATS, write_format
from calib8.reading import exists, require_folder
from calib8.workflow import open_network, read_calibration

_log = logging.getLogger(__name__)

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
  calib8 export resnet18.onnx --format onnx-uint8"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "export", help="write a network for other tools", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    add_network_arguments(
        parser, "name of the network, as `calib8 calibrate` was told", "folder, or ONNX model, that was calibrated"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="what is written")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where the files go (default: PATH)")
    parser.add_argument("--batch", metavar="N", type=int, help="images in a batch (default: as in the prototxt)")
    add_shape_option(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="say also what was changed or left out")


def run(options: argparse.Namespace) -> int:
    """Write the files of one format, all of them or none.

    Returns:
        The exit code.
    """
    output = options.output or options.path
    options.files.require()
    require_folder(output, OptionError, "the results would go there")
    with claim_folder(output):
        return _export(options, output)


def _export(options: argparse.Namespace, output: Path) -> int:
    path, name, files = options.path, options.name, options.files
    if files.is_onnx and options.format == "tpu-mlir":
        raise OptionError(
            f"{files.given}: the table for tpu-mlir has the names of a Caffe network, and there is no caffemodel of an "
            "ONNX model; let tpu-mlir calibrate it, or take `format=onnx-int8`"
        )
    network = open_network(files.definition, files.weights, shapes=dict(options.shapes))
    if options.batch is not None:
        network = network.with_batch(options.batch)
    plan, table = None, path / f"bmnet_{name}_calibration_table.pb2"
    if exists(table):
        plan = read_calibration(network, table, path / f"bmnet_{name}_int8.caffemodel").plan
    missing = f"{table}: no such file; calibrate first: calib8 calibrate {name} {files.given}"
    if plan is None and FORMATS[options.format].needs_plan:
        raise OptionError(missing)
    paths = write_format(output, options.format, name, network.model, plan)
    if plan is None:
        _log.warning("%s; only the network in FP32 is written", missing)
    print("\n".join(map(str, paths)))
    return 0
