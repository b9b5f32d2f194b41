"""The `int8_layer` string: spellings, pairs, and what is said about names that cannot be."""

from __future__ import annotations

import pytest

from calib8.errors import OptionError
from calib8.quantize import fp32_layers, integer_setup, make_plan, observed_values, parse_layer_list

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 6, 6] } ENABLE } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "c1" }
layer { name: "sc" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "ip" type: "InnerProduct" bottom: "c1" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture
def planned(random_model):
    def make(enable=""):
        model = random_model(NET.replace("ENABLE", enable))
        return model, make_plan(model, dict.fromkeys(observed_values(model), 4.0))

    return make


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), (" , ,", ()), ("a", ("a",)), ("a,b", ("a", "b")), ("conv1, bn,  sc, ", ("conv1", "bn", "sc")),
     ("a,a ,b", ("a", "b")), ("a b,c", ("a b", "c"))],
)  # fmt: skip
def test_lists(text, names):
    assert parse_layer_list(text) == names


@pytest.mark.parametrize("names", [None, 3, ["c1"]])
def test_a_list_that_is_no_text(names):
    with pytest.raises(OptionError, match="expected a text"):
        parse_layer_list(names)


def test_nothing_named_means_all_that_can(planned):
    setup = integer_setup(*planned())
    assert setup.int8_layers == {"c1", "bn", "sc", "r", "ip"}
    assert fp32_layers(planned()[0], setup) == ("prob",)


def test_named_layers_only(planned):
    setup = integer_setup(*planned(), "c1, ip, prob")
    assert setup.int8_layers == {"c1", "ip"}


def test_a_batch_norm_and_its_scale_go_together(planned):
    assert integer_setup(*planned(), "sc,bn").int8_layers == {"bn", "sc"}
    for given, missing in (("bn", "sc"), ("sc", "bn")):
        with pytest.raises(OptionError, match=f"'{given}' is named and '{missing}' is not"):
            integer_setup(*planned(), f"c1,{given}")


def test_all_wrong_names_at_once(planned):
    with pytest.raises(OptionError) as error:
        integer_setup(*planned(), "nothing, c1, bn, nowhere")
    assert len(error.value.problems) == 3
    for name in ("'nothing'", "'nowhere'", "'bn'"):
        assert name in str(error.value)


def test_the_input_comes_quantised_unless_its_layer_does_it(planned):
    assert integer_setup(*planned()).quantized_inputs == {"data"}
    assert integer_setup(*planned("enable_quantize: 1")).quantized_inputs == frozenset()
    assert integer_setup(*planned(), "ip").quantized_inputs == frozenset()  # the first layer runs in FP32
