"""RetinaFaceDetection and FrcnDetection against loops written from sophgo/caffe."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

f32 = np.float32


def pixels(box):
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def mixed_overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return w * h / (pixels(a) + pixels(b) - w * h) if w > 0 and h > 0 else 0


def frcn(codes, scores, regions, least, threshold):
    """One image: codes (R, C, 4), scores (R, C), regions (R, 5)."""
    found = []
    for r, (_, x1, y1, x2, y2) in enumerate(regions):
        w, h = x2 - x1 + 1, y2 - y1 + 1
        for c in range(1, scores.shape[1]):
            if scores[r, c] > f32(least):
                dx, dy, dw, dh = codes[r, c]
                cx, cy = dx * w + (x1 + w * f32(0.5)), dy * h + (y1 + h * f32(0.5))
                new_w, new_h = f32(math.exp(dw)) * w, f32(math.exp(dh)) * h
                box = (cx - new_w / 2, cy - new_h / 2, cx + new_w / 2, cy + new_h / 2)
                found.append([box, c, scores[r, c]])
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            if a[2] != 0 and b[2] != 0 and a[1] == b[1] and mixed_overlap(a[0], b[0]) > f32(threshold):
                (a if a[2] < b[2] else b)[2] = 0
    return [[*box, c, s] for box, c, s in found if s > 0]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_frcn_detection(run_layer, data):
    images, count, classes = (data.draw(st.integers(1, n)) for n in (2, 12, 4))
    keep, threshold = data.draw(st.integers(1, 10)), data.draw(st.sampled_from([0.5, 0.1]))
    least = data.draw(st.sampled_from([0.1, 0.4]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    corner = rng.uniform(0, 30, (images, 1, count, 2))
    regions = np.concatenate([np.zeros((images, 1, count, 1)), corner, corner + rng.uniform(0, 40, corner.shape)], -1)
    codes = rng.normal(0, 0.3, (images * count, classes * 4))
    scores = rng.uniform(0, 1, (images * count, classes))
    if data.draw(st.booleans()):
        scores = np.round(scores * 4) / 4
    regions, codes, scores = regions.astype(f32), codes.astype(f32), scores.astype(f32)
    param = (
        f"frcn_detection_param {{ class_num: {classes} keep_topk: {keep} nms_threshold: {threshold} "
        f"obj_threshold: {least} }}"
    )
    top = run_layer("FrcnDetection", codes, scores, regions, param=param)
    expected, limit = np.zeros((images, 1, keep, 6), f32), keep
    for n in range(images):
        part = slice(n * count, (n + 1) * count)
        rows = frcn(codes[part].reshape(count, classes, 4), scores[part], regions[n, 0], least, threshold)
        limit = min(limit, len(rows))
        for r, row in enumerate(rows[:limit]):
            expected[n, 0, r] = row
    assert top.shape == expected.shape
    assert np.allclose(top, expected, rtol=1e-5, atol=1e-4)


def anchor(scale):
    """The fork's arithmetic: a base of 16 pixels, whose far corner it makes one longer, then the same again."""
    w = f32(15 - 0 + 1)
    centre = f32(0 + 0.5 * (w - 1))
    x1, x2 = centre - f32(0.5) * (w - 1), centre + f32(0.5) * (w + 1)
    w = (x2 - x1 + 1) * scale
    centre = x1 + f32(0.5) * (x2 - x1 + 1 - 1)
    return centre - f32(0.5) * (w - 1), centre + f32(0.5) * (w + 1)


def retina_faces(levels, least):
    found = []
    for stride, scales, scores, codes, marks in levels:
        height, width = scores.shape[1:]
        for a, scale in enumerate(scales):
            for i in range(height):
                for j in range(width):
                    score = scores[2 + a, i, j]
                    if score < f32(least):
                        continue
                    low, high = anchor(scale)
                    x1, y1, x2, y2 = (f32(e + s * stride) for e, s in ((low, j), (low, i), (high, j), (high, i)))
                    w, h = x2 - x1 + 1, y2 - y1 + 1
                    cx, cy = x1 + f32(0.5) * (w - 1), y1 + f32(0.5) * (h - 1)
                    dx, dy, dw, dh = codes[4 * a : 4 * a + 4, i, j]
                    px, py, pw, ph = dx * w + cx, dy * h + cy, f32(math.exp(dw)) * w, f32(math.exp(dh)) * h
                    half_w, half_h = f32(0.5) * (pw - 1), f32(0.5) * (ph - 1)
                    points = []
                    for k in range(5):
                        points += [cx + marks[10 * a + 2 * k, i, j] * w, cy + marks[10 * a + 2 * k + 1, i, j] * h]
                    found.append([px - half_w, py - half_h, px + half_w, py + half_h, score, *points])
    return found


def retina_nms(faces, threshold):
    faces, kept, gone, at = sorted(faces, key=lambda f: -f[4]), [], set(), 0
    while True:
        while at < len(faces) and at in gone:
            at += 1
        if at == len(faces):
            return kept
        kept.append(faces[at])
        area = pixels(faces[at])
        at += 1
        for i in range(at, len(faces)):
            a, b = faces[at], faces[i]
            w, h = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
            if w > 0 and h > 0 and w * h / (area + pixels(b) - w * h) > f32(threshold):
                gone.add(i)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_retina_face_detection(run_layer, data):
    h, w = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    keep, threshold = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([0.4, 0.1]))
    least = data.draw(st.sampled_from([0.5, 0.8, 0.999]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    levels, bottoms = [], []
    for stride, scales in ((8, (2, 1)), (16, (8, 4)), (32, (32, 16))):
        side = h * 32 // stride, w * 32 // stride
        parts = [rng.uniform(0, 1, (4, *side)), rng.normal(0, 0.2, (8, *side)), rng.normal(0, 0.3, (20, *side))]
        parts = [p.astype(f32) for p in parts]
        levels.append((stride, scales, *parts))
        bottoms += [p[None] for p in parts]
    param = (
        f"retinaface_detection_param {{ nms_threshold: {threshold} confidence_threshold: {least} keep_topk: {keep} }}"
    )
    top = run_layer("RetinaFaceDetection", *bottoms, param=param)
    expected = np.zeros((1, 1, keep, 15), f32)
    for r, face in enumerate(retina_nms(retina_faces(levels[::-1], least), threshold)[:keep]):
        expected[0, 0, r] = face
    assert top.shape == expected.shape
    assert np.allclose(top, expected, rtol=1e-5, atol=1e-3)


def test_a_face_at_the_threshold(run_layer):
    bottoms = [np.zeros((1, c, h, h), f32) for h in (4, 2, 1) for c in (4, 8, 20)]
    bottoms[0][0, 2, 1, 3] = 0.5
    param = "retinaface_detection_param { nms_threshold: 0.4 confidence_threshold: 0.5 keep_topk: 3 }"
    assert run_layer("RetinaFaceDetection", *bottoms, param=param)[0, 0, :, 4].tolist() == [0.5, 0, 0]


@pytest.mark.parametrize(
    ("layer_type", "shapes", "param", "part"),
    [
        ("FrcnDetection", [(4, 8), (4, 2), (4, 5)], "frcn_detection_param { class_num: 2 keep_topk: 1 }", "4x5"),
        ("FrcnDetection", [(4, 8), (4, 2), (1, 1, 3, 5)], "frcn_detection_param { class_num: 2 keep_topk: 1 }", "24"),
        ("FrcnDetection", [(4, 8), (4, 2), (1, 1, 4, 5)], "frcn_detection_param { class_num: 2 }", "keep_topk 0"),
        ("RetinaFaceDetection", [(1, 4, 2, 2), (1, 8, 2, 2), (1, 20, 2, 2)] * 3, "", "keep_topk"),
        (
            "RetinaFaceDetection",
            [(1, 4, 2, 2), (1, 8, 2, 3), (1, 20, 2, 2)] * 3,
            "retinaface_detection_param { keep_topk: 1 }",
            "bottom 1",
        ),
        (
            "RetinaFaceDetection",
            [(2, 4, 2, 2), (2, 8, 2, 2), (2, 20, 2, 2)] * 3,
            "retinaface_detection_param { keep_topk: 1 }",
            "2x4x2x2",
        ),
        ("RetinaFaceDetection", [(1, 4, 2, 2)], "retinaface_detection_param { keep_topk: 1 }", "1 bottoms"),
    ],
)
def test_refused(refusal, layer_type, shapes, param, part):
    assert part in refusal(layer_type, *shapes, param=param)
