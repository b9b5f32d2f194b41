"""The three Proposal layers against loops written from the forks' sources."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

f32 = np.float32


def half_up(x):
    return math.floor(float(x) + 0.5)


def anchor_boxes(base, ratios, scales):
    boxes = []
    centre = (base - 1) / 2
    for ratio in ratios:
        width = half_up(math.sqrt(base * base / ratio))
        height = half_up(width * ratio)
        for scale in scales:
            w, h = width * scale, height * scale
            boxes.append(
                [
                    f32(centre - (w - 1) / 2),
                    f32(centre - (h - 1) / 2),
                    f32(centre + (w - 1) / 2),
                    f32(centre + (h - 1) / 2),
                ]
            )
    return boxes


def thresholded(scores, codes, anchors, stride, image, least, threshold, keep):
    """sophgo/caffe and synopsys-caffe, one image: scores (A, H, W), codes (4 * A, H, W)."""
    boxes, confidence = [], []
    for k, (x1, y1, x2, y2) in enumerate(anchors):
        w, h = x2 - x1 + 1, y2 - y1 + 1
        for i in range(scores.shape[1]):
            for j in range(scores.shape[2]):
                if scores[k, i, j] >= f32(least):
                    dx, dy, dw, dh = codes[4 * k : 4 * k + 4, i, j]
                    cx = f32(j * stride) + (x1 + f32(0.5) * (w - 1)) + w * dx
                    cy = f32(i * stride) + (y1 + f32(0.5) * (h - 1)) + h * dy
                    new_w, new_h = w * f32(math.exp(dw)), h * f32(math.exp(dh))
                    corners = [
                        cx - 0.5 * float(new_w),
                        cy - 0.5 * float(new_h),
                        cx + 0.5 * float(new_w),
                        cy + 0.5 * float(new_h),
                    ]
                    limits = [image[1] - 1, image[0] - 1] * 2
                    boxes.append([f32(max(min(c, m), 0)) for c, m in zip(corners, limits, strict=True)])
                    confidence.append(scores[k, i, j])
    i = 0
    while i < len(boxes):
        j = i + 1
        while j < len(boxes):
            a, b = boxes[i], boxes[j]
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
            if w > 0 and h > 0 and w * h / (areas[0] + areas[1] - w * h) > f32(threshold):
                if confidence[i] >= confidence[j]:
                    del boxes[j], confidence[j]
                    continue
                del boxes[i], confidence[i]
                i -= 1
                break
            j += 1
        i += 1
    return boxes[:keep]


def best_first(scores, codes, anchors, stride, info, min_size, best, threshold, keep):
    """py-faster-rcnn's C++ forks, one image."""
    found = []
    for i in range(scores.shape[1]):
        for j in range(scores.shape[2]):
            for k, anchor in enumerate(anchors):
                x1, y1, x2, y2 = (f32(a) + f32(s * stride) for a, s in zip(anchor, (j, i, j, i), strict=True))
                w, h = x2 - x1 + 1, y2 - y1 + 1
                dx, dy, dw, dh = codes[4 * k : 4 * k + 4, i, j]
                cx, cy = dx * w + (x1 + f32(0.5) * w), dy * h + (y1 + f32(0.5) * h)
                w, h = f32(math.exp(dw)) * w, f32(math.exp(dh)) * h
                corners = cx - f32(0.5) * w, cy - f32(0.5) * h, cx + f32(0.5) * w, cy + f32(0.5) * h
                limits = [info[1] - 1, info[0] - 1] * 2
                box = [max(f32(0), min(c, f32(m))) for c, m in zip(corners, limits, strict=True)]
                large = box[2] - box[0] + 1 >= f32(min_size * info[3]) and box[3] - box[1] + 1 >= f32(
                    min_size * info[2]
                )
                found.append((large * scores[k, i, j], box))
    found = sorted(found, key=lambda d: -d[0])[:best]
    kept = []
    for score, box in found:
        if len(kept) == keep:
            break
        if all(pixel_overlap(box, other) <= f32(threshold) for _, other in kept):
            kept.append((score, box))
    return kept


def pixel_overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w < 0 or h < 0:
        return 0
    common = (w + 1) * (h + 1)
    return common / ((a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - common)


def draw_maps(data, anchors, images):
    h, w = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scores = rng.uniform(0, 1, (images, 2 * anchors, h, w))
    if data.draw(st.booleans()):
        scores = np.round(scores * 5) / 5
    return scores.astype(f32), rng.normal(0, 0.4, (images, 4 * anchors, h, w)).astype(f32)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_sophgo(run_layer, data):
    images, keep = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 30))
    scores, codes = draw_maps(data, 9, images)
    stride, base = data.draw(st.sampled_from([16, 8])), data.draw(st.sampled_from([16, 11]))
    least, threshold = data.draw(st.sampled_from([0.3, 0.6])), data.draw(st.sampled_from([0.7, 0.2]))
    param = (
        f"proposal_param {{ net_input_h: 50 net_input_w: 70 feat_stride: {stride} anchor_base_size: {base} "
        f"rpn_obj_threshold: {least} rpn_nms_threshold: {threshold} rpn_nms_post_top_n: {keep} }}"
    )
    found = run_layer("Proposal", scores, codes, param=param)
    anchors = anchor_boxes(base, [0.5, 1, 2], [8, 16, 32])
    expected = np.zeros((images, 1, keep, 5), f32)
    for n in range(images):
        rows = thresholded(scores[n, 9:], codes[n], anchors, stride, (50, 70), least, threshold, keep)
        for r, row in enumerate(rows):
            expected[n, 0, r] = [n, *row]
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_synopsys(run_layer, data):
    scale, ratio = data.draw(st.sampled_from([3, 1])), data.draw(st.sampled_from([3, 1]))
    scales, ratios = ([8, 16, 32] if scale == 3 else [32]), ([0.5, 1, 2] if ratio == 3 else [1])
    scores, codes = draw_maps(data, len(scales) * len(ratios), 1)
    found = run_layer(
        "Proposal",
        scores,
        codes,
        [[45.7, 60, 1]],
        param=f"proposal_param {{ max_rois: 12 anchor_scale: {scale} anchor_ratio: {ratio} }}",
    )
    anchors = anchor_boxes(16, ratios, scales)
    rows = thresholded(scores[0, len(anchors) :], codes[0], anchors, 16, (45, 60), 0.3, 0.7, 12)
    expected = np.zeros((12, 5), f32)
    for r, row in enumerate(rows):
        expected[r, 1:] = row
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_py_faster_rcnn(run_layer, data):
    images, best, keep = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    ratios, scales = data.draw(st.sampled_from([([0.5, 1.5], [2, 3]), ([1], [4])]))
    anchors = anchor_boxes(16, ratios, scales)
    scores, codes = draw_maps(data, len(anchors), images)
    threshold, min_size = data.draw(st.sampled_from([0.7, 0.1])), data.draw(st.sampled_from([4, 16]))
    info = np.array([[50, 66, 1.5, 1.25, 0, 0], [40, 70, 1, 1, 0, 0]], f32)[:images]
    numbers = " ".join([f"ratio: {r}" for r in ratios] + [f"scale: {s}" for s in scales])
    param = (
        f"proposal_param {{ {numbers} base_size: 16 feat_stride: 16 min_size: {min_size} pre_nms_topn: {best} "
        f"post_nms_topn: {keep} nms_thresh: {threshold} }}"
    )
    found, found_scores = run_layer("Proposal", scores, codes, info, param=param, tops=2)
    rows = []
    for n in range(images):
        args = anchors, 16, info[n], min_size, best, threshold, keep
        rows += [[n, *box, s] for s, box in best_first(scores[n, len(anchors) :], codes[n], *args)]
    expected = np.zeros((images * keep, 6), f32)
    expected[: len(rows)] = rows
    assert found.shape == (images * keep, 5)
    assert found_scores.shape == (images * keep,)
    assert np.allclose(found, expected[:, :5], rtol=1e-5, atol=1e-4)
    assert np.array_equal(found_scores, expected[:, 5])


def test_no_region_at_all(run_layer):
    param = "proposal_param { net_input_h: 50 net_input_w: 70 rpn_nms_post_top_n: 4 }"
    assert not run_layer("Proposal", np.zeros((1, 18, 2, 2)), np.zeros((1, 36, 2, 2)), param=param).any()


@pytest.mark.parametrize(
    ("shapes", "param", "tops", "part"),
    [
        ([(1, 18, 2, 2), (1, 36, 2, 2)], "", 1, "net_input_h"),
        ([(1, 18, 2, 2), (1, 36, 2, 2)], "net_input_h: 5 net_input_w: 5 max_rois: 3", 1, "different forks"),
        ([(1, 18, 2, 2), (1, 36, 2, 2)], "max_rois: 3", 1, "third bottom"),
        ([(1, 18, 2, 2), (1, 36, 2, 3)], "net_input_h: 5 net_input_w: 5", 1, "9 anchors"),
        ([(1, 18, 2, 2), (1, 36, 2, 2)], "net_input_h: 5 net_input_w: 5", 2, "second top"),
        ([(1, 2, 2, 2), (1, 4, 2, 2), (1, 3)], "ratio: 1 scale: 2", 1, "4 or more numbers"),
        ([(1, 2, 2, 2), (1, 4, 2, 2), (1, 4)], "ratio: 1", 1, "at least one of each"),
        ([(1, 2, 2, 2), (1, 4, 2, 2), (1, 4)], "ratio: 0 scale: 2", 1, "above 0"),
        ([(1, 18, 2, 2), (1, 36, 2, 2)], "net_input_h: 5 net_input_w: 5 iou_threshold: 0.5", 1, "iou_threshold is set"),
    ],
)
def test_refused(refusal, shapes, param, tops, part):
    assert part in refusal("Proposal", *shapes, param=f"proposal_param {{ {param} }}", tops=tops)
