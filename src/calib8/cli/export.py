"""`calib8 export NAME PATH --format FORMAT`: a calibrated network for other tools."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from calib8.atomic import claim_folder
from calib8.cli.options import Commands, add_shape_option, network_name
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
             NAME.table: the scales for ncnn2int8; if it is calibrated"""

_EPILOG = """\
examples:
  calib8 export lenet models/lenet --format tpu-mlir
  calib8 export lenet models/lenet --format onnx --batch 1 --output build"""


def add_parser(commands: Commands) -> None:
    """Add this command."""
    parser = commands.add_parser(
        "export", help="write a network for other tools", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    parser.add_argument(
        "name", metavar="NAME", type=network_name, help="name of the network, as `calib8 calibrate` was told"
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="folder that was calibrated")
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
    require_folder(options.path, OptionError, "it holds deploy.prototxt and custom.caffemodel")
    require_folder(output, OptionError, "the results would go there")
    with claim_folder(output):
        return _export(options, output)


def _export(options: argparse.Namespace, output: Path) -> int:
    path, name = options.path, options.name
    network = open_network(path / "deploy.prototxt", path / "custom.caffemodel", shapes=dict(options.shapes))
    if options.batch is not None:
        network = network.with_batch(options.batch)
    plan, table = None, path / f"bmnet_{name}_calibration_table.pb2"
    if exists(table):
        plan = read_calibration(network, table, path / f"bmnet_{name}_int8.caffemodel").plan
    missing = f"{table}: no such file; calibrate first: calib8 calibrate {name} {path}"
    if plan is None and FORMATS[options.format].needs_plan:
        raise OptionError(missing)
    paths = write_format(output, options.format, name, network.model, plan)
    if plan is None:
        _log.warning("%s; only the network in FP32 is written", missing)
    print("\n".join(map(str, paths)))
    return 0
