"""What outputs say, told from layers and shapes; which answers agree."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.analyze.answers import Detection, DetectionRows, YoloMaps, answers_of, matched, overlap
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 64 dim: 64 }'


def kinds(body):
    return [(a.kind, a.values) for a in answers_of(build_model(parse_prototxt(INPUT + body)))]


def conv(outputs, stride, top="y", kernel=1):
    return (
        f'layer {{ name: "{top}" type: "Convolution" bottom: "data" top: "{top}" convolution_param '
        f"{{ num_output: {outputs} kernel_size: {kernel} stride: {stride} }} }}"
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (conv(10, 1, kernel=64), "classes"),
        (conv(4, 1, kernel=64), "numbers"),
        (conv(2, 1, kernel=64) + 'layer { name: "p" type: "Softmax" bottom: "y" top: "p" }', "classes"),
        (conv(3, 1), "picture"),
        (conv(1, 2), "picture"),
        (conv(20, 1), "map"),
        (conv(20, 16), "numbers"),
        (conv(5, 16) + 'layer { name: "p" type: "Softmax" bottom: "y" top: "p" }', "map"),
        (conv(5, 1) + 'layer { name: "a" type: "ArgMax" bottom: "y" top: "a" argmax_param { axis: 1 } }', "map"),
        (conv(75, 32), "boxes"),
        (conv(75, 16) + conv(75, 32, "z"), "boxes"),
    ],
)
def test_kinds(body, expected):
    assert {kind for kind, _ in kinds(body)} == {expected}


def test_two_outputs_that_are_no_maps_of_one_detector():
    assert [kind for kind, _ in kinds(conv(10, 1, kernel=64) + conv(4, 1, "z", 64))] == ["numbers", "numbers"]


def test_overlap_is_counted_in_squares():
    one, other = (0, 0, 4, 6), (2, 3, 8, 8)
    inside = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (one, other)]
    assert overlap(one, other) == pytest.approx(len(inside[0] & inside[1]) / len(inside[0] | inside[1]))
    assert overlap(one, (4, 0, 8, 6)) == 0


def test_boxes_match_once_and_in_their_class():
    box, near, far = (0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 0.4, 0.5), (0.5, 0.5, 0.9, 0.9)
    wanted = [Detection(1, 0.9, box), Detection(1, 0.8, far), Detection(2, 0.7, box)]
    found = [Detection(1, 0.9, near), Detection(1, 0.5, near), Detection(2, 0.9, far)]
    assert matched(found, wanted) == [(0, 0)]


def test_rows_below_the_score_are_no_answers():
    rows = np.array([[0, 1, 0.9, 0, 0, 0.5, 0.5], [0, 1, 0.1, 0, 0, 1, 1], [-1, -1, -1, -1, -1, -1, -1]], np.float32)
    answer = DetectionRows(("d",))
    assert [d.score for d in answer.detections({"d": rows[None, None]}, 0.3)] == [pytest.approx(0.9)]
    faint = rows.copy()
    faint[0, 2] = 0.25
    assert answer.agreement({"d": rows}, {"d": faint}) == (1, 1)
    moved = rows.copy()
    moved[0, 3:] += 0.4
    assert answer.agreement({"d": rows}, {"d": rows}) == (2, 2)
    assert answer.agreement({"d": rows}, {"d": moved}) == (0, 2)


def test_a_yolo_map_becomes_a_box_in_its_place():
    answer = YoloMaps(("m",), (((32.0, 16.0),),), (64, 64))
    output = np.full((1, 7, 2, 2), -12.0, np.float32)
    output[0, :4, 1, 0] = 0
    output[0, 4:6, 1, 0] = 12  # an object, of class 0
    (found,) = answer.detections({"m": output}, 0.3)
    assert found.label == 0 and found.score == pytest.approx(1, abs=1e-4)
    assert found.box == pytest.approx((0.0, 0.625, 0.5, 0.875))
    assert answer.agreement({"m": output}, {"m": np.full_like(output, -12.0)}) == (0, 1)


def test_answers_of_classes_count_images(random_model):
    model = random_model(INPUT + conv(10, 1, kernel=64))
    (answer,) = answers_of(model)
    x, y = np.zeros((2, 10, 1, 1)), np.zeros((2, 10, 1, 1))
    x[0, 3], x[1, 4], y[0, 3], y[1, 5] = 1, 1, 1, 1
    assert answer.agreement({"y": x}, {"y": y}) == (1, 2)
