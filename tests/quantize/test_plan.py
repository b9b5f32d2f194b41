"""make_plan: which layers get integers, and all that is wrong in one error."""

from __future__ import annotations

import pytest

from calib8.errors import QuantizationError
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt
from calib8.quantize import make_plan, observed_values

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 dim: 6 dim: 6 } } }\n'
CONV = 'type: "Convolution" convolution_param { num_output: 4 kernel_size: 1 bias_term: false }'


def one(name: str, kind: str, bottoms: str = "x") -> str:
    reads = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{name}" }}\n'


def in_int8(model) -> set[str]:
    plan = make_plan(model, dict.fromkeys(observed_values(model), 4.0))
    assert tuple(plan.forms) == tuple(layer.name for layer in model.net.layers)
    return {name for name, found in plan.forms.items() if found is not None}


def test_data_layers_and_layers_without_a_rule_have_no_integers(random_model):
    model = random_model(INPUT + one("r", "ReLU") + one("s", "Softmax", "r") + one("t", "TanH"))
    assert in_int8(model) == {"r"}


def test_passive_layers_between_fp32_layers_stay_in_fp32(random_model):
    text = one("s", "Softmax") + one("f", "Flatten", "s") + one("r", "ReLU", "f") + one("c", "Concat", "r r")
    assert in_int8(random_model(INPUT + text)) == set()


def test_one_bottom_in_int8_is_enough(random_model):
    assert in_int8(random_model(INPUT + one("s", "Softmax") + one("c", "Concat", "s x"))) == {"c"}


def test_arithmetic_behind_fp32_runs_in_int8(random_model):
    text = one("s", "Softmax") + one("p", "Pooling", "s").replace(" }", " pooling_param { kernel_size: 2 } }")
    assert in_int8(random_model(INPUT + text)) == {"p"}


def test_all_layers_that_cannot_be_expressed_are_in_one_error(random_model):
    text = INPUT + "".join(
        f'layer {{ name: "{name}" bottom: "{bottom}" top: "{name}" {CONV} }}\n' for name, bottom in ("ax", "ba", "cb")
    )
    model = random_model(text, 3)
    with pytest.raises(QuantizationError) as error:
        make_plan(model, {"x": 1e6, "a": 1.0, "b": 1e3, "c": 1e-3})
    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "layer 'a' (Convolution)",
        "layer 'c' (Convolution)",
    ]
    assert all("max|W|" in problem and "128" in problem for problem in error.value.problems)


def test_without_weights_there_is_nothing_to_quantise():
    with pytest.raises(QuantizationError, match="give the caffemodel"):
        make_plan(build_model(parse_prototxt(INPUT)), {"x": 1.0})


def test_the_same_thresholds_give_the_same_integers(random_model):
    model = random_model(INPUT + f'layer {{ name: "c" bottom: "x" top: "c" {CONV} }}')
    first, second = (make_plan(model, {"x": 1.0, "c": 3.0}) for _ in range(2))
    assert first.forms["c"].blobs[0].tobytes() == second.forms["c"].blobs[0].tobytes()
    assert first.thresholds == second.thresholds
