"""The YOLO forks' outputs against loops over maps, cells, boxes and classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calib8.layer_kit.boxes import sums_in_order

f32 = np.float32


def sigmoid(x):
    return f32(1 / (1 + math.exp(-float(x))))


CLASSES = st.integers(1, 4) | st.just(20)


def softmax(logits):
    """In float32 from logit to logit, as the forks' C++ does it: a probability of 1 - 4e-8 is 1 there, and a tie."""
    powers = [f32(math.exp(x - max(logits))) for x in logits]
    total = f32(0)
    for power in powers:
        total += power
    return np.array([power / total for power in powers], f32)


def centre_overlap(a, b):
    w, h = (
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)
    )
    common = 0 if w < 0 or h < 0 else w * h
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def rows_of(found, threshold, images):
    """eric612/MobileNet-YOLO: (x, y, w, h), class, score, as read, to rows of seven."""
    found, kept = sorted(found, key=lambda d: -d[2]), []
    for box, label, score in found:
        if not any(centre_overlap(k[0], box) >= f32(threshold) for k in kept):
            kept.append((box, label, score))
    if not kept:
        return [[n, -1, -1, -1, -1, -1, -1] for n in range(images)]
    return [[0, label + 1, score, x - w / 2, y - h / 2, x + w / 2, y + h / 2] for (x, y, w, h), label, score in kept]


def random_maps(rng, images, boxes, classes, sides, spread):
    maps = [rng.normal(0, spread, (images, boxes, 5 + classes, h, w)) for h, w in sides]
    for values in maps:
        values[:, :, 2:4] = np.clip(values[:, :, 2:4], -2, 2)
    return [values.reshape(images, -1, *values.shape[3:]).astype(f32) for values in maps]


def cells_of(maps, boxes, classes):
    """Map, image, row, column, box and its numbers, in the order of reading."""
    for m, values in enumerate(maps):
        images, _, height, width = values.shape
        split = values.reshape(images, boxes, 5 + classes, height, width)
        for n in range(images):
            for i in range(height):
                for j in range(width):
                    for b in range(boxes):
                        yield m, n, i, j, b, split[n, b, :, i, j]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_yolo_v3(run_layer, data):
    images, classes, maps = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    boxes, threshold = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([0.45, 0.1]))
    least = data.draw(st.sampled_from([0.3, 0.6, 0.99]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sides = [(s, s) for s in rng.integers(1, 4, maps)]
    values = random_maps(rng, images, boxes, classes, sides, 2)
    biases, mask = rng.integers(5, 60, 2 * maps * boxes), rng.permutation(maps * boxes)
    strides = [8, 16, 32][:maps]
    param = (
        f"yolov3_detection_output_param {{ num_classes: {classes} num_box: {boxes} confidence_threshold: {least} "
        f"nms_threshold: {threshold} mask_group_num: {maps} {' '.join(f'biases: {b}' for b in biases)} "
        f"{' '.join(f'mask: {k}' for k in mask)} {' '.join(f'anchors_scale: {s}' for s in strides)} }}"
    )
    top = run_layer("Yolov3DetectionOutput", *values, param=param)
    found = []
    for m, _, i, j, b, v in cells_of(values, boxes, classes):
        side, anchor = sides[m][0], mask[m * boxes + b]
        x, y = (f32(j) + sigmoid(v[0])) / f32(side), (f32(i) + sigmoid(v[1])) / f32(side)
        w, h = (f32(math.exp(v[2 + k])) * f32(biases[2 * anchor + k]) / f32(side * strides[m]) for k in (0, 1))
        scores = [(c, sigmoid(v[5 + c]) * sigmoid(v[4])) for c in range(classes)]
        found += [((x, y, w, h), c, s) for c, s in scores if s > f32(least)]
    expected = np.array(rows_of(found, threshold, images), f32)
    assert top.shape == (1, 1, *expected.shape)
    assert np.allclose(top[0, 0], expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_yolo_v2(run_layer, data):
    images, classes, maps = data.draw(st.integers(1, 2)), data.draw(CLASSES), data.draw(st.integers(1, 2))
    boxes, threshold = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([0.45, 0.1]))
    least = data.draw(st.sampled_from([0.2, 0.5, 1.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sides = [(s, s) for s in rng.integers(1, 4, maps)]
    values = random_maps(rng, images, boxes, classes, sides, 2)
    biases = rng.uniform(0.5, 9, 2 * boxes).round(2)
    param = (
        f"yolo_detection_output_param {{ num_classes: {classes} num_box: {boxes} confidence_threshold: {least} "
        f"side: 99 coords: 4 nms_threshold: {threshold} {' '.join(f'biases: {b}' for b in biases)} }}"
    )
    top = run_layer("YoloDetectionOutput", *values, param=param)
    found = []
    for m, _, i, j, b, v in cells_of(values, boxes, classes):
        side, probabilities = f32(sides[m][0]), softmax(v[5:])
        score = sigmoid(v[4]) * probabilities.max()
        if score >= f32(least):
            x, y = (f32(j) + sigmoid(v[0])) / side, (f32(i) + sigmoid(v[1])) / side
            w, h = (f32(math.exp(v[2 + k])) * f32(biases[2 * b + k]) / side for k in (0, 1))
            found.append(((x, y, w, h), int(probabilities.argmax()), score))
    expected = np.array(rows_of(found, threshold, images), f32)
    assert top.shape == (1, 1, *expected.shape)
    assert np.allclose(top[0, 0], expected, rtol=1e-5, atol=1e-6)


def sophgo_detections(values, image, classes, anchors, size, least):
    found = []
    for m, n, i, j, b, v in cells_of(values, 3, classes):
        objects = sigmoid(v[4])
        if n != image or objects < f32(least):
            continue
        shifted, lowest = v[5:] - v[5:].max(), v[5:].min()
        probabilities = softmax(shifted / lowest * f32(-100) if lowest < -100 else shifted)
        score = objects * probabilities.max()
        if score >= f32(least):
            height, width = values[m].shape[2:]
            x, y = (sigmoid(v[0]) + f32(j)) / f32(width), (sigmoid(v[1]) + f32(i)) / f32(height)
            w, h = (f32(math.exp(v[2 + k])) * f32(anchors[6 * m + 2 * b + k]) / f32(size[k]) for k in (0, 1))
            found.append([(x, y, w, h), int(probabilities.argmax()), score])
    return found


def erase_weaker(found, threshold, overlap):
    """Detections [box, class, score]; a score of 0 marks what is gone."""
    for i, a in enumerate(found):
        if a[2] == 0:
            continue
        for b in found[i + 1 :]:
            if b[2] != 0 and a[1] == b[1] and overlap(a[0], b[0]) > f32(threshold):
                weaker = a if a[2] < b[2] else b
                weaker[2] = 0
    return [d for d in found if d[2] > 0]


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 2),
    classes=CLASSES,
    maps=st.integers(1, 3),
    keep=st.integers(1, 12),
    threshold=st.sampled_from([0.5, 0.1]),
    least=st.sampled_from([0.1, 0.4]),
    spread=st.sampled_from([1, 3, 80]),
    seed=st.integers(0, 2**32),
)
# In the second image two boxes of a class overlap, and both have a score of 1 once their sums are float32.
@example(images=2, classes=2, maps=1, keep=1, threshold=0.5, least=0.1, spread=80, seed=19408)
def test_sophgo(run_layer, images, classes, maps, keep, threshold, least, spread, seed):
    rng = np.random.default_rng(seed)
    sides = [tuple(rng.integers(1, 4, 2)) for _ in range(maps)]
    values = random_maps(rng, images, 3, classes, sides, spread)
    anchors = rng.integers(5, 60, 6 * maps)
    param = (
        f"yolo_detection_param {{ net_input_h: 64 net_input_w: 96 class_num: {classes} obj_threshold: {least} "
        f'nms_threshold: {threshold} keep_topk: {keep} anchors: "{", ".join(map(str, anchors))}" }}'
    )
    top = run_layer("YoloDetection", *values, param=param)
    expected, limit = np.zeros((images, 1, keep, 6), f32), keep
    for n in range(images):
        found = sophgo_detections(values, n, classes, anchors, (96, 64), least)
        found = erase_weaker(found, threshold, centre_overlap)
        limit = min(limit, len(found))
        for r, (box, label, score) in enumerate(found[:limit]):
            expected[n, 0, r] = [*box, label, score]
    assert top.shape == expected.shape
    assert np.allclose(top, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("flag", "first_anchor"), [("", (10, 13)), ("tiny: true", (10, 14)), ("yolo_v4: true", (142, 110))]
)
def test_default_anchors(run_layer, flag, first_anchor):
    x = np.zeros((1, 3 * 6, 1, 1), f32)
    x[0, [10, 16]] = -50  # only the first box is an object
    param = f"net_input_h: 100 net_input_w: 10 class_num: 1 keep_topk: 1 obj_threshold: 0.4 {flag}"
    top = run_layer("YoloDetection", x, param=f"yolo_detection_param {{ {param} }}")
    assert np.allclose(top[0, 0, 0], [0.5, 0.5, first_anchor[0] / 10, first_anchor[1] / 100, 0, 0.5])


def test_an_overlap_of_the_threshold_is_not_borne(run_layer):
    """Two classes of one box have all in common: with a threshold of 1 one of them goes, above it both stay."""
    x = np.zeros((1, 7, 1, 1), f32)
    param = "num_classes: 2 num_box: 1 mask_group_num: 1 mask: 0 biases: 8 biases: 8 anchors_scale: 8 nms_threshold: "
    for threshold, rows in ((1, 1), (1.01, 2)):
        top = run_layer("Yolov3DetectionOutput", x, param=f"yolov3_detection_output_param {{ {param} {threshold} }}")
        assert top.shape == (1, 1, rows, 7)


def test_scores_at_the_threshold(run_layer):
    """A score of YOLO v3 has to be above it, one of YOLO v2 may be equal."""
    x = np.zeros((1, 6, 1, 1), f32)
    boxes = "num_classes: 1 num_box: 1 biases: 8 biases: 8 confidence_threshold:"
    maps = "mask_group_num: 1 mask: 0 anchors_scale: 8"
    three = run_layer("Yolov3DetectionOutput", x, param=f"yolov3_detection_output_param {{ {boxes} 0.25 {maps} }}")
    two = run_layer("YoloDetectionOutput", x, param=f"yolo_detection_output_param {{ {boxes} 0.5 }}")
    assert three[0, 0, 0, 2] == -1
    assert two[0, 0, 0, 2] == 0.5


def test_very_low_logits_bend_the_softmax(run_layer):
    x = np.zeros((1, 3 * 7, 1, 1), f32)
    x[0, [11, 18]] = -50
    x[0, 5:7, 0, 0] = -150, -160
    param = "net_input_h: 9 net_input_w: 9 class_num: 2 keep_topk: 1 obj_threshold: 0.1"
    top = run_layer("YoloDetection", x, param=f"yolo_detection_param {{ {param} }}")
    bent = -10 / -160 * -100
    assert np.allclose(top[0, 0, 0, 4:], [0, 0.5 / (1 + math.exp(bent))])
    assert not np.isclose(top[0, 0, 0, 5], 0.5 / (1 + math.exp(-10)), rtol=1e-4)


@pytest.mark.parametrize("has_softmax", [False, True])
def test_region(run_layer, has_softmax):
    x = np.random.default_rng(0).standard_normal((2, 3 * 9, 2, 5)).astype(f32)
    param = f"region_param {{ classes: 4 boxes_of_each_grid: 3 softmax: {str(has_softmax).lower()} }}"
    top = run_layer("Region", x, param=param)
    expected = []
    for n in range(2):
        for i in range(2):
            for j in range(5):
                for b in range(3):
                    v = x[n, 9 * b : 9 * b + 9, i, j]
                    expected += [*v[:4], sigmoid(v[4]), *(softmax(v[5:]) if has_softmax else v[5:])]
    assert top.shape == x.shape
    assert np.allclose(top.ravel(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer_type", "shape", "param", "part"),
    [
        ("Yolov3DetectionOutput", (1, 6, 2, 2), "yolov3_detection_output_param { }", "num_classes"),
        ("Yolov3DetectionOutput", (1, 6, 2, 2), "yolov3_detection_output_param { num_classes: 1 }", "mask_group_num"),
        (
            "Yolov3DetectionOutput",
            (1, 6, 2, 2),
            "yolov3_detection_output_param { num_classes: 1 gaussian_box: true }",
            "gaussian_box",
        ),
        (
            "Yolov3DetectionOutput",
            (1, 6, 2, 2),
            "yolov3_detection_output_param { num_classes: 1 num_box: 1 mask_group_num: 1 mask: 2 biases: 3 }",
            "anchor 2",
        ),
        (
            "Yolov3DetectionOutput",
            (1, 6, 2, 2),
            "yolov3_detection_output_param { num_classes: 1 num_box: 2 mask_group_num: 1 mask: 0 biases: 3 biases: 4 }",
            "1 numbers in mask",
        ),
        (
            "Yolov3DetectionOutput",
            (1, 6, 2, 2),
            "yolov3_detection_output_param { num_classes: 1 num_box: 1 mask_group_num: 1 mask: 0 biases: 3 biases: 4 }",
            "0 anchors_scale",
        ),
        (
            "Yolov3DetectionOutput",
            (1, 6, 2, 3),
            "yolov3_detection_output_param { num_classes: 1 num_box: 1 mask_group_num: 1 mask: 0 biases: 3 biases: 4 "
            "anchors_scale: 8 }",
            "S x S",
        ),
        ("YoloDetectionOutput", (1, 6, 2, 2), "yolo_detection_output_param { num_classes: 1 }", "0 biases"),
        ("YoloDetection", (1, 18, 2, 2), "yolo_detection_param { class_num: 1 keep_topk: 3 }", "net_input_h is 0"),
        (
            "YoloDetection",
            (1, 18, 2, 2),
            'yolo_detection_param { class_num: 1 keep_topk: 3 anchors: "1,2,x" }',
            "'1,2,x'",
        ),
        ("YoloDetection", (1, 18, 2, 2), 'yolo_detection_param { class_num: 1 anchors: "1,2" }', "2 numbers"),
        (
            "YoloDetection",
            (1, 17, 2, 2),
            "yolo_detection_param { class_num: 1 keep_topk: 3 net_input_h: 9 net_input_w: 9 }",
            "1 x 18 x H x W",
        ),
        ("Region", (1, 125, 2, 2), "region_param { coords: 3 }", "coords is 3"),
        ("Region", (1, 124, 2, 2), "", "N x 125"),
        ("Region", (1, 124, 2, 2), "region_param { classes: 0 }", "classes is 0"),
    ],
)
def test_refused(refusal, layer_type, shape, param, part):
    assert part in refusal(layer_type, shape, param=param)


@pytest.mark.parametrize("classes", [1, 7, 8, 20, 80])
def test_powers_are_added_one_after_the_other(classes):
    """numpy's own sum adds in pairs from eight numbers on, and the last bit decides ties."""
    powers = np.random.default_rng(classes).random((50, classes)).astype(f32)
    expected = np.zeros((50, 1), f32)
    for column in powers.T:
        expected += column[:, None]
    np.testing.assert_array_equal(sums_in_order(powers), expected)
