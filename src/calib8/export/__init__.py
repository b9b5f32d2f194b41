"""The files of a calibration, one module per format, each with its writer and its reader.

- `int8_caffemodel`: the integer weights, a plain caffemodel
- `calibration_table`: thresholds and shifts for the BM1880 compiler, protobuf in binary and in text form
- `plain_table`: names, thresholds and shifts, a line each
- `tpu_mlir`: the tables of the vendor's current toolchain
- `onnx_model`: the network as an ONNX file, in FP32 or quantised
- `onnx_qdq`: the same with a scale for each channel, for other runtimes
- `tensorrt`: TensorRT's calibration cache for an ONNX file
- `ncnn`: the network as ncnn's runtime reads it
- `formats`: what is for other tools, by name, for whoever writes them
- `record`: which files are of one run, in a small file beside them
- `files`: all of the first three under the guide's names, whole or not at all; and back into a `QuantPlan`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib8.export.calibration_table import table_message
from calib8.export.files import (
    read_plan,
    table_name,
    write_calibration_files,
    write_calibration_table,
    write_files,
    write_set,
    write_weights,
)
from calib8.export.int8_caffemodel import read_int8_model, write_int8_model
from calib8.export.plain_table import plain_table, read_plain_table
from calib8.lazy import lazily

if TYPE_CHECKING:
    from calib8.export.formats import FORMATS, Format, write_format
    from calib8.export.ncnn import NcnnFiles, ncnn_export
    from calib8.export.onnx_model import OnnxExport, onnx_export
    from calib8.export.tpu_mlir import TpuMlirFiles, tpu_mlir_files, tpu_mlir_names

__all__ = [
    "FORMATS",
    "Format",
    "NcnnFiles",
    "OnnxExport",
    "TpuMlirFiles",
    "ncnn_export",
    "onnx_export",
    "plain_table",
    "read_int8_model",
    "read_plain_table",
    "read_plan",
    "table_message",
    "table_name",
    "tpu_mlir_files",
    "tpu_mlir_names",
    "write_calibration_files",
    "write_calibration_table",
    "write_files",
    "write_format",
    "write_int8_model",
    "write_set",
    "write_weights",
]

__getattr__ = lazily(
    __name__,
    {
        "formats": "FORMATS Format write_format",
        "ncnn": "NcnnFiles ncnn_export",
        "onnx_model": "OnnxExport onnx_export",
        "tpu_mlir": "TpuMlirFiles tpu_mlir_files tpu_mlir_names",
    },
)
