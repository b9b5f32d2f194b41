"""Classifier and Detector."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycaffe_texts import input_layer

import caffe
from calib8.errors import DataError, OptionError

# Means of the colours over the image, as scores.
NET = input_layer("data", 4, 3, 6, 6) + (
    'layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" '
    "pooling_param { pool: AVE global_pooling: true } }\n"
    'layer { name: "ip" type: "InnerProduct" bottom: "mean" top: "score" inner_product_param { num_output: 3 } }'
)


@pytest.fixture
def files(write_prototxt, tmp_path):
    prototxt = str(write_prototxt(NET))
    net = caffe.Net(prototxt, caffe.TEST)
    net.params["ip"][0].data[...] = np.eye(3)
    net.save(tmp_path / "net.caffemodel")
    return prototxt, str(tmp_path / "net.caffemodel")


@pytest.fixture
def images():
    return [np.random.default_rng(i).random((9, 8, 3)).astype(np.float32) for i in range(3)]


def test_center_crops(files, images):
    net = caffe.Classifier(*files, image_dims=(9, 8), channel_swap=(2, 1, 0), raw_scale=255, mean=np.array([1, 2, 3.0]))
    found = net.predict(images, oversample=False)
    expected = [image[1:7, 1:7].mean((0, 1))[::-1] * 255 - [1, 2, 3] for image in images]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_ten_crops_are_averaged(files, images):
    net = caffe.Classifier(*files, image_dims=(9, 8), input_scale=2)
    places = [(0, 0), (0, 2), (3, 0), (3, 2), (1, 1)]
    expected = [2 * np.mean([i[y : y + 6, x : x + 6].mean((0, 1)) for y, x in places], 0) for i in images]
    np.testing.assert_allclose(net.predict(images), expected, rtol=1e-4)


def test_images_are_resized_to_the_input(files, images):
    net = caffe.Classifier(*files)
    expected = [caffe.io.resize_image(image, (6, 6)).mean((0, 1)) for image in images]
    np.testing.assert_allclose(net.predict(images, oversample=False), expected, rtol=1e-4)


@pytest.fixture
def image_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), pixels[:, :, ::-1])
    return str(tmp_path / "image.png"), pixels.astype(np.float32) / 255


def test_windows(files, image_file):
    path, image = image_file
    windows = [(2, 3, 8, 9), (0, 0, 20, 24)]
    found = caffe.Detector(*files).detect_windows([(path, windows), (path, windows[:1]), (path, [])])
    assert [(d["filename"], d["window"]) for d in found] == [(path, w) for w in (*windows, windows[0])]
    np.testing.assert_allclose(found[0]["prediction"], image[2:8, 3:9].mean((0, 1)), rtol=1e-4)
    expected = caffe.io.resize_image(image, (6, 6)).mean((0, 1))
    np.testing.assert_allclose(found[1]["prediction"], expected, rtol=1e-4)
    assert caffe.Detector(*files).detect_windows([]) == []


def test_windows_without_pixels(files, image_file):
    with pytest.raises(DataError, match="no pixels in an image of 20 x 24"):
        caffe.Detector(*files).detect_windows([(image_file[0], [(5, 5, 5, 9)])])


def test_context_inside_the_image(files, image_file):
    _, image = image_file
    detector = caffe.Detector(*files, context_pad=1)
    crop = detector.crop(image, (8, 10, 11, 13))
    # 3 x 3 pixels and one beyond count as 4; with their context they are 4 * 6 / (6 - 2) = 6 wide, around (10, 12)
    np.testing.assert_allclose(crop, caffe.io.resize_image(image[7:13, 9:15], (6, 6)), rtol=1e-5)


def test_context_outside_the_image_is_the_mean(files, image_file):
    _, image = image_file
    detector = caffe.Detector(
        *files, context_pad=1, mean=np.array([10.0, 20.0, 30.0]), raw_scale=100, channel_swap=(2, 1, 0)
    )
    crop = detector.crop(image, (0, 0, 7, 7))
    np.testing.assert_allclose(crop[0], [[0.3, 0.2, 0.1]] * 6, rtol=1e-6)
    np.testing.assert_allclose(crop[:, 0], [[0.3, 0.2, 0.1]] * 6, rtol=1e-6)
    assert not np.allclose(crop[1:, 1:], [0.3, 0.2, 0.1])
    prepared = detector.transformer.preprocess("data", crop)
    np.testing.assert_allclose(prepared[:, 0], 0, atol=1e-4)


def test_selective_search_is_not_installed(files):
    with pytest.raises(OptionError, match="needs the module selective_search_ijcv_with_python"):
        caffe.Detector(*files).detect_selective_search(["image.png"])
