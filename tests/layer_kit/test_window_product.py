"""Windows and matrices of layers: their product is the layer itself."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.layer_kit.window_product import WindowProduct, evenly

CONVOLUTIONS = {
    "plain": ("[2, 3, 7, 6]", "convolution_param { num_output: 4 kernel_size: 3 }"),
    "strides and pads": (
        "[1, 4, 9, 8]",
        "convolution_param { num_output: 6 kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 1 group: 2 }",
    ),
    "sides": ("[1, 2, 6, 6]", "convolution_param { num_output: 2 kernel_size: 2 pad_l: 1 pad_r: 0 pad_t: 0 pad_b: 1 }"),
    "dilated, depthwise": (
        "[1, 3, 9, 9]",
        "convolution_param { num_output: 6 kernel_size: 3 dilation: 2 group: 3 bias_term: false }",
    ),
    "three axes": ("[1, 2, 4, 5, 6]", "convolution_param { num_output: 3 kernel_size: 2 stride: 2 }"),
    "no axes": ("[4, 5]", "convolution_param { num_output: 3 kernel_size: 1 }"),
}


def network(kind, shape, parameters):
    return f"""
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: {shape} }} }} }}
layer {{ name: "y" type: "{kind}" bottom: "x" top: "y" {parameters} }}
"""


def product(model):
    """The layer's top from windows and matrices: (places, O)."""
    x = np.random.default_rng(3).standard_normal(model.shapes["x"]).astype(np.float32)
    layer, op = model.net.layers[-1], model.op_of["y"]
    assert isinstance(op, WindowProduct)
    windows, matrices = op.product_windows(x, 10**6), op.product_matrix(layer.blobs[0])
    found = np.einsum("gnk,gok->ngo", windows, matrices).reshape(windows.shape[1], -1)
    bias = layer.blobs[1].reshape(-1) if len(layer.blobs) > 1 else 0.0
    return found + bias, run_float(model, {"x": x})["y"]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_all_windows_times_the_matrices_are_the_convolution(random_model, name):
    found, y = product(random_model(network("Convolution", *CONVOLUTIONS[name])))
    places = np.moveaxis(y.reshape(*y.shape[:2], -1), 1, 2).reshape(-1, y.shape[1])
    np.testing.assert_allclose(found, places, rtol=1e-4, atol=1e-4)


def test_a_depthwise_layer_takes_its_groups_from_the_weights(random_model):
    found, y = product(
        random_model(network("ConvolutionDepthwise", "[1, 3, 5, 4]", "convolution_param { kernel_size: 2 }"))
    )
    np.testing.assert_allclose(found, y.reshape(3, -1).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transpose", ["true", "false"])
def test_rows_times_the_matrix_are_the_inner_product(random_model, transpose):
    parameters = f"inner_product_param {{ num_output: 3 axis: 2 transpose: {transpose} }}"
    found, y = product(random_model(network("InnerProduct", "[2, 4, 5]", parameters)))
    np.testing.assert_allclose(found, y.reshape(8, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        network("Convolution", *CONVOLUTIONS["strides and pads"]),
        network("InnerProduct", "[2, 5]", "inner_product_param { num_output: 3 transpose: true }"),
        network("InnerProduct", "[2, 5]", "inner_product_param { num_output: 3 }"),
    ],
)
def test_matrices_go_back_to_the_blob(random_model, text):
    model = random_model(text)
    op, weights = model.op_of["y"], model.net.layers[-1].blobs[0]
    back = op.product_weights(op.product_matrix(weights)).reshape(weights.shape)
    np.testing.assert_array_equal(back, weights)


def test_few_windows_are_spread_over_all_places(random_model):
    model = random_model(network("Convolution", "[1, 1, 10, 10]", "convolution_param { num_output: 1 kernel_size: 1 }"))
    x = np.arange(100, dtype=np.float32).reshape(1, 1, 10, 10)
    np.testing.assert_array_equal(model.op_of["y"].product_windows(x, 4)[0, :, 0], [12, 37, 62, 87])


@pytest.mark.parametrize(("total", "count"), [(10, 3), (5, 5), (3, 8), (1, 1), (2**40, 7)])
def test_evenly(total, count):
    found = evenly(total, count)
    n = min(total, count)
    np.testing.assert_array_equal(found, [int((2 * i + 1) * total // (2 * n)) for i in range(n)])
    assert len(set(found.tolist())) == n and found.max() < total
