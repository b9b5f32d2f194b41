"""`calib8 export NAME PATH --format FORMAT`: a calibrated network for other tools."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib8.atomic import write_atomically, write_together
from calib8.cli.options import add_shape_option, network_name
from calib8.data import open_source
from calib8.errors import OptionError
from calib8.export import onnx_export, read_plan, tpu_mlir_files
from calib8.graph import Shape
from calib8.lowering import Model, build_model
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import Prototxt, read_prototxt
from calib8.quantize import QuantPlan
from calib8.workflow import data_layer

_log = logging.getLogger(__name__)

Files = Iterator[tuple[str, bytes]]
"""Names and contents, one after another."""

_DESCRIPTION = """\
Write a network for other tools.

PATH is a folder with deploy.prototxt, custom.caffemodel and what `calib8 calibrate NAME PATH` has made of them.
The formats:
  tpu-mlir   NAME_cali_table: the calibration table for model_deploy.py of the vendor's current toolchain
             NAME_qtable: a quantize table for it; only if parts of the network cannot run in INT8
  onnx       NAME_float.onnx: the network in FP32, weights inside
             NAME_qdq.onnx: the network in INT8, with QuantizeLinear and DequantizeLinear; if it is calibrated"""

_EPILOG = """\
examples:
  calib8 export lenet models/lenet --format tpu-mlir
  calib8 export lenet models/lenet --format onnx --batch 1 --output build"""


def add_parser(commands: Any) -> None:
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
    parser.add_argument("--format", required=True, choices=_FORMATS, help="what is written")
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
    for folder in (options.path, output):
        if not folder.is_dir():
            raise OptionError(f"{folder}: no such folder")
    prototxt = read_prototxt(options.path / "deploy.prototxt")
    model = _model(options.path, prototxt, dict(options.shape), options.batch)
    job = _Job(options.name, options.path, model, _plan(options.name, options.path, model))
    paths = []
    with write_together():
        for name, data in _FORMATS[options.format](job):
            paths.append(output / name)
            with write_atomically(paths[-1]) as file:
                file.write(data)
    print("\n".join(map(str, paths)))
    return 0


@dataclass(frozen=True)
class _Job:
    """What is exported; `plan` is None for a network that is not calibrated."""

    name: str
    path: Path
    model: Model
    plan: QuantPlan | None

    @property
    def not_calibrated(self) -> str:
        """What is missing, and how to get it."""
        return (
            f"{_table(self.path, self.name)}: no such file; calibrate first: calib8 calibrate {self.name} {self.path}"
        )


def _table(path: Path, name: str) -> Path:
    return path / f"bmnet_{name}_calibration_table.pb2"


def _tpu_mlir(job: _Job) -> Files:
    if job.plan is None:
        raise OptionError(job.not_calibrated)
    files = tpu_mlir_files(job.name, job.model, job.plan.thresholds)
    yield f"{job.name}_cali_table", files.calibration_table
    if files.quantize_table:
        yield f"{job.name}_qtable", files.quantize_table


def _onnx(job: _Job) -> Files:
    yield f"{job.name}_float.onnx", _onnx_bytes(job, None)
    if job.plan is None:
        _log.warning("%s; only the network in FP32 is written", job.not_calibrated)
    else:
        yield f"{job.name}_qdq.onnx", _onnx_bytes(job, job.plan)


def _onnx_bytes(job: _Job, plan: QuantPlan | None) -> bytes:
    export = onnx_export(job.name, job.model, plan)
    for note in export.notes if plan is None else ():
        _log.warning("%s: %s", job.model.net.source, note)
    return export.data


_FORMATS: dict[str, Callable[[_Job], Files]] = {"tpu-mlir": _tpu_mlir, "onnx": _onnx}


def _model(path: Path, prototxt: Prototxt, shapes: dict[str, Shape], batch: int | None) -> Model:
    weights = read_caffemodel(path / "custom.caffemodel")
    model = build_model(prototxt, weights, {**_data_shapes(prototxt, shapes), **shapes})
    for note in model.notes:
        _log.info("%s: %s", prototxt.source, note)
    if batch is None:
        return model
    if batch < 1:
        raise OptionError(f"batch is {batch}; it must be at least 1")
    sizes = {model.net.blob_of[v]: (batch, *model.shapes[v][1:]) for v in model.inputs if model.shapes[v]}
    return model.reshaped(sizes)


def _data_shapes(prototxt: Prototxt, given: dict[str, Shape]) -> dict[str, Shape]:
    """Shapes that a data layer has from its data, which need not be there if they are given."""
    layer = data_layer(prototxt)
    if layer is None or any(top in given for top in layer.top):
        return {}
    return dict(open_source(layer, Path(prototxt.source).parent).shapes)


def _plan(name: str, path: Path, model: Model) -> QuantPlan | None:
    table = _table(path, name)
    return read_plan(model, table, path / f"bmnet_{name}_int8.caffemodel") if table.exists() else None
