"""An Add behind a product is its bias, where nothing else reads the product."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from calib8.workflow import check

RNG = np.random.default_rng(4)
IMAGE, ROWS = (1, 4, 5, 6), (2, 3, 5)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


PRODUCTS = {
    "Conv": (IMAGE, weights(6, 4, 3, 3), (1, 6, 1, 1)),
    "ConvTranspose": (IMAGE, weights(4, 6, 3, 3), (6, 1, 1)),
    "MatMul": (ROWS, weights(5, 7), (7,)),
    "Gemm": ((2, 5), weights(5, 7), (1, 7)),
}


def chain(name: str, operation: str = "Add", *, is_first: bool = False):
    operands = ["b", "p"] if is_first else ["p", "b"]
    return [helper.make_node(name, ["x", "w"], ["p"], name="product"), helper.make_node(operation, operands, ["y"])]


def types(model) -> list[str]:
    return [layer.type for layer in model.net.layers]


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(("operation", "is_first"), [("Add", False), ("Add", True), ("Sub", False)])
@pytest.mark.parametrize("is_number", [False, True])
def test_it_is_the_bias_of_the_product(name, operation, is_first, is_number, same_as_runtime):
    shape, matrix, per_output = PRODUCTS[name]
    constants = {"w": matrix, "b": weights(*(() if is_number else per_output))}
    model = same_as_runtime(chain(name, operation, is_first=is_first), {"x": shape}, constants=constants)
    _, layer = model.net.layers
    assert layer.name == "product" and layer.tops == ("y",) and len(layer.blobs) == 2


def test_what_follows_is_read_under_the_name_of_the_sum(same_as_runtime):
    shape, matrix, per_output = PRODUCTS["Conv"]
    nodes = [*chain("Conv"), helper.make_node("Relu", ["y"], ["z"])]
    model = same_as_runtime(nodes, {"x": shape}, ("z",), {"w": matrix, "b": weights(*per_output)})
    assert types(model) == ["Input", "Convolution", "ReLU"]


@pytest.mark.parametrize(
    ("bias", "operation", "is_first", "kind"),
    [
        ((3, 4), "Add", False, "Bias"),  # a number for each pixel
        ((1, 1, 1, 4), "Add", False, "Bias"),
        ((2, 6, 1, 1), "Add", False, "Bias"),  # of each image
        ((), "Mul", False, "Power"),
        ((), "Sub", True, "Power"),
    ],
)
def test_other_numbers_stay_a_layer(bias, operation, is_first, kind, same_as_runtime):
    constants = {"w": PRODUCTS["Conv"][1], "b": weights(*bias)}
    model = same_as_runtime(chain("Conv", operation, is_first=is_first), {"x": IMAGE}, constants=constants)
    assert types(model)[-1] == kind


def test_a_product_that_something_else_needs_stays(same_as_runtime):
    shape, matrix, per_output = PRODUCTS["Conv"]
    constants = {"w": matrix, "b": weights(*per_output)}
    assert "Bias" in types(same_as_runtime(chain("Conv"), {"x": shape}, ("y", "p"), constants))
    nodes = [*chain("Conv"), helper.make_node("Mul", ["p", "y"], ["z"])]
    assert "Bias" in types(same_as_runtime(nodes, {"x": shape}, ("z",), constants))


def test_a_product_that_has_a_bias_keeps_it(same_as_runtime):
    nodes = [helper.make_node("Conv", ["x", "w", "c"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    constants = {"w": PRODUCTS["Conv"][1], "c": weights(6), "b": weights(6, 1, 1)}
    assert types(same_as_runtime(nodes, {"x": IMAGE}, constants=constants)) == ["Input", "Convolution", "Bias"]


def test_the_network_runs_in_int8_as_a_whole(same_as_runtime, tmp_path):
    nodes = [
        *chain("Conv"), helper.make_node("Relu", ["y"], ["r"]), helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["n"]), helper.make_node("Add", ["n", "o"], ["z"]),
    ]  # fmt: skip
    constants = {"w": PRODUCTS["Conv"][1], "b": weights(1, 6, 1, 1), "m": weights(72, 3), "o": weights(3)}
    same_as_runtime(nodes, {"x": IMAGE}, ("z",), constants)
    assert {row.precision for row in check(tmp_path / "net.onnx").rows} == {None, "INT8"}
