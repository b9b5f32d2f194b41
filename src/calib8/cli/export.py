"""`calib8 export NAME PATH --format FORMAT`: a calibrated network for other tools."""

from __future__ import annotations

import argparse
import logging
import shlex
from pathlib import Path

from calib8.atomic import claim_folder
from calib8.errors import OptionError
from calib8.export import FORMATS, write_format
from calib8.reading import exists, require_folder
from calib8.workflow import open_network, read_calibration

_log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Write the files of one format, all of them or none.

    Returns:
        The exit code.
    """
    output = options.output or options.path
    options.files.require()
    require_folder(output, OptionError, "the results would go there")
    if options.calibration is not None:
        require_folder(options.calibration, OptionError, "the calibration is read from there")
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
    folder = options.calibration or path
    plan, table = None, folder / f"bmnet_{name}_calibration_table.pb2"
    if exists(table):
        plan = read_calibration(network, table, folder / f"bmnet_{name}_int8.caffemodel").plan
    missing = (
        f"{table}: no such file; calibrate first: {shlex.join(['calib8', 'calibrate', name, str(files.given)])}; "
        "--calibration FOLDER where its files are in another one"
    )
    if plan is None and FORMATS[options.format].needs_plan:
        raise OptionError(missing)
    paths = write_format(output, options.format, name, network.model, plan, reduce_range=options.reduce_range)
    if plan is None:
        _log.warning("%s; only the network in FP32 is written", missing)
    print("\n".join(map(str, paths)))
    return 0
