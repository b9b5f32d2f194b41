"""docs/moving.md names everything that a user of the original may look for."""

from __future__ import annotations

import re

import pytest
from markdown_pages import ROOT

_PAGE = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")

# Every parameter, file, command and call of the original's guide and of its auto tuning tool.
_NAMES = """
docker 18.09.3 | python 2.7 | docker build -t bmcalibration:2.0 -f docker/Dockerfile_CPU .
docker run -v /workspace:/workspace -it bmcalibration:2.0 | docker/Dockerfile_GPU | nvidia-docker build
nvidia-docker run | bmcalibration:2.0_gpu | nvidia-smi | PYTHONPATH | LD_LIBRARY_PATH | caffe_gpu | CUDA 9.0
import caffe | caffe.set_mode_gpu() | caffe.set_device(device_id)
data | type: "Data" | include { phase: TEST } | transform_param | mirror | crop_size | mean_file | data_param | source
batch_size | backend: LMDB | samples/detection/yolov3/yolo_data_layer.py | general_data_layer.py
BatchNorm | Concat | Convolution | Crop | Deconvolution | DetectionOutput | Eltwise | InnerProduct | Pooling | PReLU
PriorBox | Relu | Reshape | Scale
run_calibration(args) | Calibration(calibration_info) | model_name | in_prototxt | in_caffemodel | iteration
enable_memory_opt | enable_calibration_opt | histogram_bin_num | histogram_num | enable_concat_quantize | math_lib_path
calc_tables() | export_model(path) | export_calibration_pb2(path) | export_calirabtion_pb2 | tune_tables(thresholds)
python calibration.py MODEL-NAME MODEL-PATH | model-name | model-path | --memory_opt | --memory | --help
calibration_tool/ | calibration.py | custom/ | deploy.prototxt | custom.caffemodel | bmnet_NAME_int8.caffemodel
bmnet_NAME_calibration_table | bmnet_NAME_calibration_table.pb2 | bmnet_NAME_calibration_table.prototxt
general_data_layer.pyc | lib/caffe_net_wrapper.so | lib/calibration_math.so | lib/calibration.so | lib/CNet.so
utils.py | utils.pyc | bm_builder.bin
net.int8_init(proto_path, cali_model, cali_proto, int8_layer) | proto_path | cali_model | cali_proto | int8_layer
caffe.yolo() | enable_quantize | input_param | caffe.Net | caffe.TEST | net.blobs['data'].data | net.forward()
caffe_pb2.NetParameter | text_format.Merge
test | tune | model | proto | calibration_model | calibration_proto | output_path | data_list | data_limit
image_params | size | padding | color_format | r_mean | g_mean | b_mean | scale | ignore_layer_list
"""
_ROWS = [line.split("|")[1:-1] for line in re.sub(r"\\\|", "/", _PAGE).splitlines() if line.startswith("| ")]


def _names() -> list[str]:
    return [name.strip() for line in _NAMES.strip().splitlines() for name in line.split(" | ")]


@pytest.mark.parametrize("name", sorted(set(_names())))
def test_has_a_row(name):
    pattern = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")
    assert any(pattern.search(row[0]) and row[1].strip() for row in _ROWS)


def test_every_row_says_what_is_new():
    assert len(_ROWS) > 50
    assert all(len(row) == 2 and all(cell.strip() for cell in row) for row in _ROWS)
