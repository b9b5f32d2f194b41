"""BatchNorm, Scale and the like folded into weights: the same numbers from fewer layers; what must not be folded."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.lowering import build_model, fold_channel_affines
from calib8.proto.text import parse_prototxt

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [2, 4, 6, 6] } } }\n'
WEIGHTED = {
    "convolution": 'type: "Convolution" convolution_param { num_output: 6 kernel_size: 3 pad: 1 }',
    "no bias": 'type: "Convolution" convolution_param { num_output: 6 kernel_size: 1 bias_term: false }',
    "groups": 'type: "Convolution" convolution_param { num_output: 6 kernel_size: 3 group: 2 }',
    "depthwise": 'type: "ConvolutionDepthwise" convolution_param { kernel_size: 3 pad: 1 }',
    "deconvolution": 'type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 }',
    "deconvolution in groups": 'type: "Deconvolution" convolution_param { num_output: 6 kernel_size: 2 group: 2 }',
    "inner product": 'type: "InnerProduct" inner_product_param { num_output: 5 }',
    "transposed": 'type: "InnerProduct" inner_product_param { num_output: 5 transpose: true bias_term: false }',
}
FOLLOWERS = {
    "batch norm": ['type: "BatchNorm"'],
    "batch norm, scale": ['type: "BatchNorm"', 'type: "Scale" scale_param { bias_term: true }'],
    "nvidia's": ['type: "BatchNorm" batch_norm_param { scale_bias: true }'],
    "scale": ['type: "Scale"'],
    "bias": ['type: "Bias"'],
    "bias, scale, bias": ['type: "Bias"', 'type: "Scale" scale_param { bias_term: true }', 'type: "Bias"'],
}


def chain(first, followers, in_place=True):
    text, bottom = DATA, "data"
    for index, rest in enumerate([first, *followers]):
        top = "w" if in_place else f"v{index}"
        text += f'layer {{ name: "l{index}" bottom: "{bottom}" top: "{top}" {rest} }}\n'
        bottom = top
    return text


def sample(model):
    return {v: np.random.default_rng(1).standard_normal(model.shapes[v]).astype(np.float32) for v in model.inputs}


def types(model):
    return [layer.type for layer in model.net.layers]


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("followers", FOLLOWERS.values(), ids=FOLLOWERS)
@pytest.mark.parametrize("first", WEIGHTED.values(), ids=WEIGHTED)
def test_same_numbers_from_fewer_layers(random_model, first, followers, in_place):
    model = random_model(chain(first, followers, in_place))
    folded = fold_channel_affines(model)
    assert len(folded.net.layers) == 2
    assert folded.net.outputs == model.net.outputs
    (name,) = model.net.outputs
    expected, found = (run_float(m, sample(model))[name] for m in (model, folded))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_dialects_of_bn(random_model):
    model = random_model(chain(WEIGHTED["convolution"], ['type: "BN" bn_param { bn_mode: INFERENCE }', 'type: "BN"']))
    folded = fold_channel_affines(model)
    assert types(folded) == ["Input", "Convolution"]
    expected, found = (run_float(m, sample(model))["w"] for m in (model, folded))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


CONV = (
    'layer { name: "c" bottom: "data" top: "c" type: "Convolution" convolution_param { num_output: 4 kernel_size: 1 } }'
)
KEPT = {
    "two readers": CONV
    + 'layer { name: "s" bottom: "c" top: "s" type: "Scale" }'
    + 'layer { name: "r" bottom: "c" top: "r" type: "ReLU" }',
    "something between": CONV
    + 'layer { name: "r" bottom: "c" top: "c" type: "ReLU" }'
    + 'layer { name: "s" bottom: "c" top: "s" type: "Scale" }',
    "along another axis": CONV + 'layer { name: "s" bottom: "c" top: "s" type: "Scale" scale_param { axis: 2 } }',
    "two bottoms": CONV
    + 'layer { name: "r" bottom: "data" top: "r" type: "Pooling" pooling_param { pool: AVE global_pooling: true } }'
    + 'layer { name: "f" bottom: "r" top: "f" type: "Flatten" }'
    + 'layer { name: "s" bottom: "c" bottom: "f" top: "s" type: "Scale" scale_param { axis: 0 } }',
    "nothing in front": 'layer { name: "s" bottom: "data" top: "s" type: "BatchNorm" }',
    "shared by several bottoms": 'layer { name: "c" bottom: "data" bottom: "data" top: "c" top: "d" type: "Convolution"'
    " convolution_param { num_output: 4 kernel_size: 1 } }"
    + 'layer { name: "s" bottom: "c" top: "s" type: "Scale" }',
}  # fmt: skip


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_is_not_folded(random_model, text):
    model = random_model(DATA + text)
    assert types(fold_channel_affines(model)) == types(model)


def test_factors_that_are_no_numbers_are_not_folded(random_model):
    weights = {"l1": [np.zeros(6), np.full(6, -1.0), np.ones(1)]}
    model = random_model(chain(WEIGHTED["convolution"], FOLLOWERS["batch norm"]), weights=weights)
    assert types(fold_channel_affines(model)) == types(model)


def test_without_weights_nothing_is_folded(random_model):
    bare = build_model(parse_prototxt(chain(WEIGHTED["convolution"], FOLLOWERS["scale"])))
    assert fold_channel_affines(bare) is bare
