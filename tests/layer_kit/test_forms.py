"""The contract of integer forms, over every form that there is: written, read back, equal; exported; run.

The network has a layer for each form; a form that is missing in it fails the first test.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import onnxruntime as ort
import pytest

import calib8.layers  # noqa: F401  registers the forms of all types
from calib8.errors import TableError
from calib8.export import onnx_export, read_plan, write_calibration_files
from calib8.layer_kit.form import IntegerForm, same_integers
from calib8.layer_kit.table_row import TableRow
from calib8.quantize import make_plan, observed_values

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 8, 8] } } }
layer { name: "sum" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "affine" type: "BatchNorm" bottom: "c" top: "n" }
layer { name: "skipped" type: "Scale" bottom: "n" top: "n" scale_param { bias_term: true } }
layer { name: "leaky" type: "ReLU" bottom: "n" top: "l" relu_param { negative_slope: 0.1 } }
layer { name: "slopes" type: "PReLU" bottom: "l" top: "p" }
layer { name: "eltwise" type: "Eltwise" bottom: "l" bottom: "p" top: "e" }
layer { name: "statistics" type: "BN" bottom: "e" top: "s" }
layer { name: "curve" type: "ELU" bottom: "s" top: "u" }
layer { name: "concat" type: "Concat" bottom: "u" bottom: "p" top: "k" }
layer { name: "pool" type: "Pooling" bottom: "k" top: "a" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "same" type: "Flatten" bottom: "a" top: "f" }
layer { name: "ip" type: "InnerProduct" bottom: "f" top: "y" inner_product_param { num_output: 5 } }
"""


def kinds(base=IntegerForm):
    return {base, *(kind for sub in base.__subclasses__() for kind in kinds(sub))} - {IntegerForm}


@pytest.fixture(scope="module")
def model(random_model):
    return random_model(NETWORK, 2)


@pytest.fixture(scope="module")
def plan(model):
    thresholds = {value: 4.0 + i for i, value in enumerate(observed_values(model, True))}
    return make_plan(model, {**thresholds, "y": 30.0}, enable_concat_quantize=True)


def forms(plan):
    return [(name, form) for name, form in plan.forms.items() if form is not None]


def test_the_network_has_every_form(plan):
    assert {type(form) for _, form in forms(plan)} == kinds()


def test_a_form_is_frozen_and_equal_to_itself_only_while_nothing_changes(plan):
    for name, form in forms(plan):
        assert same_integers(form, replace(form)), name
        for field in fields(form):
            value = getattr(form, field.name)
            if field.name == "warnings" or value is None:
                continue
            other = (*value, 1) if isinstance(value, tuple) else value ^ 1 if isinstance(value, int | bool) else ~value
            changed = replace(form, **{field.name: other})
            assert not same_integers(form, changed), (name, field.name)
            with pytest.raises(AttributeError):
                setattr(form, field.name, value)


def test_rows_are_read_as_they_were_written(plan, model):
    for name, form in forms(plan):
        row = TableRow(name=name)
        form.fill_row(row)
        bottoms = len(model.net.layer_by_name[name].bottoms)
        assert same_integers(form.from_row(row, bottoms), form), name
        row.threshold_x_quantized.append(1)
        with pytest.raises(TableError, match="threshold_x_quantized"):
            form.from_row(row, bottoms)


def test_blobs_go_and_come(plan):
    for name, form in forms(plan):
        others = [1 - b for b in form.blobs]
        back = form.with_blobs(others).with_blobs(form.blobs)
        assert same_integers(back, form), name
        assert all(b.dtype in (np.int8, np.int16) for b in form.blobs), name


def test_files_are_read_as_they_were_written(model, plan, tmp_path):
    weights, _, table, _ = write_calibration_files(tmp_path, "net", model, plan)
    read = read_plan(model, table, weights)
    for name, form in plan.forms.items():
        assert same_integers(form, read.forms[name]), name
    assert read.given.keys() <= plan.forms.keys() and read.given["ip"] == str(weights)


def test_run_and_exported_give_the_same_codes(model, plan, run_int8):
    """The QDQ model's top is the run's, but for an ELU's negative side, which the one rounds and the other cuts off."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (1, 3, 8, 8)).astype(np.float32)
    ours = run_int8(model, plan, {"x": x}, ["y"], real_inputs=["x"])["y"]
    session = ort.InferenceSession(onnx_export("net", model, plan).data, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": x})[0]
    step = plan.thresholds["y"] / 128
    np.testing.assert_allclose(theirs, ours, atol=4.01 * step)
    assert np.ptp(ours) > 40 * step and np.abs(ours).max() < 127 * step
