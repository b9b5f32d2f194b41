"""Layers that only hand values on, behind layers in FP32."""

from __future__ import annotations

import pytest

from calib8.quantize import fp32_reasons, make_plan, observed_values, without_idle_layers

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 4, 4] } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "c2" type: "Convolution" bottom: "x" top: "c2" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "cat" type: "Concat" bottom: "c1" bottom: "c2" top: "cat" }
layer { name: "f" type: "Flatten" bottom: "cat" top: "f" }
"""


def test_they_stay_in_fp32_where_all_their_bottoms_do(random_model):
    model = random_model(NET)
    everything = set(make_plan(model, dict.fromkeys(observed_values(model), 8.0)).forms) - {"x"}
    assert without_idle_layers(model, everything) == everything
    assert without_idle_layers(model, everything - {"c1"}) == {"c2", "cat", "f"}
    assert without_idle_layers(model, everything - {"c1", "c2"}) == set()


@pytest.mark.parametrize("layer", ["Flatten", "ReLU"])
def test_the_plan_follows_the_same_rule(random_model, layer):
    text = (
        NET
        + f"""
    layer {{ name: "s" type: "Sigmoid" bottom: "f" top: "s" }}
    layer {{ name: "t" type: "{layer}" bottom: "s" top: "t" }}
    layer {{ name: "u" type: "Flatten" bottom: "t" top: "u" }}
    """
    )
    reasons = fp32_reasons(random_model(text))
    idle = "hands on what FP32 layers gave"
    assert {name: reason for name, reason in reasons.items() if name in ("f", "t", "u")} == {
        "f": None, "t": idle, "u": idle,
    }  # fmt: skip
