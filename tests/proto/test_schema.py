"""The generated modules are those of the .proto files, and the facts that other tools rely on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from calib8.proto import caffe_pb2, calibration_pb2

_PROTO = Path(caffe_pb2.__file__).parent
_FIELD = re.compile(r"^ *(optional|repeated|required) ([\w.]+) (\w+) = (\d+)(?: \[(\w+) = (.*)\])?;")


def _declared(name: str) -> dict[str, dict[str, tuple[int, str, str]]]:
    """Message name -> field name -> (number, label, default as written) of a .proto file, by reading its
    lines.
    """
    messages: dict[str, dict[str, tuple[int, str, str]]] = {}
    for line in (_PROTO / name).read_text().splitlines():
        if line.startswith("message "):
            fields = messages[line.split()[1]] = {}
        elif match := _FIELD.match(line):
            label, _, field, number, option, value = match.groups()
            fields[field] = (int(number), label, value if option == "default" else "")
    return messages


def _label(field: object) -> str:
    if hasattr(field, "is_repeated"):
        return "repeated" if field.is_repeated else "required" if field.is_required else "optional"
    return {1: "optional", 2: "required", 3: "repeated"}[field.label]


@pytest.mark.parametrize(("name", "module"), [("caffe.proto", caffe_pb2), ("calibration.proto", calibration_pb2)])
def test_generated_module_is_the_schema(name, module):
    declared = _declared(name)
    generated = module.DESCRIPTOR.message_types_by_name
    assert set(declared) == set(generated)
    for message, fields in declared.items():
        for field in generated[message].fields:
            number, label, default = fields.pop(field.name)
            assert (field.number, _label(field)) == (number, label), f"{message}.{field.name}"
            assert field.has_default_value == bool(default), f"{message}.{field.name}"
        assert not fields, message


def test_no_two_fields_share_a_number():
    for message, fields in _declared("caffe.proto").items():
        numbers = [number for number, _, _ in fields.values()]
        assert len(numbers) == len(set(numbers)), message


def test_import_warns_of_nothing_and_knows_no_newer_protobuf():
    code = "import calib8.proto.caffe_pb2, calib8.proto.calibration_pb2"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
    assert "ValidateProtobufRuntimeVersion" not in (_PROTO / "caffe_pb2.py").read_text()


@pytest.mark.parametrize(
    ("message", "field", "number"),
    [
        ("NetParameter", "name", 1), ("NetParameter", "layers", 2), ("NetParameter", "layer", 100),
        ("LayerParameter", "blobs", 7), ("LayerParameter", "convolution_param", 106),
        ("LayerParameter", "clip_param", 148), ("LayerParameter", "swish_param", 147),
        ("LayerParameter", "prior_box_param", 203), ("LayerParameter", "detection_output_param", 204),
        ("BlobProto", "data", 5), ("BlobProto", "shape", 7), ("BlobProto", "double_data", 8),
        ("PoolingParameter", "round_mode", 13), ("Datum", "encoded", 7), ("V1LayerParameter", "blobs", 6),
        ("V0LayerParameter", "blobs", 50), ("BlobProto", "raw_data_type", 10), ("BlobProto", "raw_data", 12),
    ],
)  # fmt: skip
def test_numbers_of_caffe(message, field, number):
    assert caffe_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name[field].number == number


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("NetCalibrationParameter", {"name": 1, "layer": 100}),
        ("LayerCalibrationParameter", {
            "name": 1, "threshold_y": 2, "right_shift_width": 3, "threshold_x_quantized": 4, "blob_param": 5,
            "fusion_skipped": 6, "bottom_unsigned": 7, "top_unsigned": 8, "convolution_param": 106,
            "inner_product_param": 117, "pooling_param": 121, "relu_param": 123, "prelu_param": 124,
            "concat_param": 125, "leakyrelu_param": 126,
        }),
        ("BlobParameter", {"name": 1, "threshold_y": 2, "right_shift_width": 3}),
        ("ConvolutionCalibrationCalibrationParameter", {
            "bn_right_shift_width": 1, "scale_right_shift_width": 2, "prelu_param": 3, "relu_param": 4,
        }),
        ("InnerProductCalibrationParameter", {"prelu_param": 3}),
        ("PoolingCalibrationParameter", {}),
        ("ReLUCalibrationParameter", {
            "gt_scale": 1, "le_scale": 2, "gt_right_shift_width": 3, "le_right_shift_width": 4,
        }),
        ("LeakyReLUCalibrationParameter", {
            "gt_scale": 1, "le_scale": 2, "gt_right_shift_width": 3, "le_right_shift_width": 4,
        }),
        ("PReLUCalibrationParameter", {"gt_scale": 1, "gt_right_shift_width": 2, "le_right_shift_width": 3}),
        ("ConcatCalibrationParameter", {
            "right_shift_width": 1, "threshold_x_quantized": 2, "need_quantize_num": 3,
        }),
    ],
)  # fmt: skip
def test_calibration_table_messages(message, fields):
    """The format of the BM1880 compiler: no package, these numbers."""
    assert calibration_pb2.DESCRIPTOR.package == ""
    descriptor = calibration_pb2.DESCRIPTOR.message_types_by_name[message]
    assert {f.name: f.number for f in descriptor.fields} == fields


def test_calibration_table_bytes_are_unpacked():
    layer = calibration_pb2.LayerCalibrationParameter(name="p", threshold_y=[1.0, 2.0], threshold_x_quantized=[3, 4])
    expected = b"\x0a\x01p" + b"\x15\x00\x00\x80\x3f" + b"\x15\x00\x00\x00\x40" + b"\x20\x03\x20\x04"
    assert layer.SerializeToString() == expected


@pytest.mark.shared
def test_real_calibration_table_comes_back_byte_for_byte(shared):
    data = (shared / "golden" / "bm1880_lenet" / "bmnet_lenet_calibration_table.pb2").read_bytes()
    table = calibration_pb2.NetCalibrationParameter.FromString(data)
    assert table.SerializeToString() == data
    assert len(table.layer) > 5
