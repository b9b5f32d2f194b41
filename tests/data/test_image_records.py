"""Images as records: keys, pixels, labels, classes, and images that cannot be used."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from calib8.data import Preprocess
from calib8.data.image_records import RecordOptions, image_records, labelled_images
from calib8.errors import DataError
from calib8.proto.caffe_pb2 import Datum

RAW = RecordOptions(Preprocess())


@pytest.fixture
def image(tmp_path):
    """image(name, height, width): random pixels in a file; returns them."""
    rng = np.random.default_rng(0)

    def make(name, height=6, width=5, channels=3):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, channels), np.uint8)
        assert cv2.imwrite(str(path), pixels)
        return pixels

    return make


def records(source, options=RAW, classes=(), seed=None):
    found = labelled_images(source, classes)
    found = found if seed is None else found.shuffled(seed)
    root = source if source.is_dir() else source.parent
    return [(k.decode(), Datum.FromString(r)) for k, r in image_records(found.images, root, options, lambda done: None)]


def test_a_list_with_labels(tmp_path, image):
    first, second = image("sub/a.png"), image("b.png")
    (tmp_path / "list.txt").write_text("sub/a.png 7\nb.png -2\n")
    (key_a, a), (key_b, b) = records(tmp_path / "list.txt")
    assert (key_a, key_b) == ("00000000_sub/a.png", "00000001_b.png")
    assert (a.label, b.label) == (7, -2)
    for datum, pixels in ((a, first), (b, second)):
        assert (datum.channels, datum.height, datum.width, datum.encoded) == (3, 6, 5, False)
        stored = np.frombuffer(datum.data, np.uint8).reshape(3, 6, 5)
        assert np.array_equal(stored, pixels.transpose(2, 0, 1))


def test_labels_that_a_record_cannot_hold_are_refused(tmp_path, image):
    for name in "abcd":
        image(f"{name}.png")
    (tmp_path / "list.txt").write_text("a.png 2.5\nb.png 1 0\nc.png 3.0\nd.png 99999999999\n")
    with pytest.raises(DataError) as caught:
        list(image_records(labelled_images(tmp_path / "list.txt").images, tmp_path, RAW, lambda done: None))
    assert [p.partition("has the label ")[2].partition(";")[0] for p in caught.value.problems] == [
        "2.5", "several numbers", "1e+11",
    ]  # fmt: skip


def test_a_folder_has_label_0_and_the_order_of_names(tmp_path, image):
    for name in ("b.png", "a.png", "c.bmp"):
        image(name)
    (tmp_path / "notes.txt").write_text("no image")
    found = records(tmp_path)
    assert [key for key, _ in found] == ["00000000_a.png", "00000001_b.png", "00000002_c.bmp"]
    assert {datum.label for _, datum in found} == {0}


def test_a_folder_for_each_class(tmp_path, image):
    for name in ("dog/2.png", "cat/x/1.png", "cat/3.png"):
        image(name)
    (tmp_path / ".hidden").mkdir()
    for beside in (tmp_path / "._dog.png", tmp_path / "dog" / "._2.png", tmp_path / "cat" / "x" / "._1.png"):
        beside.write_bytes(b"what macOS leaves on foreign disks")
    found = records(tmp_path)
    assert [(k, d.label) for k, d in found] == [
        ("00000000_cat/3.png", 0), ("00000001_cat/x/1.png", 0), ("00000002_dog/2.png", 1),
    ]  # fmt: skip
    assert labelled_images(tmp_path).classes == ("cat", "dog")
    given = records(tmp_path, classes=["dog", "horse", "cat"])
    assert [d.label for _, d in given] == [2, 2, 0]


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (["a/1.png", "b/1.png"], ["a"], r"no class\n  - 'b'"),
        (["1.png", "a/1.png"], [], "beside folders"),
        (["a/1.txt"], [], "nor do its folders"),
        ([], [], "holds no images"),
    ],
)
def test_folders_that_cannot_be_read_as_classes(tmp_path, image, names, classes, message):
    source = tmp_path / "source"
    source.mkdir()
    for name in names:
        if name.endswith(".png"):
            image(f"source/{name}")
        else:
            (source / name).parent.mkdir()
            (source / name).write_text("")
    with pytest.raises(DataError, match=message):
        labelled_images(source, classes)


def test_the_seed_decides_the_order(tmp_path, image):
    for index in range(20):
        image(f"{index:02}.png")
    plain, one, again, two = (records(tmp_path, seed=seed) for seed in (None, 1, 1, 2))
    orders = [[key.partition("_")[2] for key, _ in found] for found in (plain, one, two)]
    assert one == again
    assert len({tuple(order) for order in orders}) == 3
    assert {tuple(sorted(order)) for order in orders} == {tuple(orders[0])}
    assert [key[:8] for key, _ in one] == [f"{i:08}" for i in range(20)]


@pytest.mark.parametrize(("resize", "gray"), [("warp", False), ("letterbox", False), ("crop", True)])
def test_size_and_gray(tmp_path, image, resize, gray):
    pixels = image("a.png", 12, 20)
    options = RecordOptions(Preprocess(size=(8, 4), resize=resize), gray)
    ((_, datum),) = records(tmp_path, options)
    channels = 1 if gray else 3
    assert (datum.channels, datum.height, datum.width, len(datum.data)) == (channels, 8, 4, channels * 32)
    stored = np.frombuffer(datum.data, np.uint8).reshape(channels, 8, 4)
    if resize == "warp":
        assert np.array_equal(stored.transpose(1, 2, 0), cv2.resize(pixels, (4, 8)))
    if resize == "letterbox":
        assert not stored[:, :3].any() and not stored[:, -3:].any() and stored[:, 3:5].any()


def test_encoded_files_stay_as_they_are(tmp_path, image):
    image("a.jpg", 6, 5)
    image("b.png", 9, 9)
    (_, a), (_, b) = records(tmp_path, RecordOptions(Preprocess(), encoded=True))
    for datum, name in ((a, "a.jpg"), (b, "b.png")):
        assert datum.encoded and datum.data == (tmp_path / name).read_bytes()


def test_encoded_files_that_are_changed_lose_nothing(tmp_path, image):
    pixels = image("a.png", 6, 5)
    with_alpha = image("b.png", 6, 5, channels=4)
    options = RecordOptions(Preprocess(size=(3, 5)), encoded=True)
    (_, small), _ = records(tmp_path, options)
    decoded = cv2.imdecode(np.frombuffer(small.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert small.encoded and np.array_equal(decoded, cv2.resize(pixels, (5, 3)))
    (_, _), (_, opaque) = records(tmp_path, RecordOptions(Preprocess(), encoded=True))
    decoded = cv2.imdecode(np.frombuffer(opaque.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded, with_alpha[:, :, :3])


def test_all_images_that_cannot_be_used_are_named(tmp_path, image):
    image("a.png")
    image("b.png", 7, 7)
    image("d.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="2 of 4 images") as caught:
        records(tmp_path)
    first, second = caught.value.problems
    assert "b.png is 7 x 7 pixels, the first one 6 x 5" in first
    assert "c.png" in second


def test_only_so_many_are_named(tmp_path):
    for index in range(30):
        (tmp_path / f"{index:02}.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        records(tmp_path)
    assert len(caught.value.problems) == 21 and caught.value.problems[-1] == "and 10 more"


def test_progress_counts_images(tmp_path, image):
    for name in ("a.png", "b.png"):
        image(name)
    done = []
    list(image_records(labelled_images(tmp_path).images, tmp_path, RAW, done.append))
    assert done == [1, 2]
