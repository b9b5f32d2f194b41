"""YOLO outputs decoded by loops over cells, and what the second metric sees of a difference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calib8.analyze.yolo import YOLOV3_ANCHORS, YoloDifference, decode, yolo_difference
from calib8.errors import OptionError

ANCHORS = ((10.0, 20.0), (30.0, 15.0))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_decoding_by_loops():
    rng = np.random.default_rng(0)
    output = rng.standard_normal((1, 2 * (5 + 3), 2, 4)).astype(np.float32)
    found = decode(output, ANCHORS, (64, 128))
    for a, (width, height) in enumerate(ANCHORS):
        for i in range(2):
            for j in range(4):
                x, y, w, h, obj, *classes = (float(output[0, a * 8 + k, i, j]) for k in range(8))
                box = (
                    (j + sigmoid(x)) / 4,
                    (i + sigmoid(y)) / 2,
                    width * math.exp(w) / 128,
                    height * math.exp(h) / 64,
                )
                assert found.boxes[0, a, i, j] == pytest.approx(box)
                assert found.scores[0, a, i, j] == pytest.approx([sigmoid(obj) * sigmoid(c) for c in classes])


def test_boxes_count_where_there_is_an_object():
    judge = YoloDifference({"y": ANCHORS}, (64, 64))
    fp32 = np.full((1, 16, 2, 2), -6, np.float32)
    fp32[0, [4, 5], 0, 0] = 6  # an object of the first class, by the first anchor, in the first cell
    there, elsewhere = fp32.copy(), fp32.copy()
    there[0, 0, 0, 0] += 1
    elsewhere[0, 0, 1, 1] += 1
    assert judge.part({"y": fp32}, {"y": fp32}) == 0
    assert judge.part({"y": fp32}, {"y": there}) > 100 * judge.part({"y": fp32}, {"y": elsewhere})


def test_the_formula():
    judge = YoloDifference({"y": ANCHORS}, (64, 64))
    rng = np.random.default_rng(1)
    fp32, int8 = rng.standard_normal((2, 1, 16, 3, 3)).astype(np.float32)
    x, y = decode(fp32, ANCHORS, (64, 64)), decode(int8, ANCHORS, (64, 64))
    weights = boxes = scores = 0.0
    for index in np.ndindex(1, 2, 3, 3):
        weight = max(x.scores[index])
        weights += weight
        boxes += weight * sum((p - q) ** 2 for p, q in zip(x.boxes[index], y.boxes[index], strict=True))
        scores += sum((p - q) ** 2 for p, q in zip(x.scores[index], y.scores[index], strict=True))
    assert judge.part({"y": fp32}, {"y": int8}) == pytest.approx((boxes + scores) / weights)


NETWORK = """
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: [1, 3, 32, 64] }} }} }}
layer {{ name: "fine" type: "Convolution" bottom: "x" top: "fine" convolution_param {{
  num_output: {channels} kernel_size: 1 stride: 8 }} }}
layer {{ name: "coarse" type: "Convolution" bottom: "x" top: "coarse" convolution_param {{
  num_output: {channels} kernel_size: 1 stride: 16 }} }}
"""


def test_anchors_go_from_the_finest_map_to_the_coarsest(random_model):
    model = random_model(NETWORK.format(channels=3 * 7))
    judge = yolo_difference(model, ("coarse", "fine"))
    assert judge._anchors == {"fine": YOLOV3_ANCHORS[3:6], "coarse": YOLOV3_ANCHORS[6:]}
    assert judge._input_size == (32, 64)
    own = yolo_difference(model, ("coarse", "fine"), tuple((float(i), 1.0) for i in range(6)))
    assert [a for a, _ in own._anchors["coarse"]] == [3, 4, 5]


@pytest.mark.parametrize(("channels", "anchors"), [(20, ()), (21, ANCHORS[:1]), (15, ()), (21, (*ANCHORS, ANCHORS[0]))])
def test_outputs_that_are_no_yolo_maps(random_model, channels, anchors):
    model = random_model(NETWORK.format(channels=channels))
    with pytest.raises(OptionError, match="anchors"):
        yolo_difference(model, ("coarse", "fine"), anchors)


def test_a_network_without_maps(random_model):
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3] } } }\n'
    model = random_model(text + 'layer { name: "t" type: "TanH" bottom: "x" top: "t" }')
    with pytest.raises(OptionError, match="metric yolo needs outputs"):
        yolo_difference(model, ("t",))
