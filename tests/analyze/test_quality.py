"""Measures against counting by hand, against pycocotools, and intervals that hold what they should."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest

from calib8.analyze.answers import Classes, ClassMap, Detection, DetectionRows, Numbers, Picture
from calib8.analyze.quality import (
    MeanAveragePrecision,
    MeanIou,
    Psnr,
    Ssim,
    TopK,
    difference_of,
    measures_for,
)


def once(parts):
    return np.ones(len(parts), np.int64)


def scene(random, images=12, classes=3):
    """Boxes, and detections of them that are shifted, missing, doubled and wrong."""
    truths, rows = [], []
    for _ in range(images):
        truth, found = [], []
        for _ in range(random.integers(0, 6)):
            x, y, w, h = random.uniform([0, 0, 0.1, 0.1], [0.6, 0.6, 0.4, 0.4])
            label = int(random.integers(1, classes + 1))
            truth.append(Detection(label, 1.0, (x, y, x + w, y + h)))
            for _ in range(random.integers(0, 3)):
                dx, dy, dw, dh = random.uniform(-0.06, 0.06, 4)
                guess = label if random.random() < 0.8 else 1
                found.append([0, guess, random.uniform(0.05, 1), x + dx, y + dy, x + w + dw, y + h + dh])
        truths.append(truth)
        rows.append(np.array(found or [[-1] * 7], np.float32).reshape(1, 1, -1, 7))
    return truths, rows


def test_average_precision_agrees_with_pycocotools():
    coco = pytest.importorskip("pycocotools.coco", reason="no pycocotools")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    truths, rows = scene(np.random.default_rng(4))
    side = 1000.0
    annotations, detections = [], []
    for image, (truth, found) in enumerate(zip(truths, rows, strict=True)):
        for one in truth:
            x0, y0, x1, y1 = (side * c for c in one.box)
            box, area = [x0, y0, x1 - x0, y1 - y0], (x1 - x0) * (y1 - y0)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": one.label, "bbox": box, "area": area,
                    "iscrowd": 0,
                }
            )  # fmt: skip
        for row in found.reshape(-1, 7):
            if row[0] >= 0:
                x0, y0, x1, y1 = (float(side * c) for c in row[3:])
                box = [x0, y0, x1 - x0, y1 - y0]
                detections.append({"image_id": image, "category_id": int(row[1]), "bbox": box, "score": float(row[2])})
    with contextlib.redirect_stdout(io.StringIO()):
        truth_of_coco = coco.COCO()
        truth_of_coco.dataset = {
            "images": [{"id": i, "width": side, "height": side} for i in range(len(truths))],
            "categories": [{"id": c, "name": str(c)} for c in (1, 2, 3)], "annotations": annotations,
        }  # fmt: skip
        truth_of_coco.createIndex()
        judge = evaluation.COCOeval(truth_of_coco, truth_of_coco.loadRes(detections), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    answer = DetectionRows(("d",))
    for measure, expected in (
        (MeanAveragePrecision(answer), judge.stats[0]),
        (MeanAveragePrecision(answer, (0.5,)), judge.stats[1]),
        (MeanAveragePrecision(answer, (0.75,)), judge.stats[2]),
    ):
        parts = [measure.part({"d": found}, truth) for found, truth in zip(rows, truths, strict=True)]
        assert measure.value(parts, once(parts)) == pytest.approx(expected, abs=1e-6)


def test_weights_are_samples_that_were_drawn_more_than_once():
    truths, rows = scene(np.random.default_rng(5), images=6)
    measure = MeanAveragePrecision(DetectionRows(("d",)), (0.5,))
    parts = [measure.part({"d": found}, truth) for found, truth in zip(rows, truths, strict=True)]
    weights = np.array([2, 0, 1, 3, 0, 1])
    repeated = [part for part, w in zip(parts, weights, strict=True) for _ in range(w)]
    assert measure.value(parts, weights) == pytest.approx(measure.value(repeated, once(repeated)))


def test_top_k():
    answer = Classes(("p",))
    outputs = {"p": np.array([[0.1, 0.4, 0.4, 0.1]])}
    assert [TopK(answer, 1).part(outputs, label) for label in range(4)] == [0, 1, 0, 0]
    assert [TopK(answer, 2).part(outputs, label) for label in range(4)] == [0, 1, 1, 0]
    assert TopK(answer, 1).value([1.0, 0.0, 1.0], np.array([1, 2, 1])) == 0.5


def test_mean_iou_counts_pixels():
    random = np.random.default_rng(0)
    scores = random.standard_normal((2, 1, 4, 5, 6))
    truths = random.integers(0, 4, (2, 5, 6)).astype(np.uint8)
    truths[0, 0, :3] = 255
    measure = MeanIou(ClassMap(("m",)))
    parts = [measure.part({"m": s}, t) for s, t in zip(scores, truths, strict=True)]
    each = []
    for label in range(4):
        both = union = 0
        for s, t in zip(scores, truths, strict=True):
            for y, x in np.ndindex(5, 6):
                if t[y, x] != 255:
                    a, b = t[y, x] == label, int(np.argmax(s[0, :, y, x])) == label
                    both, union = both + (a and b), union + (a or b)
        each.append(both / union)
    assert measure.value(parts, once(parts)) == pytest.approx(sum(each) / 4)


def test_pictures():
    random = np.random.default_rng(1)
    truth = random.uniform(0, 255, (1, 1, 24, 20)).astype(np.float32)
    near = truth + 5
    answer = Picture(("y",))
    assert Psnr(answer, 255.0).part({"y": near}, truth) == pytest.approx(10 * math.log10(255**2 / 25), rel=1e-5)
    assert Psnr(answer, 255.0).part({"y": truth}, truth) == pytest.approx(100)
    ssim = Ssim(answer, 255.0)
    assert ssim.part({"y": truth}, truth) == pytest.approx(1)
    noisy = truth + random.normal(0, 40, truth.shape)
    assert ssim.part({"y": noisy}, truth) == pytest.approx(naive_ssim(noisy[0, 0], truth[0, 0]), rel=1e-6)


def naive_ssim(x, y, peak=255.0):
    window = np.array([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)])
    window /= window.sum()
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (p[top : top + 11, left : left + 11].astype(np.float64) for p in (x, y))
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
            found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


def test_intervals_are_paired():
    """The same errors in both networks make no difference, however many there are."""
    measure = TopK(Classes(("p",)), 1)
    random = np.random.default_rng(2)
    right = (random.random(200) < 0.6).astype(float).tolist()
    same = difference_of(measure, right, right)
    assert (same.low, same.high, same.difference) == (0, 0, 0) and "cannot tell" in same.sentence
    worse = [r if i % 8 else 0.0 for i, r in enumerate(right)]
    lost = difference_of(measure, right, worse)
    assert lost.low < lost.difference < lost.high < 0 and "worse" in lost.sentence
    assert difference_of(measure, worse, right).sentence.startswith("INT8 is better")
    # About 95 of 100: the deviation of a mean of differences of 0 and 1.
    changed = np.array(right) - np.array(worse)
    assert lost.high - lost.low == pytest.approx(2 * 1.96 * changed.std() / math.sqrt(200), rel=0.2)


def test_numbers_are_not_measured():
    assert measures_for(Numbers(("y",))) == ()
    assert [m.name for m in measures_for(Classes(("y",)))] == ["top-1", "top-5"]
    assert [m.name for m in measures_for(Classes(("y",)), classes=5)] == ["top-1"]  # of five, the best five are all
