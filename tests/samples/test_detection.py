"""samples/detection on the shapes of examples/shapes, in FP32 and INT8."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from sample_boxes import overlap, pairs, read_boxes

_SHAPES = Path(__file__).resolve().parents[2] / "examples" / "shapes"
_ANCHORS = "16,16,28,28,44,44,63,63"
_DETECTORS = {
    "ssd": ("detection/ssd/ssd.py", ["--scale", "0.00392157", "--color", "rgb", "--labels", _SHAPES / "ssd_names.txt"]),
    "yolov3": ("detection/yolov3/yolov3.py", ["--anchors", _ANCHORS, "--labels", _SHAPES / "names.txt"]),
}


def _evaluation() -> dict[str, list[tuple[str, list[float]]]]:
    """Name and corners of every shape, by image."""
    known = defaultdict(list)
    for line in (_SHAPES / "evaluation.txt").read_text().splitlines():
        name, label, *corners = line.split()
        known[name].append((label, [float(c) for c in corners]))
    return known


def _options(detector: str) -> list[object]:
    return [*_DETECTORS[detector][1], "--size", "96x96"]


@pytest.mark.parametrize("int8", [[], ["--int8", "it"]], ids=["FP32", "INT8"])
@pytest.mark.parametrize("detector", _DETECTORS)
def test_finds_shapes_where_they_are(run_sample, calibrated, detector, int8):
    folder = calibrated(f"shapes/{detector}", 16)
    known = _evaluation()
    right = found = 0
    for name, shapes in known.items():
        code, out, err = run_sample(_DETECTORS[detector][0], folder, _SHAPES / name, *_options(detector), *int8)
        assert (code, err) == (0, "")
        boxes = read_boxes(out)
        found += len(boxes)
        right += pairs(boxes, shapes, least=0.5)
    total = sum(map(len, known.values()))
    assert right >= 0.8 * total
    assert right >= 0.8 * found


@pytest.mark.parametrize("detector", _DETECTORS)
def test_draws_what_it_prints(run_sample, calibrated, tmp_path, detector):
    folder = calibrated(f"shapes/{detector}", 16)
    path = _SHAPES / next(iter(_evaluation()))
    out = run_sample(_DETECTORS[detector][0], folder, path, *_options(detector), "--output", "drawn.png").out
    assert out.splitlines()[-1] == "drawn.png"
    image, drawn = cv2.imread(str(path)), cv2.imread(str(tmp_path / "drawn.png"))
    boxes = read_boxes(out)
    assert boxes
    changed = (image != drawn).any(axis=2)
    for box in boxes:
        left, top, right, bottom = (round(c) for c in box.corners)
        assert changed[min(bottom, len(changed) - 1), left:right].mean() > 0.9 or bottom == len(changed)
        assert changed[top:bottom, left].mean() > 0.9
    margin, width = 25, 90  # of captions; those that would leave the picture at the right begin further left
    near = np.zeros_like(changed)
    for box in boxes:
        left, top, right, bottom = (round(c) for c in box.corners)
        first = min(left, changed.shape[1] - width)
        near[max(top - margin, 0) : bottom + 3, max(first - 3, 0) : max(right, left + width) + 3] = True
    assert not (changed & ~near).any()


@pytest.mark.parametrize("detector", _DETECTORS)
def test_confidence_chooses_boxes(run_sample, calibrated, detector):
    folder = calibrated(f"shapes/{detector}", 16)
    path = _SHAPES / next(iter(_evaluation()))
    script = _DETECTORS[detector][0]
    every, some, none = (
        read_boxes(run_sample(script, folder, path, *_options(detector), "--confidence", least).out)
        for least in (0.1, 0.5, 1.01)
    )
    assert len(every) >= len(some) > len(none) == 0
    assert some == [box for box in every if box.score >= 0.5]
    assert [box.score for box in every] == sorted((box.score for box in every), reverse=True)


def test_without_names_classes_are_numbers(run_sample, calibrated):
    folder = calibrated("shapes/yolov3", 16)
    path = _SHAPES / next(iter(_evaluation()))
    with_names = read_boxes(run_sample(_DETECTORS["yolov3"][0], folder, path, *_options("yolov3")).out)
    plain = ["--anchors", _ANCHORS, "--size", "96x96"]
    without = read_boxes(run_sample(_DETECTORS["yolov3"][0], folder, path, *plain).out)
    names = (_SHAPES / "names.txt").read_text().split()
    assert [box.label for box in with_names] == [names[int(box.label)] for box in without]


def test_letterbox_and_stretched_image_give_boxes_at_one_place(run_sample, calibrated):
    """Both ways back from the input to the image are right: the same shape, seen at two sizes."""
    folder = calibrated("shapes/yolov3", 16)
    name, shapes = next((n, s) for n, s in _evaluation().items() if len(s) > 1)
    for resize in ("letterbox", "warp"):
        out = run_sample(_DETECTORS["yolov3"][0], folder, _SHAPES / name, *_options("yolov3"), "--resize", resize).out
        boxes = read_boxes(out)
        assert pairs(boxes, shapes, least=0.6) >= len(shapes) - 1
        assert all(max(overlap(box.corners, corners) for _, corners in shapes) > 0.4 for box in boxes)
