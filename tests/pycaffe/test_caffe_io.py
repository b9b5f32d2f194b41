from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import caffe.io
from calib8.errors import DataError, OptionError
from calib8.proto import caffe_pb2


def test_blobs_go_there_and_back() -> None:
    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    back = caffe.io.blobproto_to_array(caffe.io.array_to_blobproto(values))
    assert back.tobytes() == values.tobytes() and back.shape == values.shape
    back[0, 0, 0, 0] = 7  # the caller's own


def test_blobs_have_gradients() -> None:
    blob = caffe.io.array_to_blobproto(np.zeros((2, 1)), diff=np.array([[3.0], [4.0]]))
    assert caffe.io.blobproto_to_array(blob, return_diff=True).tolist() == [[3], [4]]
    assert caffe.io.blobproto_to_array(blob).tolist() == [[0], [0]]


def test_old_blobs_have_four_numbers() -> None:
    blob = caffe_pb2.BlobProto(num=1, channels=2, height=1, width=2, data=[1, 2, 3, 4])
    assert caffe.io.blobproto_to_array(blob).tolist() == [[[[1, 2]], [[3, 4]]]]


def test_blobs_without_a_shape() -> None:
    assert caffe.io.blobproto_to_array(caffe_pb2.BlobProto(data=[123])) == 123
    with pytest.raises(ValueError, match="2 are stored"):
        caffe.io.blobproto_to_array(caffe_pb2.BlobProto(data=[1, 2]))


def test_lists_of_arrays() -> None:
    arrays = [np.arange(3, dtype=np.float32), np.ones((2, 2), np.float32)]
    back = caffe.io.blobprotovector_str_to_arraylist(caffe.io.arraylist_to_blobprotovector_str(arrays))
    assert [a.tolist() for a in back] == [a.tolist() for a in arrays]
    with pytest.raises(DataError, match="no serialized BlobProtoVector"):
        caffe.io.blobprotovector_str_to_arraylist(b"\xff\xff")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_datums_go_there_and_back(dtype: type) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    datum = caffe.io.array_to_datum(values, label=5)
    assert (datum.channels, datum.height, datum.width, datum.label) == (2, 3, 4, 5)
    back = caffe.io.datum_to_array(datum)
    assert back.dtype == dtype
    assert (back == values).all()
    back[0, 0, 0] = 1  # the caller's own
    assert not caffe.io.array_to_datum(values).HasField("label")
    with pytest.raises(DataError, match=r"\(C, H, W\)"):
        caffe.io.array_to_datum(values[0])


@pytest.mark.parametrize(
    ("stored", "color", "expected"),
    [
        (np.array([[[10, 20, 30]]], np.uint8), True, [30 / 255, 20 / 255, 10 / 255]),
        (np.array([[[10, 20, 30, 99]]], np.uint8), True, [30 / 255, 20 / 255, 10 / 255]),
        (np.array([[51]], np.uint8), True, [0.2, 0.2, 0.2]),
        (np.array([[51]], np.uint8), False, [0.2]),
        (np.array([[13107]], np.uint16), False, [0.2]),
        (np.array([[[0, 0, 255]]], np.uint8), False, [0.2125]),
    ],
)
def test_images_are_rgb_from_0_to_1(tmp_path, stored, color, expected) -> None:
    path = str(tmp_path / "image.png")
    cv2.imwrite(path, stored)
    image = caffe.io.load_image(path, color)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, [[expected]], rtol=1e-6)


def test_images_that_are_none(tmp_path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("text.jpg", "nowhere.jpg"):
        with pytest.raises(DataError, match=name):
            caffe.io.load_image(str(tmp_path / name))


def naive_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each new pixel from the four around its place; beyond the edge there is the minimum (1 or 3 channels)."""
    old_height, old_width, channels = image.shape
    centred = channels in (1, 3)
    low = image.min() if centred else 0.0
    found = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            if centred:
                row, column = (y + 0.5) * old_height / height - 0.5, (x + 0.5) * old_width / width - 0.5
            else:
                row = y * (old_height - 1) / (height - 1) if height > 1 else 0
                column = x * (old_width - 1) / (width - 1) if width > 1 else 0
            for i in (int(np.floor(row)), int(np.floor(row)) + 1):
                for j in (int(np.floor(column)), int(np.floor(column)) + 1):
                    pixel = image[i, j] if 0 <= i < old_height and 0 <= j < old_width else low
                    found[y, x] += max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j)) * pixel
    return found


@settings(max_examples=40, deadline=None)
@given(*(st.integers(1, 7),) * 4, st.integers(1, 4), st.integers(0, 99))
def test_resizing_mixes_the_nearest_pixels(height, width, new_height, new_width, channels, seed):
    image = np.random.default_rng(seed).uniform(-3, 5, (height, width, channels)).astype(np.float32)
    found = caffe.io.resize_image(image, (new_height, new_width))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive_resize(image, new_height, new_width), rtol=1e-4, atol=1e-4)


def test_resizing_an_even_image():
    assert caffe.io.resize_image(np.full((2, 3, 3), 7), (5, 4)).tolist() == np.full((5, 4, 3), 7).tolist()


def test_resizing_to_the_nearest():
    image = np.arange(4)[None, :, None] * np.ones((2, 1, 1))
    assert caffe.io.resize_image(image, (1, 2), 0)[0, :, 0].tolist() == [1, 3]
    assert caffe.io.resize_image(image, (2, 8), interp_order=0)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("image", "size", "order", "error"),
    [
        (np.zeros((2, 2)), (2, 2), 1, DataError),
        (np.zeros((0, 2, 3)), (2, 2), 1, DataError),
        (np.zeros((2, 2, 3)), (0, 2), 1, OptionError),
        (np.zeros((2, 2, 3)), (2, 2), 2, OptionError),
    ],
)
def test_resizing_what_cannot_be(image, size, order, error):
    with pytest.raises(error):
        caffe.io.resize_image(image, size, order)


def test_ten_crops():
    image = np.arange(5 * 6, dtype=np.float32).reshape(5, 6, 1)
    crops = caffe.io.oversample([image, image + 100], (2, 3))
    assert crops.shape == (20, 2, 3, 1)
    first = [[0, 1, 2], [6, 7, 8]]
    assert crops[0, :, :, 0].tolist() == first
    assert crops[3, :, :, 0].tolist() == [[21, 22, 23], [27, 28, 29]]
    assert crops[4, :, :, 0].tolist() == [[7, 8, 9], [13, 14, 15]]
    assert crops[5, :, :, 0].tolist() == [row[::-1] for row in first]
    assert (crops[10:] == crops[:10] + 100).all()
    with pytest.raises(DataError, match="smaller than the crops"):
        caffe.io.oversample([image], (6, 3))


@pytest.fixture
def transformer():
    made = caffe.io.Transformer({"data": (1, 3, 4, 5)})
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (2, 1, 0))
    made.set_raw_scale("data", 255)
    made.set_mean("data", np.array([1.0, 2.0, 3.0]))
    made.set_input_scale("data", 0.5)
    return made


def test_preprocessing(transformer):
    image = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    before = image.copy()
    found = transformer.preprocess("data", image)
    for channel in range(3):
        expected = (before[:, :, 2 - channel] * 255 - (channel + 1)) * 0.5
        np.testing.assert_allclose(found[channel], expected, rtol=1e-5)
    assert (image == before).all()
    np.testing.assert_allclose(transformer.deprocess("data", found[None]), image, rtol=1e-5, atol=1e-6)


def test_preprocessing_resizes(transformer):
    image = np.random.default_rng(0).random((8, 7, 3)).astype(np.float32)
    expected = transformer.preprocess("data", caffe.io.resize_image(image, (4, 5)))
    assert (transformer.preprocess("data", image) == expected).all()


def test_nothing_is_set():
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    found = caffe.io.Transformer({"x": (1, 3, 1, 2)}).preprocess("x", image)
    assert found.tolist() == image.tolist()
    assert found.dtype == np.float32


def test_order_of_axes_of_a_video():
    made = caffe.io.Transformer({"x": (1, 3, 2, 4, 5)})
    made.set_transpose("x", (3, 0, 1, 2))
    with pytest.raises(OptionError, match="needs 4 axes"):
        made.set_transpose("x", (2, 0, 1))


def test_mean_images():
    made = caffe.io.Transformer({"x": (1, 3, 4, 5)})
    mean = np.random.default_rng(0).random((3, 8, 9)).astype(np.float32)
    made.set_mean("x", mean)
    expected = caffe.io.resize_image(mean.transpose(1, 2, 0), (4, 5)).transpose(2, 0, 1)
    assert (made.mean["x"] == expected).all()
    made.set_mean("x", mean[:, :4, :5])
    assert (made.mean["x"] == mean[:, :4, :5]).all()
    made.set_mean("x", np.full((4, 5), 2.0))
    assert made.mean["x"].shape == (1, 4, 5)


@pytest.mark.parametrize(
    ("method", "value", "text"),
    [
        ("set_channel_swap", (1, 0), "needs 3 channels"),
        ("set_mean", np.zeros(2), "2 channels"),
        ("set_mean", np.zeros((1, 3, 4, 5)), "expected"),
    ],
)
def test_what_does_not_fit_an_input(transformer, method, value, text):
    with pytest.raises(OptionError, match=text):
        getattr(transformer, method)("data", value)
    with pytest.raises(OptionError, match="'other' is not one of the net's inputs: data"):
        getattr(transformer, method)("other", value)


def catmull_rom(pixels: Any, at: float) -> float:
    """Four pixels around a place, by the cubic through the middle two; nothing is beyond the edge."""
    first = math.floor(at)
    p0, p1, p2, p3 = (pixels[i] if 0 <= i < len(pixels) else 0.0 for i in range(first - 1, first + 3))
    x = at - first
    return p1 + 0.5 * x * (p2 - p0 + x * (2 * p0 - 5 * p1 + 4 * p2 - p3 + x * (3 * (p1 - p2) + p3 - p0)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(14, 18), (5, 4), (7, 3)])
def test_cubic_resizing_of_a_picture(channels: int, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(20, 200, (7, 9, channels))
    expected = image - image.min()
    for axis, new in enumerate(size):
        old = expected.shape[axis]
        places = [(i + 0.5) * old / new - 0.5 for i in range(new)]
        lines = np.apply_along_axis(lambda line, at=places: [catmull_rom(line, a) for a in at], axis, expected)
        expected = lines
    expected = expected.clip(0, image.max() - image.min()) + image.min()
    found = caffe.io.resize_image(image, size, interp_order=3)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-3


def b_spline(at: float) -> float:
    at = abs(at)
    return (4 - 6 * at**2 + 3 * at**3) / 6 if at < 1 else (2 - at) ** 3 / 6 if at < 2 else 0.0


@pytest.mark.parametrize("size", [(14, 18), (5, 4), (1, 9)])
def test_cubic_resizing_of_other_arrays(size: tuple[int, int]) -> None:
    """The spline whose coefficients solve "through every pixel", mirrored at the edges; solved as a dense system."""
    image = np.random.default_rng(0).uniform(20, 200, (7, 9, 4))
    expected = image
    for axis, new in enumerate(size):
        old = expected.shape[axis]
        period = 2 * (old - 1)
        fold = [min(i % period, period - i % period) for i in range(-2, old + 2)]
        through = np.zeros((old, old))
        for row in range(old):
            for i, where in zip(range(-2, old + 2), fold, strict=True):
                through[row, where] += b_spline(row - i)
        lines = np.moveaxis(expected, axis, 0).reshape(old, -1)
        coefficients = np.linalg.solve(through, lines)
        places = [i * (old - 1) / (new - 1) if new > 1 else 0.0 for i in range(new)]
        knots = list(zip(range(-2, old + 2), fold, strict=True))
        made = [sum(b_spline(at - i) * coefficients[w] for i, w in knots) for at in places]
        rest = np.moveaxis(expected, axis, 0).shape[1:]
        expected = np.moveaxis(np.array(made).reshape(new, *rest), 0, axis)
    assert np.abs(caffe.io.resize_image(image, size, interp_order=3) - expected).max() < 1e-3


def test_cubic_resizing_of_a_single_row() -> None:
    image = np.arange(8, dtype=np.float64).reshape(1, 2, 4)
    assert np.allclose(caffe.io.resize_image(image, (3, 2), interp_order=3), np.broadcast_to(image, (3, 2, 4)))


@pytest.mark.parametrize("order", [2, 4, 5, -1])
def test_orders_that_are_refused(order: int) -> None:
    with pytest.raises(OptionError, match=r"expected 0 \(nearest\), 1 \(linear\) or 3 \(cubic\)"):
        caffe.io.resize_image(np.zeros((4, 4, 3)), (2, 2), order)
