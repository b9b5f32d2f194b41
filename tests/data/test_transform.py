"""transform_param against loops written from src/caffe/data_transformer.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.data.transform import read_transform
from calib8.errors import DataError
from calib8.proto import caffe_pb2
from calib8.proto.text import parse_prototxt


def transform_param(fields: str) -> Any:
    text = f'layer {{ name: "data" type: "Data" top: "data" transform_param {{ {fields} }} }}'
    return parse_prototxt(text).net.layer[0].transform_param


def caffe_loops(pixels: Any, crop: int, scale: float, mean_values: list[float], mean: Any) -> Any:
    channels, datum_height, datum_width = pixels.shape
    height = crop or datum_height
    width = crop or datum_width
    h_off = (datum_height - crop) // 2 if crop else 0
    w_off = (datum_width - crop) // 2 if crop else 0
    values = mean_values * channels if len(mean_values) == 1 else mean_values
    out = np.empty((channels, height, width), np.float32)
    for c in range(channels):
        for h in range(height):
            for w in range(width):
                element = np.float32(pixels[c, h_off + h, w_off + w])
                if mean is not None:
                    element = element - np.float32(mean[c, h_off + h, w_off + w])
                elif values:
                    element = element - np.float32(values[c])
                out[c, h, w] = element * np.float32(scale)
    return out


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, int, float, list[float], bool]:
    channels, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 7)), draw(st.integers(1, 7))
    seed = draw(st.integers(0, 2**32 - 1))
    pixels = np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)
    if draw(st.booleans()):
        pixels = pixels.astype(np.float32) * np.float32(0.37) - 20
    crop = draw(st.integers(0, min(height, width)))
    scale = draw(st.sampled_from([1.0, 0.00390625, 0.017, -2.5]))
    means = draw(st.sampled_from([0, 1, channels]))
    values = draw(st.lists(st.floats(-200, 200, width=32), min_size=means, max_size=means))
    return pixels, crop, scale, values, draw(st.booleans())


@given(cases())
def test_equals_caffe_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, case: Any) -> None:
    pixels, crop, scale, values, has_file = case
    fields = f"scale: {scale} crop_size: {crop} " + " ".join(f"mean_value: {v!r}" for v in values)
    mean = None
    if has_file and not values:
        mean = np.linspace(0, 255, pixels.size, dtype=np.float32).reshape(pixels.shape)
        path = tmp_path_factory.mktemp("mean") / "mean.binaryproto"
        blob = caffe_pb2.BlobProto(num=1, channels=mean.shape[0], height=mean.shape[1], width=mean.shape[2])
        blob.data.extend(mean.ravel())
        path.write_bytes(blob.SerializeToString())
        fields += f' mean_file: "{path}"'
    transform = read_transform(transform_param(fields), Path(), "data")
    expected = caffe_loops(pixels, crop, scale, values, mean)
    top = np.empty(transform.top_shape(pixels.shape), np.float32)
    transform.apply(pixels, top)
    assert top.shape == expected.shape
    assert top.tobytes() == expected.tobytes()


def test_mean_file_is_found_in_the_models_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", np.array([1, 2, 3], np.float64))
    transform = read_transform(transform_param('mean_file: "mean.npy"'), tmp_path, "data")
    top = np.empty((3, 2, 2), np.float32)
    transform.apply(np.full((3, 2, 2), 5, np.uint8), top)
    assert top[:, 0, 0].tolist() == [4, 3, 2]


def test_rectangular_crop_of_the_ssd_fork() -> None:
    transform = read_transform(transform_param("crop_h: 2 crop_w: 3"), Path(), "data")
    pixels = np.arange(30, dtype=np.uint8).reshape(1, 5, 6)
    assert transform.top_shape(pixels.shape) == (1, 2, 3)
    top = np.empty((1, 2, 3), np.float32)
    transform.apply(pixels, top)
    assert top[0].tolist() == [[7, 8, 9], [13, 14, 15]]


def test_resize_param_warps_with_its_interpolation() -> None:
    fields = "resize_param { prob: 1 resize_mode: WARP height: 4 width: 6 interp_mode: NEAREST }"
    transform = read_transform(transform_param(fields), Path(), "data")
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    expected = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)
    assert (transform.resized(image) == expected).all()
    linear = read_transform(transform_param("resize_param { height: 4 width: 6 }"), Path(), "data")
    assert (linear.resized(image) == cv2.resize(image, (6, 4))).all()


def test_mirror_never_flips_and_is_noted() -> None:
    transform = read_transform(transform_param("mirror: true"), Path(), "data")
    pixels = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    top = np.empty((1, 2, 3), np.float32)
    transform.apply(pixels, top)
    assert (top == pixels).all()
    assert any("mirror" in note for note in transform.notes)
    assert read_transform(transform_param("mirror: false"), Path(), "data").notes == ()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ('mean_value: 1 mean_file: "m.binaryproto"', ["mean_file", "mean_value"]),
        ("force_color: true force_gray: true", ["force_color", "force_gray"]),
        ("crop_size: 2 crop_h: 2 crop_w: 2", ["crop_size", "crop_h"]),
        ("crop_h: 2", ["crop_h", "crop_w"]),
        ("distort_param { brightness_prob: 1 } expand_param { prob: 1 }", ["distort_param", "expand_param"]),
        ("noise_param { hist_eq: true }", ["noise_param"]),
        ("resize_param { resize_mode: FIT_SMALL_SIZE height: 2 width: 2 }", ["resize_param", "FIT_SMALL_SIZE"]),
        ("resize_param { prob: 0.5 height: 2 width: 2 }", ["prob 0.5"]),
        ("resize_param { height: 2 }", ["height and width"]),
        ("resize_param { height: 2 width: 2 interp_mode: AREA interp_mode: CUBIC }", ["2 interp_mode"]),
        ('mean_file: "no_such.binaryproto"', ["no_such.binaryproto", "mean_file"]),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(fields: str, named: list[str]) -> None:
    with pytest.raises(DataError) as error:
        read_transform(transform_param(fields), Path(), "data")
    assert all(name in str(error.value) for name in [*named, "'data'"])


def test_all_problems_come_together() -> None:
    with pytest.raises(DataError) as error:
        read_transform(transform_param("crop_h: 2 pad: 3 force_color: true force_gray: true"), Path(), "data")
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("fields", "shape", "what"),
    [
        ("crop_size: 5", (3, 4, 9), "smaller than the crop"),
        ("mean_value: 1 mean_value: 2", (3, 4, 4), "2 mean_value"),
    ],
)
def test_pixels_that_do_not_fit(fields: str, shape: tuple[int, ...], what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_transform(transform_param(fields), Path(), "data").top_shape(shape)


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"", b"\x08\x01\x10\x03\x18\x02\x20\x02"])
def test_a_file_that_is_no_mean_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mean.binaryproto").write_bytes(content)
    with pytest.raises(DataError, match=r"mean\.binaryproto"):
        read_transform(transform_param('mean_file: "mean.binaryproto"'), tmp_path, "data")


def test_a_mean_image_of_another_size(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", np.zeros((3, 8, 8), np.float32))
    transform = read_transform(transform_param('mean_file: "mean.npy" crop_size: 4'), tmp_path, "data")
    with pytest.raises(DataError, match=r"\(3, 6, 8\).*\(3, 8, 8\)"):
        transform.top_shape((3, 6, 8))
