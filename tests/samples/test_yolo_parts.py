"""The parts of samples/detection/yolov3: decoding, suppression, the letterbox and the data layer."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import caffe
from calib8.errors import Calib8Error

_ROOT = Path(__file__).resolve().parents[2]
_LAYER = _ROOT / "calibration_tool" / "samples" / "detection" / "yolov3" / "yolo_data_layer.py"
_once = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_decode_is_the_formula(yolov3):
    rng = np.random.default_rng(0)
    anchors, (rows, columns), (height, width), classes = np.array([[10, 14], [30, 20]]), (2, 3), (64, 96), 4
    output = rng.normal(0, 2, (1, 2 * (5 + classes), rows, columns))
    corners, scores = yolov3.decode(output, anchors, height, width)
    n = 0
    for a in range(2):
        for i in range(rows):
            for j in range(columns):
                x, y, w, h, objectness, *own = output[0, a * (5 + classes) : (a + 1) * (5 + classes), i, j]
                cx, cy = (j + _sigmoid(x)) * width / columns, (i + _sigmoid(y)) * height / rows
                half_w, half_h = anchors[a][0] * math.exp(w) / 2, anchors[a][1] * math.exp(h) / 2
                assert corners[n] == pytest.approx([cx - half_w, cy - half_h, cx + half_w, cy + half_h])
                assert scores[n] == pytest.approx([_sigmoid(objectness) * _sigmoid(c) for c in own])
                n += 1
    assert corners.shape == (n, 4)
    assert scores.shape == (n, classes)


def test_decode_survives_extreme_values(yolov3):
    output = np.full((1, 6, 1, 1), 1e6, np.float32)
    corners, scores = yolov3.decode(output, np.array([[1.0, 1.0]]), 8, 8)
    assert np.isfinite(corners).all()
    assert scores == pytest.approx(1)
    assert yolov3.decode(-output, np.array([[1.0, 1.0]]), 8, 8)[1] == pytest.approx(0)


def _kept(boxes: list[tuple[float, ...]], scores: list[float], most: float) -> list[int]:
    """Naive suppression."""
    kept: list[int] = []
    for k in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        a = boxes[k]
        for b in (boxes[m] for m in kept):
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            both = w * h if w > 0 and h > 0 else 0
            areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
            if both > most * (areas - both):
                break
        else:
            kept.append(k)
    return kept


_box = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@_once
@given(st.lists(_box, max_size=12), st.integers(0, 99), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_suppression_keeps_what_the_naive_one_keeps(yolov3, boxes, seed, most):
    scores = np.random.default_rng(seed).random(len(boxes))
    corners = np.array(boxes, float).reshape(-1, 4)
    assert yolov3.suppress(corners, scores, most) == _kept(boxes, scores.tolist(), most)


def test_each_class_is_suppressed_by_itself(yolov3):
    # One cell with two anchors of nearly one size; the first is class 0, the second class 1, then class 0 as well.
    def map_of(second: list[float]) -> np.ndarray:
        return np.array([[0, 0, 0, 0, 9, 9, -9], [0, 0, 0.05, 0, 8, *second]], np.float32).reshape(1, 14, 1, 1)

    anchors = np.array([[8.0, 8.0], [8.0, 8.0]])
    two = yolov3.boxes_of([map_of([-9, 9])], anchors, (16, 16), 0.3, 0.45)
    assert [box.label for box in two] == [0, 1]
    (one,) = yolov3.boxes_of([map_of([9, -9])], anchors, (16, 16), 0.3, 0.45)
    assert one.score == pytest.approx(_sigmoid(9) ** 2)


def test_anchors_go_to_the_finest_map_first_whatever_the_order_of_outputs(yolov3):
    def map_of(side: int) -> np.ndarray:
        output = np.full((1, 6, side, side), -20, np.float32)
        output[0, :, 0, 0] = [0, 0, 0, 0, 20, 20]
        return output

    anchors = np.array([[2.0, 2.0], [12.0, 12.0]])
    for outputs in ([map_of(4), map_of(2)], [map_of(2), map_of(4)]):
        boxes = yolov3.boxes_of(outputs, anchors, (16, 16), 0.5, 0.9)
        assert sorted((b.left, b.right) for b in boxes) == [(-2, 10), (1, 3)]


@_once
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([(32, 32), (32, 48), (64, 40)]), st.booleans())
def test_corners_find_back_into_the_image(yolov3, height, width, size, padding):
    image = np.zeros((height, width, 3), np.uint8)
    canvas, place = yolov3.fit(image, *size, padding=padding)
    assert canvas.shape == (*size, 3)
    covered = (canvas != yolov3.fit.__globals__["GREY"]).all(axis=2)
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    whole = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], float)
    assert covered.sum() == (whole[0, 2] - whole[0, 0]) * (whole[0, 3] - whole[0, 1])
    assert yolov3.in_image(whole, place, image)[0] == pytest.approx([0, 0, width, height])
    if padding:
        assert len(rows) == size[0] or len(columns) == size[1]
        factor = min(size[0] / height, size[1] / width)
        assert abs(len(rows) - height * factor) <= 1 and abs(len(columns) - width * factor) <= 1
        assert abs(rows[0] - (size[0] - 1 - rows[-1])) <= 1  # in the middle
        assert abs(columns[0] - (size[1] - 1 - columns[-1])) <= 1
    else:
        assert covered.all()


def test_corners_outside_are_cut(yolov3):
    image = np.zeros((10, 20, 3), np.uint8)
    _, place = yolov3.fit(image, 20, 20)
    assert yolov3.in_image(np.array([[-5.0, 0.0, 25.0, 30.0]]), place, image)[0].tolist() == [0, 0, 20, 10]


def test_letterbox_shows_the_image(yolov3):
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = (10, 20, 30)
    canvas, place = yolov3.fit(image, 40, 40)
    assert (place.ratio, place.offset) == ((1, 1), (0, 10))
    assert (canvas[10:30] == image).all()
    assert (canvas[:10] == 127.5).all()
    assert (canvas[30:] == 127.5).all()
    prepared = yolov3.to_input(canvas, "rgb", 0.5)
    assert prepared[:, 10, 30].tolist() == [15, 10, 5]
    assert yolov3.to_input(canvas, "bgr", 1)[:, 10, 30].tolist() == [10, 20, 30]


def _write_net(folder: Path, param: str) -> Path:
    shutil.copy(_LAYER, folder)
    path = folder / "deploy.prototxt"
    path.write_text(
        'layer { name: "data" type: "Python" top: "data" python_param { module: "yolo_data_layer" '
        f'layer: "YoloDataLayer" param_str: "{param}" }} }}\n'
        'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }\n'
    )
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[np.ndarray]:
    """Two images in a list beside the model."""
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in ((12, 30, 3), (40, 16, 3))]
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    (tmp_path / "list.txt").write_text("0.png\n\n1.png\n")
    return images


@pytest.mark.parametrize(
    ("more", "color", "scale", "padding"),
    [
        ("", "rgb", 1 / 255, True),
        (", 'color_format': 'bgr', 'scale': 0.5", "bgr", 0.5, True),
        (", 'padding': False", "rgb", 1 / 255, False),
    ],
)
def test_data_layer_gives_what_the_detector_gives_its_network(yolov3, tmp_path, photos, more, color, scale, padding):
    net = caffe.Net(str(_write_net(tmp_path, "{'data_list': 'list.txt', 'h': 24, 'w': 32" + more + "}")), caffe.TEST)
    for image in [*photos, photos[0]]:  # after the last one comes the first one again
        net.forward()
        expected = yolov3.to_input(yolov3.fit(image, 24, 32, padding)[0], color, scale)
        assert np.array_equal(net.blobs["data"].data[0], expected.astype(np.float32))


@pytest.mark.parametrize(
    ("param", "word"),
    [
        ("{'h': 8, 'w': 8}", "data_list"),
        ("{'data_list': 'list.txt', 'w': 8}", "'h'"),
        ("{'data_list': 'list.txt', 'h': 8, 'w': 8, 'mirror': 1}", "mirror"),
        ("{'data_list': 'list.txt', 'h': 8, 'w': 8, 'color_format': 'grey'}", "grey"),
        ("{'data_list': 'nowhere.txt', 'h': 8, 'w': 8}", "nowhere.txt"),
        ("{'data_list': 'empty.txt', 'h': 8, 'w': 8}", "empty.txt"),
        ("__import__('os').getcwd()", "YoloDataLayer"),
    ],
)
def test_data_layer_refuses(tmp_path, photos, param, word):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(Calib8Error, match=word):
        caffe.Net(str(_write_net(tmp_path, param)), caffe.TEST)


def test_data_layer_names_an_image_that_is_none(tmp_path, photos):
    (tmp_path / "list.txt").write_text("list.txt\n")
    net = caffe.Net(str(_write_net(tmp_path, "{'data_list': 'list.txt', 'h': 8, 'w': 8}")), caffe.TEST)
    with pytest.raises(Calib8Error, match=r"list\.txt is no image"):
        net.forward()


def test_the_guides_command_calibrates_through_the_data_layer(tmp_path):
    shutil.copytree(_ROOT / "examples" / "shapes", tmp_path / "shapes", ignore=shutil.ignore_patterns("bmnet_*"))
    folder = tmp_path / "shapes" / "yolov3"
    shutil.copy(_LAYER, folder)
    done = subprocess.run(
        [sys.executable, "calibration.py", "yolov3", str(folder), "--memory", "--repair", "none"],
        cwd=_ROOT / "calibration_tool", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.glob("bmnet_*")} == {
        "bmnet_yolov3.calib8.json",
        "bmnet_yolov3_int8.caffemodel",
        "bmnet_yolov3_calibration_table",
        "bmnet_yolov3_calibration_table.pb2",
        "bmnet_yolov3_calibration_table.prototxt",
    }
    rows = (folder / "bmnet_yolov3_calibration_table").read_text().splitlines()
    data = next(row for row in rows if row.startswith("data "))
    assert 0.5 < float(data.split()[1]) <= 1.1  # pixels are between 0 and 1
