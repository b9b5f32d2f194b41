"""DetectionOutput against loops written from SSD's bbox_util.cpp, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

f32 = np.float32


def decode(kind, prior, variance, code):
    """One box; float32 where C++ has float, double where it has double."""
    a, b = [v * c for v, c in zip(variance, code, strict=True)], prior
    width, height = b[2] - b[0], b[3] - b[1]
    if kind == "CORNER":
        return [b[i] + a[i] for i in range(4)]
    if kind == "CORNER_SIZE":
        return [b[i] + a[i] * (width, height)[i % 2] for i in range(4)]
    cx, cy = a[0] * width + (b[0] + b[2]) / f32(2), a[1] * height + (b[1] + b[3]) / f32(2)
    w, h = f32(np.exp(float(a[2]))) * width, f32(np.exp(float(a[3]))) * height
    return [f32(float(c) + sign * float(s) / 2) for sign in (-1, 1) for c, s in ((cx, w), (cy, h))]


def size(box):
    return f32(0) if box[2] < box[0] or box[3] < box[1] else (box[2] - box[0]) * (box[3] - box[1])


def overlap(a, b):
    if b[0] > a[2] or b[2] < a[0] or b[1] > a[3] or b[3] < a[1]:
        return f32(0)
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if not (w > 0 and h > 0):
        return f32(0)
    return w * h / (size(a) + size(b) - w * h)


def nms(boxes, scores, least, threshold, eta, top_k):
    order = sorted((i for i in range(len(scores)) if scores[i] > f32(least)), key=lambda i: -scores[i])
    adaptive, kept = f32(threshold), []
    for i in order if top_k < 0 else order[:top_k]:
        if all(overlap(boxes[i], boxes[k]) <= adaptive for k in kept):
            kept.append(i)
            if eta < 1 and adaptive > 0.5:
                adaptive = adaptive * f32(eta)
    return kept


def detections(codes, scores, priors, p):
    """codes (N, P, L, 4), scores (N, P, C), priors (2, P, 4)."""
    rows = []
    for n in range(len(codes)):
        found = {}
        for c in range(p["classes"]):
            if c != p["background"]:
                column = 0 if p["share"] else c
                ones = np.ones(4, f32)
                boxes = [
                    decode(p["kind"], priors[0, i], ones if p["plain"] else priors[1, i], codes[n, i, column])
                    for i in range(len(priors[0]))
                ]
                kept = nms(boxes, scores[n, :, c], p["least"], p["threshold"], p["eta"], p["top_k"])
                found[c] = [(scores[n, i, c], boxes[i]) for i in kept]
        everything = [(c, *d) for c in sorted(found) for d in found[c]]
        if -1 < p["keep"] < len(everything):
            everything = sorted(everything, key=lambda d: -d[1])[: p["keep"]]
        rows += [[n, c, score, *b] for c, score, b in sorted(everything, key=lambda d: d[0])]
    return rows or [[n, -1, -1, -1, -1, -1, -1] for n in range(len(codes))]


def param_of(p):
    flags = f"share_location: {str(p['share']).lower()} variance_encoded_in_target: {str(p['plain']).lower()}"
    least = f"confidence_threshold: {p['least']}" if p["least"] > -np.inf else ""
    top_k = f"top_k: {p['top_k']}" if p["top_k"] >= 0 else ""
    return (
        f"detection_output_param {{ num_classes: {p['classes']} background_label_id: {p['background']} {flags} {least} "
        f"nms_param {{ nms_threshold: {p['threshold']} eta: {p['eta']} {top_k} }} "
        f"code_type: {p['kind']} keep_top_k: {p['keep']} }}"
    )


def random_priors(rng, count):
    low = rng.uniform(0, 0.7, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.4, (count, 2))], axis=1)
    return np.stack([boxes, np.tile([0.1, 0.1, 0.2, 0.25], (count, 1))]).astype(f32)


def run(run_layer, codes, scores, priors, param):
    n = len(codes)
    return run_layer(
        "DetectionOutput", codes.reshape(n, -1), scores.reshape(n, -1), priors.reshape(1, 2, -1), param=param
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_against_loops(run_layer, data):
    share = data.draw(st.booleans())
    classes = data.draw(st.integers(1, 4))
    p = {
        "share": share,
        "classes": classes,
        "background": data.draw(st.sampled_from([0, classes - 1, 99, -1])),
        "kind": data.draw(st.sampled_from(["CORNER", "CENTER_SIZE", "CORNER_SIZE"])),
        "plain": data.draw(st.booleans()),
        "threshold": data.draw(st.sampled_from([0.0, 0.3, 0.45, 0.9])),
        "eta": data.draw(st.sampled_from([1.0, 0.7])),
        "top_k": data.draw(st.sampled_from([-1, 0, 5, 40])),
        "keep": data.draw(st.sampled_from([-1, 0, 3, 10])),
        "least": data.draw(st.sampled_from([-np.inf, 0.0, 0.4, 2.0])),
    }
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    images, count = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 14))
    codes = rng.normal(0, data.draw(st.sampled_from([0.2, 1.0])), (images, count, 1 if share else classes, 4))
    scores = rng.uniform(0, 1, (images, count, classes))
    # At most 16 scores compete for keep_top_k when there are ties: std::sort is stable up to there.
    if count * classes <= 16:
        scores = np.round(scores * 4) / 4
    codes, scores, priors = codes.astype(f32), scores.astype(f32), random_priors(rng, count)
    found = run(run_layer, codes, scores, priors, param_of(p))
    expected = np.array(detections(codes, scores, priors, p), f32)
    assert found.shape == (1, 1, *expected.shape)
    assert np.array_equal(found[0, 0, :, :3], expected[:, :3])
    assert np.allclose(found[0, 0], expected, rtol=1e-6, atol=1e-6)


def test_a_score_at_the_threshold_is_not_above_it(run_layer):
    priors = random_priors(np.random.default_rng(0), 2)
    scores = np.array([[[0, 0.5], [0, 0.5001]]], f32)
    param = "detection_output_param { num_classes: 2 confidence_threshold: 0.5 }"
    found = run(run_layer, np.zeros((1, 2, 1, 4), f32), scores, priors, param)
    assert found[0, 0, :, 2].tolist() == [f32(0.5001)]


def side_by_side(run_layer, lefts, nms):
    """Which squares of side 1 at these places stay, given in the order of their scores."""
    priors = np.zeros((2, len(lefts), 4), f32)
    priors[0] = [[left, 0, left + 1, 1] for left in lefts]
    scores = np.array([[[0, 1 - 0.01 * i] for i in range(len(lefts))]], f32)
    param = f"detection_output_param {{ num_classes: 2 variance_encoded_in_target: true nms_param {{ {nms} }} }}"
    found = run(run_layer, np.zeros((1, len(lefts), 1, 4), f32), scores, priors, param)
    return found[0, 0, :, 3].tolist()


def test_an_overlap_of_the_threshold_is_borne(run_layer):
    # Half a side apart: 0.5 of 1.5 in common.
    third = float(f32(0.5) / f32(1.5))
    assert side_by_side(run_layer, [0, 0.5], f"nms_threshold: {third!r}") == [0, 0.5]
    assert side_by_side(run_layer, [0, 0.5], f"nms_threshold: {third - 1e-6!r}") == [0]


def test_eta_stops_at_a_half(run_layer):
    # 0.6 becomes 0.42 with the first box kept, and stays: boxes with a third in common are borne.
    assert side_by_side(run_layer, [0, 4, 4.5, 8, 8.25], "nms_threshold: 0.6 eta: 0.7") == [0, 4, 4.5, 8]
    assert side_by_side(run_layer, [0, 0.25], "nms_threshold: 0.601 eta: 0.7") == [0]
    assert side_by_side(run_layer, [0, 0.25], "nms_threshold: 0.601") == [0, 0.25]


def test_hostile_codes_make_no_noise(run_layer):
    rng = np.random.default_rng(0)
    codes = np.array([np.nan, np.inf, -np.inf, 1e38, -1e38, 0, 1, 700], f32).repeat(4).reshape(1, 8, 1, 4)
    codes[0, :, 0, 1] = 0
    scores = rng.uniform(0.5, 1, (1, 8, 2)).astype(f32)
    param = "detection_output_param { num_classes: 2 code_type: CENTER_SIZE }"
    found = run(run_layer, codes, scores, random_priors(rng, 8), param)
    assert found.shape[1:2] == (1,)
    assert np.all(np.diff(found[0, 0, :, 2]) <= 0)


def test_scores_that_are_not_numbers_are_left_out(run_layer):
    rng = np.random.default_rng(0)
    scores = np.array([[[0, np.nan], [0, 0.5], [0, np.nan]]], f32)
    param = "detection_output_param { num_classes: 2 keep_top_k: 5 }"
    found = run(run_layer, np.zeros((1, 3, 1, 4), f32), scores, random_priors(rng, 3), param)
    assert found[0, 0, :, 2].tolist() == [0.5]


def test_saving_and_showing_change_nothing(run_layer, tmp_path):
    rng = np.random.default_rng(1)
    codes, scores = rng.normal(0, 1, (1, 5, 1, 4)).astype(f32), rng.uniform(0, 1, (1, 5, 3)).astype(f32)
    priors = random_priors(rng, 5)
    plain = "num_classes: 3 code_type: CENTER_SIZE nms_param { nms_threshold: 0.4 }"
    extra = (
        f'save_output_param {{ output_directory: "{tmp_path}/out" output_format: "VOC" }} visualize: true '
        'visualize_threshold: 0.3 save_file: "x.avi" objectness_score: 0.5 normalized_bbox: true'
    )
    first = run(run_layer, codes, scores, priors, f"detection_output_param {{ {plain} }}")
    second = run(run_layer, codes, scores, priors, f"detection_output_param {{ {plain} {extra} }}")
    assert np.array_equal(first, second)
    assert list(tmp_path.iterdir()) == []


def test_first_ssd_has_its_threshold_beside(run_layer):
    rng = np.random.default_rng(2)
    codes, scores = rng.normal(0, 1, (1, 30, 1, 4)).astype(f32), rng.uniform(0, 1, (1, 30, 3)).astype(f32)
    priors = random_priors(rng, 30)
    old = "detection_output_param { num_classes: 3 nms_threshold: 0.1 top_k: 7 }"
    new = "detection_output_param { num_classes: 3 nms_param { nms_threshold: 0.1 top_k: 7 } }"
    assert np.array_equal(run(run_layer, codes, scores, priors, old), run(run_layer, codes, scores, priors, new))


def test_refinement(run_layer):
    """RefineDet: the first stage's codes move the priors, its object scores switch them off."""
    rng = np.random.default_rng(3)
    codes, first = rng.normal(0, 0.5, (2, 2, 9, 1, 4)).astype(f32)
    scores, objects = rng.uniform(0, 1, (2, 9, 3)).astype(f32), rng.uniform(0, 1, (2, 9, 2)).astype(f32)
    priors = random_priors(rng, 9)
    param = (
        "detection_output_param { num_classes: 3 code_type: CENTER_SIZE objectness_score: 0.4 background_label_id: 99 "
        "confidence_threshold: 0.01 nms_param { nms_threshold: 0.6 } }"
    )
    bottoms = codes.reshape(2, -1), scores.reshape(2, -1), priors.reshape(1, 2, -1)
    found = run_layer("DetectionOutput", *bottoms, objects.reshape(2, -1), first.reshape(2, -1), param=param)
    p = {"share": True, "classes": 3, "background": 99, "kind": "CENTER_SIZE", "plain": False}
    p |= {"threshold": 0.6, "eta": 1.0, "top_k": -1, "keep": -1, "least": 0.01}
    scores = np.where(objects[..., 1:] < f32(0.4), np.array([1, 0, 0], f32), scores)
    expected = []
    for n in range(2):
        moved = [decode("CENTER_SIZE", priors[0, i], priors[1, i], first[n, i, 0]) for i in range(9)]
        refined = np.stack([np.array(moved, f32), priors[1]])
        rows = detections(codes[n : n + 1], scores[n : n + 1], refined, p)
        expected += [[n, *row[1:]] for row in rows]
    assert np.allclose(found[0, 0], expected, rtol=1e-5, atol=1e-6)


def test_the_best_of_many_ties(run_layer):
    """keep_top_k among 24 equal scores: std::sort, not the order of the priors, decides (see test_std_sort)."""
    priors = np.zeros((2, 24, 4), f32)
    priors[0, :, :2] = np.arange(24)[:, None]
    priors[0, :, 2:] = np.arange(24)[:, None] + 0.5
    scores = np.ones((1, 24, 2), f32)
    param = "detection_output_param { num_classes: 2 keep_top_k: 4 variance_encoded_in_target: true }"
    found = run(run_layer, np.zeros((1, 24, 1, 4), f32), scores, priors, param)
    # The middle element is the pivot and goes first, then the rest changes places with its mirror image.
    arranged = [12, *range(23, 12, -1), 0, *range(11, 0, -1)]
    assert found[0, 0, :, 3].tolist() == arranged[:4]


@pytest.mark.parametrize(
    ("param", "part"),
    [
        ("", "no detection_output_param.num_classes"),
        ("num_classes: 2 nms_param { nms_threshold: -0.1 }", "nms_threshold is -0.1"),
        ("num_classes: 2 nms_param { eta: 0 }", "eta is 0"),
        ("num_classes: 2 nms_param { eta: 1.5 }", "eta is 1.5"),
        ("num_classes: 2 normalized_bbox: false", "normalized_bbox"),
        ("num_classes: 2 nms_param { top_k: 3 } top_k: 3", "keep one form"),
        ("num_classes: 3", "has 8 scores"),
        ("num_classes: 2 share_location: false", "has 16 codes"),
    ],
)
def test_refused(refusal, param, part):
    shapes = (1, 16), (1, 8), (1, 2, 16)
    assert part in refusal("DetectionOutput", *shapes, param=f"detection_output_param {{ {param} }}")


def test_refinement_needs_shared_boxes(refusal):
    shapes = (1, 32), (1, 8), (1, 2, 16), (1, 8), (1, 16)
    param = "detection_output_param { num_classes: 2 share_location: false }"
    assert "share_location" in refusal("DetectionOutput", *shapes, param=param)
