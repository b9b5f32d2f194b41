from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.data import ImagesSource, Preprocess, takes
from calib8.data.digests import digests_of
from calib8.data.mean import mean_bytes
from calib8.data.preprocess import Preparer, placement_of, resized
from calib8.errors import DataError, OptionError
from calib8.proto import caffe_pb2
from calib8.proto.blobs import blob_to_proto


def picture(index: int, shape: tuple[int, ...] = (4, 6, 3)) -> Any:
    return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


def write_images(folder: Path, count: int, shape: tuple[int, ...] = (4, 6, 3)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), picture(i, shape))


def prepared(image: Any, preprocess: Preprocess, size: tuple[int, int], channels: int = 3) -> Any:
    preparer = Preparer(preprocess, size, channels)
    top = np.empty(preparer.shape, np.float32)
    preparer.apply(image, top)
    return top


def loops(image: Any, p: Preprocess) -> Any:
    """(pixels - mean) * scale, pixel by pixel, for an image that has the sample's size."""
    height, width, channels = image.shape
    means = list(p.mean) or [0.0]
    scales = [p.scale] if isinstance(p.scale, float) else list(p.scale)
    out = np.empty(tuple(image.shape[axis] for axis in p.transpose), np.float32)
    for h in range(height):
        for w in range(width):
            for c in range(channels):
                from_h = height - 1 - h if p.mirror in (0, -1) else h
                from_w = width - 1 - w if p.mirror in (1, -1) else w
                from_c = 2 - c if p.color_format == "rgb" else c
                value = np.float32(image[from_h, from_w, from_c])
                value = value - np.float32(means[c % len(means)])
                place = (h, w, c)
                out[tuple(place[axis] for axis in p.transpose)] = value * np.float32(scales[c % len(scales)])
    return out


@given(
    seed=st.integers(0, 1000),
    color=st.sampled_from(["bgr", "rgb", None]),
    mean=st.sampled_from([(), (7.5,), (123.68, 116.779, 103.939)]),
    scale=st.sampled_from([1.0, 0.017, (0.1, 0.2, 0.3)]),
    mirror=st.sampled_from([None, 0, 1, -1]),
    transpose=st.permutations([0, 1, 2]),
)
def test_equals_loops(seed: int, color: Any, mean: Any, scale: Any, mirror: Any, transpose: list[int]) -> None:
    image = picture(seed, (3, 5, 3))
    a, b, c = transpose
    p = Preprocess(color_format=color, mean=mean, scale=scale, mirror=mirror, transpose=(a, b, c))
    assert prepared(image, p, (3, 5)).tobytes() == loops(image, p).tobytes()


def test_warp_is_bilinear_in_float() -> None:
    image = picture(1, (9, 7, 3))
    got = prepared(image, Preprocess(), (5, 6))
    expected = cv2.resize(image.astype(np.float32), (6, 5), interpolation=cv2.INTER_LINEAR)
    assert (got == expected.transpose(2, 0, 1)).all()


@pytest.mark.parametrize(
    ("image", "size", "rows", "columns"),
    [
        ((10, 20), (20, 20), (5, 15), (0, 20)),  # wide
        ((20, 10), (20, 20), (0, 20), (5, 15)),  # high
        ((10, 10), (10, 13), (0, 10), (1, 11)),  # the odd column goes to the right
        ((40, 10), (20, 20), (0, 20), (7, 12)),  # made smaller
        ((1000, 1), (10, 10), (0, 10), (4, 5)),  # never thinner than one pixel
    ],
)
def test_letterbox_places_the_image(image: Any, size: Any, rows: Any, columns: Any) -> None:
    p = Preprocess(resize="letterbox", mean=(10.0,), scale=2.0)
    got = prepared(np.full((*image, 3), 60, np.uint8), p, size)
    expected = np.full((3, *size), -20.0)  # padding is zero before the mean is subtracted
    expected[:, rows[0] : rows[1], columns[0] : columns[1]] = 100.0
    assert (got == expected).all()


def test_a_scale_that_float32_cannot_hold_gives_infinities() -> None:
    assert np.isinf(prepared(np.full((2, 2, 3), 9, np.uint8), Preprocess(scale=1e38), (2, 2))).all()


def test_crop_cuts_the_centre_without_resizing_where_it_fits() -> None:
    image = picture(1, (4, 7, 3))
    got = prepared(image, Preprocess(resize="crop"), (4, 4))
    assert (got == image[:, 1:5].transpose(2, 0, 1)).all()


def test_crop_with_a_short_side() -> None:
    image = picture(1, (8, 12, 3))
    got = prepared(image, Preprocess(resize="crop", short_side=4), (2, 3))
    small = cv2.resize(image.astype(np.float32), (6, 4), interpolation=cv2.INTER_LINEAR)
    assert (got == small[1:3, 1:4].transpose(2, 0, 1)).all()
    with pytest.raises(DataError, match="smaller than the sample"):
        prepared(image, Preprocess(resize="crop", short_side=2), (3, 3))


WAYS = [
    {}, {"resize": "letterbox"}, {"resize": "crop"}, {"resize": "crop", "short_side": 90}, {"mirror": 1}, {"mirror": 0},
    {"resize": "letterbox", "mirror": -1}, {"resize": "crop", "mirror": 1},
]  # fmt: skip


@pytest.mark.parametrize("image", [(80, 160), (160, 80)])
@pytest.mark.parametrize("way", WAYS)
def test_boxes_and_maps_lie_where_the_pixels_lie(image: Any, way: Any) -> None:
    height, width = image
    drawn = np.zeros((height, width), np.uint8)
    x0, y0, x1, y1 = 0.3, 0.35, 0.55, 0.7
    drawn[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 1
    p = Preprocess(**way)
    place = placement_of(image, (64, 48), p)
    sample = prepared(np.repeat(drawn[:, :, None] * 255, 3, axis=2), p, (64, 48))[0]
    rows, columns = (np.flatnonzero(sample.max(axis=axis) > 127) for axis in (1, 0))
    box = place.box((x0, y0, x1, y1))
    found = columns[0] / 48, rows[0] / 64, (columns[-1] + 1) / 48, (rows[-1] + 1) / 64
    assert found == pytest.approx([min(max(end, 0), 1) for end in box], abs=0.03)
    classes = place.map(drawn, 255)
    assert classes.shape == (64, 48) and ((classes == 1) != (sample > 127)).mean() < 0.03
    free = place.map(np.zeros(image, np.uint8), 255) == 255  # nothing but padding
    assert (sample[free] == 0).all() and free.any() == (way.get("resize") == "letterbox")


def test_mean_files(tmp_path: Path) -> None:
    mean = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    np.save(tmp_path / "mean.npy", mean.astype(np.float64))
    (tmp_path / "mean.binaryproto").write_bytes(blob_to_proto(mean[np.newaxis]).SerializeToString())
    image = picture(1, (4, 5, 3))
    for name in ("mean.npy", "mean.binaryproto"):
        got = prepared(image, Preprocess(mean=tmp_path / name), (4, 5))
        assert (got == image.transpose(2, 0, 1) - mean).all()
    with pytest.raises(DataError, match=r"\(3, 4, 5\).*\(3, 4, 4\)"):
        prepared(image, Preprocess(mean=tmp_path / "mean.npy"), (4, 4))


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"mean\.npy"):
        prepared(picture(1), Preprocess(mean=tmp_path / "mean.npy"), (4, 6))


def test_lists_folders_and_single_images(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures", 12)
    (tmp_path / "pictures" / "notes.txt").write_text("not an image")
    (tmp_path / "pictures" / "._3.png").write_bytes(b"what macOS leaves on foreign disks")
    (tmp_path / "list.txt").write_text("pictures/3.png\npictures/1.png 7\n")
    shape = (2, 3, 4, 6)
    folder = ImagesSource(tmp_path / "pictures", "in", shape, Preprocess())
    assert folder.size == 12
    first = next(folder.batches())["in"]
    assert (first[1] == picture(1).transpose(2, 0, 1)).all()
    listed = ImagesSource(tmp_path / "list.txt", "in", shape, Preprocess())
    (batch,) = listed.batches()
    assert (batch["in"] == np.stack([picture(3), picture(1)]).transpose(0, 3, 1, 2)).all()
    single = ImagesSource(tmp_path / "pictures" / "5.png", "in", shape, Preprocess())
    (batch,) = single.batches()
    assert (batch["in"] == picture(5).transpose(2, 0, 1)[np.newaxis]).all()


def test_other_inputs_are_the_same_in_every_batch(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    constants = {"info": np.array([[4, 6, 1]], np.float32), "each": np.arange(2, dtype=np.float32).reshape(2, 1)}
    source = ImagesSource(tmp_path, "in", (2, 3, 4, 6), Preprocess(), constants)
    assert source.shapes == {"in": (2, 3, 4, 6), "info": (1, 3), "each": (2, 1)}
    batches = list(source.batches())
    assert [len(batch["in"]) for batch in batches] == [2, 1]
    assert all(batch["info"].tolist() == [[4, 6, 1]] for batch in batches)
    assert [batch["each"].tolist() for batch in batches] == [[[0], [1]], [[0]]]  # as many as images


def test_one_by_one_they_are_the_same(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    info = np.float32([[1, 2], [1, 2], [1, 2]])
    whole = ImagesSource(tmp_path, "x", (3, 3, 4, 6), Preprocess(), {"info": info})
    single = whole.one_by_one()
    assert single.shapes == {"x": (1, 3, 4, 6), "info": (1, 2)} and single.batch_size == 1
    given, wanted = list(single.batches()), list(whole.batches())
    assert len(given) == single.size == 5 and whole.batch_size == 3
    assert np.array_equal(np.concatenate([b["x"] for b in given]), np.concatenate([b["x"] for b in wanted]))
    assert all(np.array_equal(b["info"], info[:1]) for b in given)
    assert [digests_of(b).item() for b in given] == np.concatenate([digests_of(b) for b in wanted]).tolist()
    assert len(list(single.without([0, 2]).batches())) == 3
    assert next(single.prepared_by(Preprocess(scale=2.0)).batches())["x"].shape == (1, 3, 4, 6)


def test_an_input_of_one_channel_takes_gray(tmp_path: Path) -> None:
    write_images(tmp_path, 1, (4, 6, 1))
    (batch,) = ImagesSource(tmp_path, "in", (1, 1, 4, 6), Preprocess()).batches()
    assert (batch["in"][0, 0] == picture(0, (4, 6, 1))[:, :, 0]).all()


def test_passes_repeat(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    source = ImagesSource(tmp_path, "in", (2, 3, 8, 8), Preprocess(resize="letterbox", scale=0.1))
    first, second = ([b["in"].tobytes() for b in takes(source, 5)] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (1, 3), (0, 3, 4, 6), (1, 3, 4, 6, 1)])
def test_inputs_that_take_no_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_images(tmp_path, 1)
    with pytest.raises(DataError, match="'in'"):
        ImagesSource(tmp_path, "in", shape, Preprocess())


def test_a_size_that_is_not_the_inputs(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    with pytest.raises(DataError, match=r"\(1, 3, 4, 6\).*\(3, 5, 5\)"):
        ImagesSource(tmp_path, "in", (1, 3, 4, 6), Preprocess(size=(5, 5)))


def test_missing_and_damaged_images_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    (tmp_path / "list.txt").write_text("0.png\ngone.png\n")
    with pytest.raises(DataError, match=r"list\.txt:2: no file .*gone\.png"):
        ImagesSource(tmp_path / "list.txt", "in", (1, 3, 4, 6), Preprocess())
    (tmp_path / "gone.png").write_bytes(b"nothing")
    source = ImagesSource(tmp_path / "list.txt", "in", (1, 3, 4, 6), Preprocess())
    with pytest.raises(DataError, match=r"list\.txt:2: .*gone\.png is damaged"):
        list(source.batches())
    for listing in ("nowhere.txt", "nowhere.png", "nowhere"):
        with pytest.raises(DataError, match="nowhere"):
            ImagesSource(tmp_path / listing, "in", (1, 3, 4, 6), Preprocess())


def test_options_are_checked_together() -> None:
    with pytest.raises(OptionError) as error:
        Preprocess(size=(0, 3), resize="stretch", color_format="hsv", mirror=2, transpose=(0, 0, 1), short_side=3)
    assert len(error.value.problems) == 6


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(mean=(1.0, 2.0)),
        Preprocess(mean=(float("nan"),)),
        Preprocess(scale=(1.0, 2.0)),
        Preprocess(scale=float("inf")),
        Preprocess(color_format="gray"),
    ],
)
def test_values_that_do_not_fit_three_channels(preprocess: Preprocess) -> None:
    with pytest.raises(DataError):
        Preparer(preprocess, (2, 2), 3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (2, 9, 20), (3, 100, 90)])
def test_a_mean_is_written_as_protobuf_writes_it(shape):
    mean = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    blob = caffe_pb2.BlobProto(num=1, channels=shape[0], height=shape[1], width=shape[2], data=mean.reshape(-1))
    assert mean_bytes(mean) == blob.SerializeToString(deterministic=True)


def test_a_resize_to_more_pixels_than_an_image_may_have():
    """A line of pixels whose short side becomes 4,000 long: refused, and not tried."""
    long = np.zeros((1, 60_000, 3), np.uint8)
    wanted = Preprocess(size=(8, 8), resize="crop", short_side=4000)
    with pytest.raises(DataError, match="would have 4000 x 240000000 pixels after resizing, more than 33554432"):
        resized(long, (8, 8), wanted)
