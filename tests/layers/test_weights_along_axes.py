"""Layers that combine a value with another one, or with weights, along some axes: Scale, Bias, Eltwise, InnerProduct,
Embed, PReLU."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def random(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scale_and_bias(run_layer, data):
    shape = data.draw(shapes)
    axis = data.draw(st.integers(0, len(shape) - 1))
    covered = data.draw(st.integers(0, len(shape) - axis))
    layer_type, with_bias = data.draw(st.sampled_from([("Scale", False), ("Scale", True), ("Bias", False)]))
    second = data.draw(st.booleans())
    to_the_end = covered == len(shape) - axis and data.draw(st.booleans())
    negative = data.draw(st.booleans())
    x, part = random(*shape), shape[axis : axis + covered]
    operand, beta = random(*part) + 2, random(*part) * 3
    text = f"axis: {axis - len(shape) if negative else axis} "
    text += "" if second else f"num_axes: {-1 if to_the_end else covered} "
    text += "bias_term: true" if with_bias else ""
    blobs = ([] if second else [operand]) + ([beta] if with_bias else [])
    bottoms = [x, operand] if second else [x]
    found = run_layer(layer_type, *bottoms, param=f"{layer_type.lower()}_param {{ {text} }}", blobs=blobs)
    assert found.shape == shape
    for place in np.ndindex(*shape):
        at = place[axis : axis + covered]
        expected = float(x[place]) + float(operand[at])
        if layer_type == "Scale":
            expected = float(x[place]) * float(operand[at]) + (float(beta[at]) if with_bias else 0.0)
        assert found[place] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("layer_type", ["Scale", "Bias"])
def test_one_weight_per_channel_is_the_default(run_layer, layer_type):
    x, w = random(2, 3, 2, 2), random(3)
    spread = w.reshape(3, 1, 1)
    expected = x * spread if layer_type == "Scale" else x + spread
    assert np.allclose(run_layer(layer_type, x, blobs=[w]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("layer_type", "shape", "second", "text", "reason"),
    [
        ("Scale", (2, 3), None, "axis: 2", "scale_param.axis 2 is outside"),
        ("Scale", (2, 3), None, "axis: 1 num_axes: 2", "go beyond a bottom of 2 dimensions"),
        ("Scale", (2, 3), None, "num_axes: -2", "num_axes is -2"),
        ("Scale", (2, 3), (2,), "axis: 1", "the second operand has shape [2]"),
        ("Scale", (2, 3), (3, 1), "axis: 1", "the second operand has shape [3, 1]"),
        ("Scale", (2, 3), None, "div_term: true", "scale_param.div_term is set"),
        ("Bias", (2, 3), (2, 3, 1), "axis: 0", "the second operand has shape [2, 3, 1]"),
        ("Bias", (2, 3), None, "axis: -3", "bias_param.axis -3 is outside"),
    ],
)
def test_scale_and_bias_refused(refusal, layer_type, shape, second, text, reason):
    bottoms = [shape] if second is None else [shape, second]
    assert reason in refusal(layer_type, *bottoms, param=f"{layer_type.lower()}_param {{ {text} }}")


@pytest.mark.parametrize(
    ("shape", "second", "text", "expected"),
    [
        ((2, 3, 4, 4), None, "", True),
        ((2, 3, 4, 4), None, "axis: -3", True),
        ((2, 3), None, "num_axes: -1", True),
        ((2, 3, 4, 4), None, "num_axes: 2", False),
        ((2, 3, 4, 4), None, "axis: 0", False),
        ((2, 3, 3, 3), None, "axis: 2", False),
        ((2, 3, 4, 4), None, "num_axes: 0", False),
        ((2, 1, 4, 4), None, "num_axes: 0", False),
        ((2, 3, 4, 4), (3,), "", False),
    ],
)
def test_which_scales_a_batch_norm_can_take_over(shape, second, text, expected):
    inputs = [shape] if second is None else [shape, second]
    layers = "".join(
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ '
        + " ".join(f"dim: {d}" for d in s)
        + " } } }\n"
        for i, s in enumerate(inputs)
    )
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(inputs)))
    layers += f'layer {{ name: "l" type: "Scale" {bottoms} top: "y" scale_param {{ {text} bias_term: true }} }}'
    op = build_model(parse_prototxt(layers)).op_of["l"]
    assert op.is_per_channel(inputs) is expected


def test_gamma_and_beta_of_a_scale():
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }'
    text += 'layer { name: "a" type: "Scale" bottom: "x" top: "a" }'
    text += 'layer { name: "b" type: "Scale" bottom: "a" top: "b" scale_param { bias_term: true } }'
    ops = build_model(parse_prototxt(text)).op_of
    gamma, beta = np.array([2, 3], np.float32), np.array([5, 7], np.float32)
    assert [v.tolist() for v in ops["a"].affine([gamma])] == [[2, 3], [0, 0]]
    assert [v.tolist() for v in ops["b"].affine([gamma, beta])] == [[2, 3], [5, 7]]


FORMULAS = {"PROD": math.prod, "SUM": sum, "MAX": max, "MIN": min, "DIV": lambda terms: terms[0] / terms[1]}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_eltwise(run_layer, data):
    shape, operation = data.draw(shapes), data.draw(st.sampled_from(sorted(FORMULAS)))
    count = 2 if operation == "DIV" else data.draw(st.integers(2, 4))
    coeff = data.draw(st.lists(st.sampled_from([1.0, -1.0, 0.0, 0.5, 3.0]), min_size=count, max_size=count))
    axis = data.draw(st.integers(0, len(shape) - 1))
    part = shape[axis : axis + data.draw(st.integers(1, len(shape) - axis))] if data.draw(st.booleans()) else shape
    axis = 0 if part == shape else axis
    bottoms = [random(*shape) + 5 + i for i in range(count)]
    bottoms[1] = random(*part) - 7
    text = f"operation: {operation} axis: {axis} "
    has_coeff = operation not in ("PROD", "DIV") and data.draw(st.booleans())
    text += "".join(f"coeff: {c} " for c in coeff) if has_coeff else ""
    found = run_layer("Eltwise", *bottoms, param=f"eltwise_param {{ {text} }}")
    assert found.shape == shape
    for place in np.ndindex(*shape):
        terms = [float(b[place]) for b in (bottoms[0], *bottoms[2:])]
        terms.insert(1, float(bottoms[1][place[axis : axis + len(part)]]))
        if has_coeff and operation == "SUM":  # Caffe does not look at them for MAX
            terms = [c * t for c, t in zip(coeff, terms, strict=True)]
        assert found[place] == pytest.approx(FORMULAS[operation](terms), rel=1e-5, abs=1e-5)


def test_eltwise_adds_by_default(run_layer):
    assert run_layer("Eltwise", [[1, 2]], [[3, 5]]).tolist() == [[4, 7]]


@pytest.mark.parametrize(
    ("shapes", "text", "reason"),
    [
        ([(2, 3)], "", "has 1 bottoms, expected at least 2"),
        ([(2, 3), (3, 2)], "", "the second operand has shape [3, 2]"),
        ([(2, 3), (2, 3), (2, 1)], "", "bottoms have different shapes"),
        ([(2, 3), (2, 3)], "coeff: 1", "has 1 coeff for 2 bottoms"),
        ([(2, 3), (2, 3)], "operation: PROD coeff: 1 coeff: 1", "coeff with operation PROD"),
        ([(2, 3)] * 3, "operation: DIV", "operation DIV takes 2"),
    ],
)
def test_eltwise_refused(refusal, shapes, text, reason):
    assert reason in refusal("Eltwise", *shapes, param=f"eltwise_param {{ {text} }}")


@settings(max_examples=40, deadline=None)
@given(shapes, st.data(), st.integers(1, 4), st.booleans(), st.booleans())
def test_inner_product(run_layer, shape, data, outputs, bias, transpose):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    outer = shape[: axis % len(shape)]
    x, columns = random(*shape), math.prod(shape[axis % len(shape) :])
    w, b = random(outputs, columns), random(outputs)
    text = f"num_output: {outputs} axis: {axis} bias_term: {str(bias).lower()} transpose: {str(transpose).lower()}"
    blobs = [w.T if transpose else w, b] if bias else [w.T if transpose else w]
    found = run_layer("InnerProduct", x, param=f"inner_product_param {{ {text} }}", blobs=blobs)
    assert found.shape == (*outer, outputs)
    for place in np.ndindex(*outer):
        row = x[place].reshape(-1)
        for o in range(outputs):
            expected = sum(float(row[k]) * float(w[o, k]) for k in range(columns)) + (float(b[o]) if bias else 0.0)
            assert found[(*place, o)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no num_output"),
        ("num_output: 2 axis: 2", "inner_product_param.axis 2 is outside"),
        ("num_output: 2 relu: true", "a layer of its own"),
    ],
)
def test_inner_product_refused(refusal, text, reason):
    assert reason in refusal("InnerProduct", (2, 3), param=f"inner_product_param {{ {text} }}")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=3).map(tuple), st.booleans(), st.data())
def test_embed(run_layer, shape, bias, data):
    table, b = random(5, 3), random(3)
    x = np.array([data.draw(st.integers(0, 4)) for _ in range(math.prod(shape))], np.float32).reshape(shape)
    text = f"num_output: 3 input_dim: 5 bias_term: {str(bias).lower()}"
    found = run_layer("Embed", x, param=f"embed_param {{ {text} }}", blobs=[table, b] if bias else [table])
    assert found.shape == (*shape, 3)
    for place in np.ndindex(*shape):
        expected = table[int(x[place])] + (b if bias else 0)
        assert np.allclose(found[place], expected, atol=1e-6)


def test_embed_refused(refusal):
    assert "input_dim 0" in refusal("Embed", (2,), param="embed_param { num_output: 3 }")
    assert "num_output is 0" in refusal("Embed", (2,), param="embed_param { input_dim: 3 }")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple), st.booleans())
def test_prelu(run_layer, shape, shared):
    x, slope = random(*shape), random() if shared else random(shape[1])
    text = f"prelu_param {{ channel_shared: {str(shared).lower()} }}"
    found = run_layer("PReLU", x, param=text, blobs=[slope])
    assert found.shape == shape
    for place in np.ndindex(*shape):
        value, factor = float(x[place]), float(slope if shared else slope[place[1]])
        assert found[place] == pytest.approx(max(value, 0) + factor * min(value, 0), abs=1e-6)


def test_prelu_wants_channels(refusal):
    assert "bottom has 1 dimensions" in refusal("PReLU", (3,))
