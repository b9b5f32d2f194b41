"""What `run_float` takes as inputs."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.errors import DataError
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

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
