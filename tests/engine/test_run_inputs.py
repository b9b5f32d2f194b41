"""What `run_float` and `run_int8` take and give."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float, run_int8
from calib8.errors import DataError, OptionError
from calib8.lowering import Codes, build_model
from calib8.proto.text import parse_prototxt
from calib8.quantize import integer_setup, make_plan

_INPUT = 'layer {{ name: "{0}" type: "Input" top: "{0}" input_param {{ shape {{ dim: 64 dim: 512 }} }} }}'


def test_input_that_a_layer_overwrites_is_given_by_its_blob_name():
    model = build_model(
        parse_prototxt(_INPUT.format("x") + 'layer { name: "abs" type: "AbsVal" bottom: "x" top: "x" }')
    )
    x = np.random.default_rng(0).standard_normal((64, 512), dtype=np.float32)
    assert np.array_equal(run_float(model, {"x": x}, observe=["x"])["x"], abs(x))


def test_inputs_that_need_a_copy_live_until_the_run():
    inputs = "".join(_INPUT.format(name) for name in "axz")
    layer = 'layer { name: "l" type: "Axpy" bottom: "a" bottom: "x" bottom: "z" top: "y" }'
    model = build_model(parse_prototxt(inputs + layer), input_shapes={"a": (64, 512), "x": (64, 512), "z": (64, 512)})
    rng = np.random.default_rng(1)
    a, x, z = (rng.standard_normal((512, 64)).T for _ in range(3))
    y = run_float(model, {"a": a, "x": x, "z": z}, observe=["y"])["y"]
    assert np.allclose(y, a * x + z, atol=1e-5)


@pytest.mark.parametrize("index", [3, -1])
def test_values_that_a_layer_cannot_take_are_one_clear_line(index, capfd):
    model = build_model(
        parse_prototxt(
            """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 } } }
            layer { name: "i" type: "Input" top: "i" input_param { shape { dim: 1 } } }
            layer { name: "pick" type: "BatchReindex" bottom: "x" bottom: "i" top: "y" }"""
        )
    )
    with pytest.raises(DataError) as caught:
        run_float(model, {"x": np.zeros((3, 2), np.float32), "i": np.array([index], np.float32)})
    assert str(caught.value).startswith("layer 'pick' cannot take the values of its bottoms: indices element out of")
    assert capfd.readouterr() == ("", "")  # onnxruntime has a log of its own
    assert "\n" not in str(caught.value)


def test_int8_gives_real_numbers_and_codes():
    text = _INPUT.format("x") + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
    model = build_model(parse_prototxt(text), {})
    setup = integer_setup(model, make_plan(model, {"x": 2.0}))
    x = np.arange(64 * 512, dtype=np.float32).reshape(64, 512) % 200 - 100  # codes, as a user hands them in
    found = run_int8(model, setup, {"x": x}, ["y", Codes("y")])
    assert list(found) == ["y", Codes("y")]
    assert found[Codes("y")].dtype == np.uint8 and np.array_equal(found[Codes("y")], np.maximum(x, 0) + 128)
    assert np.array_equal(found["y"], np.maximum(x, 0) * np.float32(2 / 128))
    assert np.array_equal(run_int8(model, setup, {"x": x})["y"], found["y"])


def test_blobs_that_are_not_there_are_named():
    model = build_model(parse_prototxt(_INPUT.format("x")), {})
    setup = integer_setup(model, make_plan(model, {"x": 2.0}))
    with pytest.raises(OptionError, match="there is no blob 'z'"):
        run_float(model, {}, ["z"])
    for what in ("z", Codes("z")):
        with pytest.raises(OptionError, match="there is no blob 'z'"):
            run_int8(model, setup, {}, [what])
