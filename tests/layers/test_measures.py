"""Accuracy and SoftmaxWithLoss against loops over places."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.engine import run_float
from calib8.errors import UnsupportedError
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

MEASURES = ("Accuracy", "SoftmaxWithLoss")


def build(kind: str, shape, label_shape, param: str, tops: int):
    text = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ dim: {list(s)} }} }} }}\n'
        for name, s in (("x", shape), ("label", label_shape))
    )
    names = " ".join(f'top: "y{i}"' for i in range(tops))
    text += f'layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "label" {names} {param} }}'
    return build_model(parse_prototxt(text), {}, measures=MEASURES)


def run(kind: str, x, labels, param: str = "", tops: int = 1):
    model = build(kind, x.shape, labels.shape, param, tops)
    found = run_float(model, {"x": x, "label": labels.astype(np.float32)}, [f"y{i}" for i in range(tops)])
    return [found[f"y{i}"] for i in range(tops)]


def places(x, labels, axis, ignored):
    """The scores and the label of every place that counts."""
    scores = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    pairs = zip(scores.tolist(), labels.ravel().tolist(), strict=True)
    return [(row, int(label)) for row, label in pairs if label != ignored]


@st.composite
def problems(draw):
    classes, axis = draw(st.integers(1, 4)), draw(st.sampled_from([0, 1, -1]))
    shape = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    shape[axis] = classes
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x = rng.integers(-2, 3, shape).astype(np.float32) / 2  # few values: ties are the rule
    labels = rng.integers(0, classes, [n for i, n in enumerate(shape) if i != axis % len(shape)])
    return x, labels, axis, draw(st.none() | st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(1, 3))
def test_accuracy(problem, top_k):
    x, labels, axis, ignored = problem
    top_k = min(top_k, x.shape[axis])
    param = f"top_k: {top_k} axis: {axis} {'' if ignored is None else f'ignore_label: {ignored}'}"
    whole, of_class = run("Accuracy", x, labels, f"accuracy_param {{ {param} }}", tops=2)
    counted = places(x, labels, axis, ignored)
    right = [sum(s >= row[label] for i, s in enumerate(row) if i != label) < top_k for row, label in counted]
    assert whole == pytest.approx(sum(right) / max(len(right), 1), rel=1e-6)
    for c in range(x.shape[axis]):
        own = [r for r, (_, label) in zip(right, counted, strict=True) if label == c]
        assert of_class[c] == pytest.approx(sum(own) / max(len(own), 1), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["VALID", "FULL", "BATCH_SIZE", "NONE"]))
def test_loss(problem, normalization):
    x, labels, axis, ignored = problem
    ignore = "" if ignored is None else f"ignore_label: {ignored}"
    param = f"softmax_param {{ axis: {axis} }} loss_param {{ normalization: {normalization} {ignore} }}"
    loss, probabilities = run("SoftmaxWithLoss", x, labels, param, tops=2)
    counted = places(x, labels, axis, ignored)
    total = sum(-math.log(math.exp(row[label]) / sum(map(math.exp, row))) for row, label in counted)
    outer = math.prod(x.shape[: axis % x.ndim])
    n = {"VALID": len(counted), "FULL": labels.size, "BATCH_SIZE": outer, "NONE": 1}[normalization]
    assert loss == pytest.approx(total / max(n, 1), rel=1e-4, abs=1e-5)
    expected = np.exp(x) / np.exp(x).sum(axis, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


@pytest.mark.parametrize(("normalize", "n"), [("true", 4), ("false", 3)])
def test_older_form_of_normalization(normalize, n):
    labels = np.array([[0, 1], [1, 5], [5, 0]])
    param = f"loss_param {{ normalize: {normalize} ignore_label: 5 }}"
    loss = run("SoftmaxWithLoss", np.zeros((3, 2, 2), np.float32), labels, param)[0]
    assert loss == pytest.approx(4 * math.log(2) / n, rel=1e-6)


def test_improbable_labels_have_a_finite_loss():
    loss = run("SoftmaxWithLoss", np.array([[0, 500]], np.float32), np.array([0]))[0]
    assert loss == pytest.approx(-math.log(np.finfo(np.float32).tiny), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "label_shape", "param", "text"),
    [
        ("Accuracy", (3,), "", "has 3 labels for 2 places"),
        ("Accuracy", (2,), "accuracy_param { top_k: 5 }", "top_k is 5, more than the 4 classes"),
        ("Accuracy", (2,), "accuracy_param { axis: 2 }", "axis 2 is outside"),
        ("SoftmaxWithLoss", (2, 4), "", "has 8 labels for 2 places"),
        ("SoftmaxWithLoss", (2,), "loss_param { normalization: PRE_FIXED }", "normalization is PRE_FIXED"),
    ],
)
def test_refused(kind, label_shape, param, text):
    with pytest.raises(UnsupportedError, match=text):
        build(kind, (2, 4), label_shape, param, 1)


def test_left_out_where_nobody_asks_for_them():
    text = (
        'layer { name: "x" type: "Input" top: "x" top: "l" input_param { shape { dim: 2 dim: 2 } shape { dim: 2 } } }\n'
        'layer { name: "acc" type: "Accuracy" bottom: "x" bottom: "l" top: "acc" }'
    )
    assert build_model(parse_prototxt(text)).net.left_out == ("acc",)
