"""Whole networks, beside ONNX Runtime; our own exports, read back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import TOLERANCE, largest_difference, opened
from onnx_networks import NETWORKS

from calib8.engine import run_float
from calib8.export import write_format
from calib8.onnx_in import read_onnx
from calib8.workflow import open_network


def difference(path, shapes=None):
    model = opened(path, shapes)
    rng = np.random.default_rng(5)
    return largest_difference(path, model, {v: rng.random(model.shapes[v], np.float32) for v in model.inputs})


@pytest.mark.parametrize("opset", [13, 15, 18, 21])
@pytest.mark.parametrize("build", NETWORKS)
def test_networks_equal_onnx_runtime(build, opset, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(build(opset).SerializeToString())
    assert difference(path) <= TOLERANCE
    if build.__name__ not in ("ssd", "yolo"):  # they are written for a batch of 1
        assert difference(path, {"input": (2, 3, 32, 32)}) <= TOLERANCE


@pytest.mark.parametrize("build", NETWORKS)
def test_the_same_model_gives_the_same_layers(build, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(build(17).SerializeToString())
    first, second = read_onnx(path), read_onnx(path)
    assert first.prototxt.net == second.prototxt.net and list(first.weights) == list(second.weights)
    names = [layer.name for layer in first.prototxt.net.layer]
    assert len(set(names)) == len(names)


def test_a_batch_of_one_is_found_where_shapes_are_computed(tmp_path):
    """So that a network is calibrated image by image, whatever batch it has."""
    path = tmp_path / "net.onnx"
    for build in NETWORKS[:-2]:
        path.write_bytes(build(17).SerializeToString())
        assert opened(path, {"input": (3, 3, 32, 32)}).batch_of_one() is not None, build.__name__


def exported_again(folder, tmp_path, shapes=None):
    """The difference between a Caffe network and its own export, read back, in every output."""
    network = open_network(folder / "deploy.prototxt", folder / "custom.caffemodel", shapes=shapes or {})
    (path,) = write_format(tmp_path, "onnx", "net", network.model, None)
    again, rng = opened(path), np.random.default_rng(5)
    arrays = {v: 255 * rng.random(network.model.shapes[v], np.float32) for v in network.model.inputs}
    outputs = list(again.net.outputs)
    wanted = run_float(network.model, arrays, observe=outputs)
    found = run_float(again, {v: x for v, x in arrays.items() if v in again.inputs}, observe=outputs)
    return max(np.abs(found[n] - wanted[n]).max() / max(np.abs(wanted[n]).max(), 1e-12) for n in outputs)


def test_our_own_exports(tmp_path, examples):
    for folder, shapes in examples.items():
        assert exported_again(folder, tmp_path, shapes) <= TOLERANCE, folder


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["cifar10_resnet20", "lenet_mnist", "mobilenetv2_yolov3_nano_voc", "mtcnn_det2", "res10_ssd_face",
             "retinaface_mnet25", "ultraface_rfb320"]
)  # fmt: skip
def test_exports_of_real_networks(name, shared, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    for ending, own in (("*.prototxt", "deploy.prototxt"), ("*.caffemodel", "custom.caffemodel")):
        (folder / own).symlink_to(sorted((shared / "models" / name).glob(ending))[0])
    assert exported_again(folder, tmp_path) <= TOLERANCE
