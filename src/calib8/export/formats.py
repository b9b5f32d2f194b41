"""Formats of other tools, by name; a further one is a line in `FORMATS`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from calib8.boundary import closed
from calib8.engine.processor import int8_products_saturate
from calib8.errors import OptionError
from calib8.export.files import write_set
from calib8.export.ncnn import ncnn_export
from calib8.export.onnx_model import onnx_export
from calib8.export.onnx_qdq import Zero, pairs_may_saturate, qdq_export
from calib8.export.record import run_of
from calib8.export.tensorrt import tensorrt_cache
from calib8.export.tpu_mlir import tpu_mlir_files
from calib8.lowering import Model, fold_channel_affines
from calib8.quantize import QuantPlan
from calib8.quantize.channel_units import in_channel_units

_log = logging.getLogger(__name__)
_SATURATES = (
    "ONNX Runtime saturates 8-bit weights on this processor, as on every x86 processor without VNNI, and gives wrong "
    'results; run it with the session option session.x64quantprecision = "1", or export it with `reduce_range`'
)
Files = Iterator[tuple[str, bytes]]
"""Names and contents, one after another, so that only one is in memory."""


@dataclass(frozen=True)
class Format:
    """What another tool reads.

    Attributes:
        name: what the user writes.
        files: from the network's name, the network, and its integers or None, to the files.
        needs_plan: whether it says nothing of a network that is not calibrated.
        reduced: as `files`, with weights of 7 bits; None where there is no such form.
    """

    name: str
    files: Callable[[str, Model, QuantPlan | None], Files]
    needs_plan: bool = False
    reduced: Callable[[str, Model, QuantPlan | None], Files] | None = None


def _tpu_mlir(name: str, model: Model, plan: QuantPlan | None) -> Files:
    if plan is None:
        raise AssertionError("write_format lets no network through without a plan")
    files = tpu_mlir_files(name, model, plan.thresholds)
    yield f"{name}_cali_table", files.calibration_table
    if files.quantize_table:
        yield f"{name}_qtable", files.quantize_table


def _onnx(name: str, model: Model, plan: QuantPlan | None) -> Files:
    in_float = onnx_export(name, fold_channel_affines(model))
    for note in in_float.notes:
        _log.warning("%s: %s", model.net.source, note)
    yield f"{name}_float.onnx", in_float.data
    if plan is not None:
        yield f"{name}_qdq.onnx", onnx_export(name, model, plan).data


def _qdq(zero: Zero, *, reduce_range: bool = False) -> Callable[[str, Model, QuantPlan | None], Files]:
    def files(name: str, model: Model, plan: QuantPlan | None) -> Files:
        if plan is None:
            raise AssertionError("write_format lets no network through without a plan")
        file = f"{name}_{zero.value}.onnx"
        export = qdq_export(name, model, plan, zero, reduce_range=reduce_range)
        if pairs_may_saturate(export) and int8_products_saturate():
            _log.warning("%s: %s", file, _SATURATES)
        yield file, export.data

    return files


def _tensorrt(name: str, model: Model, plan: QuantPlan | None) -> Files:
    if plan is None:
        raise AssertionError("write_format lets no network through without a plan")
    in_float = onnx_export(name, fold_channel_affines(_as_thresholds_mean(model, plan)))
    yield f"{name}_float.onnx", in_float.data
    yield f"{name}.cache", tensorrt_cache(in_float.proto, plan.thresholds).encode()


def _ncnn(name: str, model: Model, plan: QuantPlan | None) -> Files:
    in_float = ncnn_export(model)
    yield f"{name}_float.param", in_float.param
    yield f"{name}_float.bin", in_float.bin
    if plan is not None:
        files = ncnn_export(_as_thresholds_mean(model, plan), plan.thresholds)
        yield f"{name}.param", files.param
        yield f"{name}.bin", files.bin
        yield f"{name}.table", files.table


def _as_thresholds_mean(model: Model, plan: QuantPlan) -> Model:
    """Give the network whose FP32 values the thresholds are of, where channels have units: it computes the same."""
    return in_channel_units(model, plan.channel_units) if plan.channel_units else model


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        one.name: one
        for one in (
            Format("tpu-mlir", _tpu_mlir, needs_plan=True),
            Format("onnx", _onnx),
            *(
                Format(f"onnx-{zero.value}", _qdq(zero), needs_plan=True, reduced=_qdq(zero, reduce_range=True))
                for zero in Zero
            ),
            Format("ncnn", _ncnn),
            Format("tensorrt", _tensorrt, needs_plan=True),
        )
    }
)
"""The formats by name."""


@closed
def write_format(
    folder: str | os.PathLike[str],
    format: str,
    name: str,
    model: Model,
    plan: QuantPlan | None = None,
    *,
    reduce_range: bool = False,
) -> tuple[Path, ...]:
    """Write a network for another tool: all files of a format or none; returns their paths.

    Beside them goes `NAME_FORMAT.calib8.json`, the record of their run.

    Args:
        format: one of `FORMATS`.
        name: the network's, which the files' names begin with.
        plan: None for a network in FP32 alone.
        reduce_range: weights of 7 bits, for onnx-int8 and onnx-uint8: for ONNX Runtime on x86 processors without VNNI,
            where its kernels for 8 bits saturate.

    Raises:
        OptionError: no such format, one that needs a plan or has 8 bits only, or a folder that cannot be written.
        TableError, UnsupportedError: the network has no form in this format.
    """
    if format not in FORMATS:
        raise OptionError(f"`format` is {format!r}; expected one of {', '.join(FORMATS)}")
    if FORMATS[format].needs_plan and plan is None:
        raise OptionError(f"`format` {format} is for a calibrated network; calibrate it first")
    make = FORMATS[format].reduced if reduce_range else FORMATS[format].files
    if make is None:
        having = ", ".join(one.name for one in FORMATS.values() if one.reduced is not None)
        raise OptionError(f"`reduce_range` is for {having}; leave it out for `format` {format}")
    files = make(name, model, plan)
    return write_set(folder, f"{name}_{format}", files, name, run_of(name, model, plan))
