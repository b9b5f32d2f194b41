"""The small networks that the samples are shown with are what their READMEs say, and so is what made them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

import caffe
from calib8.data.lmdb_env import LmdbRecords
from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_SHAPES, _UPSCALE = _EXAMPLES / "shapes", _EXAMPLES / "upscale"
_MODELS = [_SHAPES / "ssd", _SHAPES / "yolov3", _UPSCALE]
_SCRIPTS = ("make_shapes", "make_upscale", "scenes", "training")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The scripts that made the examples, as modules."""
    for folder in (_EXAMPLES, _SHAPES, _UPSCALE):
        monkeypatch.syspath_prepend(folder)
    yield {name: importlib.import_module(name) for name in _SCRIPTS}
    for name in _SCRIPTS:
        sys.modules.pop(name)


@pytest.mark.parametrize("folder", _MODELS, ids=lambda folder: folder.name)
def test_weights_are_those_of_the_prototxt(folder):
    layers = read_prototxt(folder / "deploy.prototxt").net.layer
    stored = read_caffemodel(folder / "custom.caffemodel").layers
    with_weights = ("Convolution", "Deconvolution")
    assert [w.name for w in stored] == [layer.name for layer in layers if layer.type in with_weights]
    assert all(np.isfinite(blob).all() for w in stored for blob in w.blobs)


def test_nothing_carried_is_large():
    files = [path for folder in (_SHAPES, _UPSCALE) for path in folder.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 200_000
    assert sum(path.stat().st_size for path in files if path.suffix != ".caffemodel") < 300_000


def test_digits_are_the_last_ones_of_the_evaluation_set():
    records = LmdbRecords(_EXAMPLES / "digits" / "evaluation_lmdb", "the example")
    last = {d.label: d.data for d in (caffe_pb2.Datum.FromString(record) for _, record in records)}
    assert sorted(last) == list(range(10))
    for digit, pixels in last.items():
        image = cv2.imread(str(_EXAMPLES / "digits" / "images" / f"{digit}.png"), cv2.IMREAD_GRAYSCALE)
        assert image.tobytes() == pixels


@pytest.mark.parametrize("folder", [_SHAPES, _UPSCALE], ids=lambda folder: folder.name)
def test_listed_images_are_there_and_not_evaluated_on(folder):
    listed = [line.split()[0] for line in (folder / "calibration.txt").read_text().splitlines()]
    assert all((folder / name).is_file() for name in listed)
    evaluated = {"images/small.png", "images/large.png"}
    if folder == _SHAPES:
        evaluated = {line.split()[0] for line in (folder / "evaluation.txt").read_text().splitlines()}
    assert {p.relative_to(folder).as_posix() for p in (folder / "images").iterdir()} == {*listed, *evaluated}
    assert not set(listed) & evaluated


def test_images_of_shapes_are_those_of_the_script(make, monkeypatch, tmp_path):
    monkeypatch.setattr(make["make_shapes"], "FOLDER", tmp_path)
    make["make_shapes"].write_images(np.random.default_rng(make["make_shapes"].SEED))
    for name in ("calibration.txt", "evaluation.txt"):
        assert (tmp_path / name).read_text() == (_SHAPES / name).read_text()
    names = ["background", *make["scenes"].NAMES]
    assert (_SHAPES / "ssd_names.txt").read_text().split() == names
    assert (_SHAPES / "names.txt").read_text().split() == names[1:]


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_differences(make, stride):
    rng = np.random.default_rng(stride)
    layer = make["training"].Convolution(rng, 3, 2, 3, stride)
    layer.weights = layer.weights.astype(np.float64)
    x = rng.standard_normal((2, 6, 8, 2))
    y = layer.forward(x)
    weight = rng.standard_normal(y.shape)
    by_x, (by_weights, by_bias) = layer.backward(weight), layer.gradients

    def change(array: np.ndarray, index: tuple[int, ...]) -> float:
        array[index] += 1e-6
        found = float(((layer.forward(x) - y) * weight).sum() / 1e-6)
        array[index] -= 1e-6
        return found

    for index in ((0, 0, 0, 0), (1, 3, 4, 1), (1, 5, 7, 0)):
        assert change(x, index) == pytest.approx(by_x[index], abs=1e-4)
    for index in ((0, 0, 0, 0), (1, 2, 1, 2)):
        assert change(layer.weights, index) == pytest.approx(by_weights[index], abs=1e-4)
    layer.bias = layer.bias.astype(np.float64)
    assert change(layer.bias, (1,)) == pytest.approx(by_bias[1], abs=1e-4)


def test_convolutions_are_caffes(make, tmp_path):
    """What was trained is what the network computes, the deconvolution of upscale included."""
    upscale = make["make_upscale"].Upscale(np.random.default_rng(0))
    net = caffe.Net(str(_UPSCALE / "deploy.prototxt"), caffe.TEST)
    for name in upscale.layers:
        for blob, values in zip(net.params[name], upscale.blobs(name), strict=True):
            blob.data[...] = values
    net.forward()
    x = net.blobs["data"].data
    expected = upscale.forward(x.transpose(0, 2, 3, 1))
    result = make["make_upscale"].blocks(net.blobs["sum"].data[:, 0])
    assert np.abs(result - expected).max() < 1e-4 * np.abs(expected).max()
