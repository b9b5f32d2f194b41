"""What every layer type must hold to, over the whole registry: a type without a case here is a failure."""

from __future__ import annotations

import inspect
import re
import sys

import numpy as np
import pytest
from layer_cases import CASES, SOURCES, LayerCase

from calib8.engine import run_float, run_int8
from calib8.errors import UnsupportedError
from calib8.layer_kit.fields import _WITHOUT_EFFECT, Fields
from calib8.layers import Op, registry
from calib8.lowering import build_model
from calib8.lowering.readings import Codes, value_of
from calib8.proto.scalars import fields_of
from calib8.proto.text import parse_prototxt
from calib8.quantize import fp32_reasons, integer_setup, make_plan, observed_values

TYPES = sorted(set(registry().values()), key=lambda op: op.__name__)
# As many rows as there are detections: the shape says one, as Caffe's own Reshape does.
DYNAMIC_ROWS = {"DetectionOutput", "YoloDetectionOutput", "Yolov3DetectionOutput"}
# A class of the user, and layers that only measure; they have tests of their own.
WITHOUT_CASE = {"Python", "Accuracy", "SoftmaxWithLoss"}
by_type = pytest.mark.parametrize("op", TYPES, ids=lambda op: op.__name__)
by_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.type}-{c.param}"[:60])


def model_of(case: LayerCase, random_model, **options):
    return random_model(case.prototxt(**options))


def run(case: LayerCase, model) -> dict[str, np.ndarray]:
    return run_float(model, case.inputs(), observe=model.net.layers[-1].tops)


def test_every_type_has_a_case():
    assert {c.type for c in CASES} | SOURCES | WITHOUT_CASE == set(registry())


@by_type
def test_text_of_the_module(op):
    """Name and formula, shapes, source."""
    text = sys.modules[op.__module__].__doc__
    first = text.splitlines()[0]
    assert any(first.startswith(name) for name in op.types) and re.match(r"[\w ]+[:,] \S", first)
    assert "Shapes" in text and "Source:" in text
    assert inspect.getdoc(op), "the class says what it becomes"


@by_type
def test_one_type_in_one_file(op):
    assert [x for x in TYPES if x.__module__ == op.__module__] == [op]
    assert registry()[op.types[0]] is op
    assert op.kind in ("onnx", "host", "source")


@by_type
def test_integers_come_with_a_reason_rule(op):
    """Otherwise the base class's "no integer rule" would hide them."""
    has_integers = op.quantize is not Op.quantize
    assert has_integers == (op.fp32_reason is not Op.fp32_reason) == (op.lower_int8 is not Op.lower_int8)


@by_case
def test_the_shape_rule_is_the_run_s(case, random_model):
    model = model_of(case, random_model)
    for value, array in run(case, model).items():
        assert array.dtype == np.float32
        if case.type in DYNAMIC_ROWS:
            assert array.shape[:2] + array.shape[3:] == model.shapes[value][:2] + model.shapes[value][3:]
        else:
            assert array.shape == model.shapes[value]


@by_case
def test_in_place_gives_the_same(case, random_model):
    """Whoever allows it in Caffe: one bottom, one top of its shape. Here names decide nothing."""
    if len(case.bottoms) != 1 or case.tops != 1:
        pytest.skip("several bottoms or tops")
    beside = model_of(case, random_model)
    if beside.shapes["y0"] != beside.shapes["x0"]:
        pytest.skip("changes the shape")
    inside = model_of(case, random_model, in_place=True)
    np.testing.assert_array_equal(run(case, inside)["x0"], run(case, beside)["y0"])


@by_case
def test_every_sample_of_a_batch_for_itself(case, random_model):
    if case.mixes_samples or not case.bottoms:
        pytest.skip("mixes samples")
    assert all(shape[0] > 1 for shape in case.shapes), "the cases have batches"
    inputs = case.inputs()
    whole = model_of(case, random_model)
    together = run(case, whole)
    weights = {layer.name: layer.blobs for layer in whole.net.layers}
    for n in range(case.shapes[0][0]):
        alone = LayerCase(case.type, case.param, tuple(x[n : n + 1] for x in inputs.values()), case.tops)
        for value, array in run(alone, random_model(alone.prototxt(), weights=weights)).items():
            np.testing.assert_allclose(array, together[value][n : n + 1], rtol=1e-5, atol=1e-5)


@by_case
def test_a_layer_without_a_reason_for_fp32_runs_in_integers(case, random_model):
    model = model_of(case, random_model)
    if not case.tops or model.op_of["l"].kind == "source":
        pytest.skip("no tops to look at")
    plan = make_plan(model, {value: 4 + i / 64 for i, value in enumerate(observed_values(model))})
    reason = fp32_reasons(model)["l"]
    assert (plan.forms["l"] is None) == (reason is not None)
    if reason is not None:
        assert re.fullmatch(r"[\w ,]+", reason)
        return
    codes = [Codes(t) for t in model.net.layers[-1].tops]
    inputs = {name: array * (128 / plan.thresholds[name]) for name, array in case.inputs().items()}
    found = run_int8(model, integer_setup(model, plan), inputs, codes)
    for name in codes:
        assert found[name].dtype == np.uint8 and found[name].shape == model.shapes[value_of(name)]


@by_case
def test_sizes_are_known_without_weights(case):
    model = build_model(parse_prototxt(case.prototxt()))
    layer = model.net.layers[-1]
    assert model.op_of["l"].multiply_adds(model.call(layer)) >= 0
    assert all(
        min(shape, default=1) > 0 for shape in model.op_of["l"].blob_shapes([model.shapes[b] for b in layer.bottoms])
    )


@by_type
def test_unknown_and_unread_fields_are_refused_by_name(op):
    """Of every message that the type reads: a field that no fork has, and those that the type does not read."""
    case = next((c for c in CASES if c.type in op.types), None)
    if case is None:
        pytest.skip("its fields are read where the data are" if op.kind == "source" else "a class of the user")
    bare = parse_prototxt(case.prototxt()).net.layer[-1]
    fields = Fields(bare)
    op(fields)
    for name in fields._groups:
        text = case.prototxt(extra=f"{name} {{ no_fork_has_this: 1 }}")
        if bare.HasField(name):
            text = case.prototxt().replace(f"{name} {{", f"{name} {{ no_fork_has_this: 1", 1)
        refused(text, f"{name}.no_fork_has_this (unknown) is set")
        for field, value in unread_fields(fields, name):
            text = case.prototxt(extra=f"{name} {{ {field}: {value} }}")
            if bare.HasField(name):
                text = case.prototxt().replace(f"{name} {{", f"{name} {{ {field}: {value} ", 1)
            refused(text, field)


def unread_fields(fields: Fields, name: str):
    """Scalar fields of a message that the type has not looked at, with a value that it can have."""
    group = fields.group(name)
    for field in fields_of(getattr(fields.param, name).DESCRIPTOR).values():
        if field.name not in group._read and field.name not in _WITHOUT_EFFECT and field.message is None:
            value = next(
                iter(field.values),
                '"x"' if field.kind in ("string", "bytes") else "true" if field.kind == "bool" else 1,
            )
            yield field.name, value


def refused(text: str, words: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        build_model(parse_prototxt(text))
    (problem,) = caught.value.problems
    assert re.match(r"<text>:\d+: layer 'l' \(", problem) and words in problem
