"""Decoded boxes against FP32's: cases that can be computed by hand, and a detector that the guard judges by them."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float, run_int8
from calib8.quantize import make_plan, observed_values, setup_of
from calib8.repair.box_agreement import box_values, in_common
from calib8.repair.guard import Guard

A = [0, 1, 0.9, 0.0, 0.0, 0.4, 0.4]
B = [0, 2, 0.5, 0.5, 0.5, 0.9, 0.9]
NOTHING = [0, -1, -1, -1, -1, -1, -1]


def rows(*boxes):
    return np.array(boxes, np.float32).reshape(1, 1, -1, 7)


def changed(box, **fields):
    names = ("image", "label", "score", "x0", "y0", "x1", "y1")
    return [fields.get(name, value) for name, value in zip(names, box, strict=True)]


@pytest.mark.parametrize(
    ("found", "common", "half"),
    [
        ([A, B], 1.4, 1.4),
        ([B, A], 1.4, 1.4),
        ([A], 0.9, 1.15),
        ([NOTHING], 0, 0.7),
        ([A, B, changed(A, score=0.3)], 1.4, 1.55),  # FP32's box has only one partner
        ([changed(A, score=0.6), B], 1.1, 1.25),
        ([changed(A, label=2), B], 0.5, 1.4),
        ([changed(A, image=1), B], 0.5, 1.4),
        ([changed(A, x1=0.3), B], 0.75 * 0.9 + 0.5, 1.4),
        ([changed(A, x1=0.1), B], 0.5, 1.4),  # a quarter: not the same object
    ],
)
def test_what_boxes_have_in_common(found, common, half):
    assert in_common(rows(A, B), rows(*found)) == pytest.approx((common, half))


def test_without_any_box_there_is_nothing():
    assert in_common(rows(NOTHING), rows(NOTHING)) == (0, 0)


DETECTOR = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }
layer { name: "map" type: "Convolution" bottom: "x" top: "map" convolution_param { num_output: 14 kernel_size: 1 } }
layer { name: "out" type: "YoloDetectionOutput" bottom: "map" top: "out"
  yolo_detection_output_param { num_classes: 2 num_box: 2 confidence_threshold: 0.3 biases: [1, 1, 2, 2] } }
"""


@pytest.fixture
def detector(random_model):
    return random_model(DETECTOR, 4)


@pytest.fixture
def samples():
    rng = np.random.default_rng(6)
    return [{"x": rng.normal(0, 1, (1, 3, 4, 4)).astype(np.float32)} for _ in range(8)]


@pytest.fixture
def plan(detector, samples):
    values = observed_values(detector)
    found = [run_float(detector, sample, values) for sample in samples]
    return make_plan(detector, {v: 2 * max(float(np.abs(x[v]).max()) for x in found) for v in values})


def test_a_detector_is_judged_by_what_it_decodes(detector, plan, samples):
    """The guard's noise against loops over the samples: the mean, in decibels, of that of boxes and that of values."""
    assert box_values(detector) == ("out",)
    common, half, noise, signal = 0.0, 0.0, 0.0, 0.0
    for sample in samples:
        real = run_float(detector, sample, ["out", "map"])
        mine = run_int8(detector, setup_of(plan), sample, ["out", "map"])
        one, both = in_common(real["out"], mine["out"])
        common, half = common + one, half + both
        noise += float(((real["map"].astype(float) - mine["map"]) ** 2).sum())
        signal += float(((real["map"] - real["map"].mean(dtype=float)) ** 2).sum())
    guard = Guard(detector, lambda: iter(samples))
    assert guard.judges_boxes and 0.01 < 1 - common / half < 0.9
    assert guard.noise(plan) == pytest.approx(np.sqrt((1 - common / half) * noise / signal), rel=1e-6)


def test_where_fp32_finds_nothing_values_alone_are_judged(random_model, samples):
    nothing = random_model(DETECTOR.replace("0.3", "0.9999999"), 4)
    assert not Guard(nothing, lambda: iter(samples)).judges_boxes
