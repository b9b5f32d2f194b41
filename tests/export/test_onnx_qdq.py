"""ONNX with scales per channel: codes of weights and activations, their types, and what ONNX Runtime makes of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from calib8.engine import run_float
from calib8.export.onnx_qdq import Zero, pairs_may_saturate, qdq_export
from calib8.quantize import make_plan

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 4, 8, 8] } } }\n'
NET = (
    DATA
    + """
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "c1" }
layer { name: "sc" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "p1" type: "Pooling" bottom: "c1" top: "p1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "dw" type: "ConvolutionDepthwise" bottom: "p1" top: "dw" convolution_param { kernel_size: 3 pad: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "dw" bottom: "p1" top: "sum" }
layer { name: "up" type: "Deconvolution" bottom: "sum" top: "up" convolution_param { num_output: 5 kernel_size: 2 } }
layer { name: "cat" type: "Concat" bottom: "up" bottom: "up" top: "cat" }
layer { name: "ip" type: "InnerProduct" bottom: "cat" top: "ip" inner_product_param { num_output: 7 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
)


def samples(model, seed=0):
    rng = np.random.default_rng(seed)
    return {value: rng.standard_normal(model.shapes[value]).astype(np.float32) for value in model.inputs}


def planned(model):
    found = {}
    for seed in range(4):
        for value, array in run_float(model, samples(model, seed), list(model.shapes)).items():
            found[value] = max(found.get(value, 1e-3), float(np.abs(array).max()))
    return make_plan(model, found)


def run(proto, inputs, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL, *, exact=False):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def constants(proto):
    return {x.name: numpy_helper.to_array(x) for x in proto.graph.initializer}


def quantizers(proto):
    """Step and zero point of each tensor that is quantised, by its name."""
    stored = constants(proto)
    nodes = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    return {node.input[0]: (float(stored[node.input[1]]), stored[node.input[2]]) for node in nodes}


@pytest.mark.parametrize("zero", Zero)
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_it_follows_fp32(random_model, zero, level):
    model = random_model(NET)
    export = qdq_export("net", model, planned(model), zero)
    onnx.checker.check_model(export.proto, full_check=True)
    export.proto.graph.output.append(onnx.helper.make_tensor_value_info("ip", onnx.TensorProto.FLOAT, None))
    inputs = samples(model, 2)
    expected = run_float(model, inputs, ["ip"])["ip"]
    found = run(export.proto, inputs, getattr(ort.GraphOptimizationLevel, level))["ip"]
    noise = np.square(found - expected).sum() / np.square(expected).sum()
    assert 1e-9 < noise < 1e-2


def test_heads_that_are_joined_stay_real(random_model):
    """A Concat at the end has one step for boxes and scores, with which the scores would be 0."""
    heads = """
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "boxes" type: "Convolution" bottom: "c" top: "boxes" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "scores" type: "Convolution" bottom: "c" top: "scores"
        convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "boxes" bottom: "boxes" top: "sum" }
layer { name: "sr" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "out" type: "Concat" bottom: "sum" bottom: "scores" top: "out" }
"""
    model = random_model(DATA + heads)
    assert set(quantizers(qdq_export("net", model, planned(model), Zero.OFFSET).proto)) == {"data", "c"}
    behind = """
layer { name: "f" type: "Convolution" bottom: "out" top: "f" convolution_param { num_output: 1 kernel_size: 1 } }
"""
    model = random_model(DATA + heads + behind)
    found = quantizers(qdq_export("net", model, planned(model), Zero.OFFSET).proto)
    assert set(found) == {"data", "c", "boxes", "sum", "scores", "out"}


def test_types_of_codes(random_model):
    model = random_model(NET)
    plan = planned(model)
    signed, unsigned = (quantizers(qdq_export("net", model, plan, zero).proto) for zero in Zero)
    assert set(signed) == set(unsigned) == {"data", "c1", "p1", "dw", "sum", "up", "cat"}
    assert {zero.dtype for _, zero in signed.values()} == {np.dtype(np.int8)}
    assert {int(zero) for _, zero in signed.values()} == {0}
    assert {name for name, (_, zero) in unsigned.items() if zero == 0} == {"c1", "p1"}
    assert {int(zero) for _, zero in unsigned.values()} == {0, 128}
    for name, (step, zero) in unsigned.items():
        threshold = plan.thresholds["c1" if name == "p1" else name]
        assert step == pytest.approx(threshold / (255 if zero == 0 else 127))
        assert signed[name][0] == pytest.approx(threshold / 127)


def test_weights_have_a_scale_for_each_output(random_model):
    model = random_model(NET)
    proto = qdq_export("net", model, planned(model), Zero.NONE).proto
    stored = constants(proto)
    axes = {}
    for node in proto.graph.node:
        codes = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if codes is not None and codes.dtype == np.int8:
            axis = next((a.i for a in node.attribute if a.name == "axis"), None)
            others = tuple(i for i in range(codes.ndim) if i != axis)
            assert (np.abs(codes).max(axis=others) == 127).all()
            axes[node.name.split(":")[0]] = (axis, stored[node.input[1]].shape)
    assert axes == {"c1": (0, (6,)), "dw": (0, (6,)), "up": (1, (5,)), "ip": (0, (7,))}


@pytest.mark.parametrize("zero", Zero)
def test_one_convolution_is_the_sum_of_rounded_numbers(random_model, zero):
    """TensorRT has no integer biases; ONNX Runtime's kernels take no others."""
    model = random_model(
        DATA + 'layer { name: "y" type: "Convolution" bottom: "data" top: "y" convolution_param { num_output: 3'
        " kernel_size: 1 } }"
    )
    plan = make_plan(model, {"data": 2.0, "y": 5.0})
    inputs = samples(model)
    weights, bias = model.net.layers[1].blobs
    scales = np.abs(weights).max(axis=(1, 2, 3)) / 127
    codes = np.clip(np.rint(inputs["data"][0] / np.float32(2 / 127)), -128, 127)
    sums = np.einsum("oc,chw->ohw", np.rint(weights[:, :, 0, 0] / scales[:, None]), codes)
    step = scales * 2 / 127
    expected = sums * step[:, None, None]
    proto = qdq_export("net", model, plan, zero).proto
    integer_biases = [x for x in constants(proto).values() if x.dtype == np.int32]
    if zero is Zero.NONE:
        assert not integer_biases
        expected += bias[:, None, None]
    else:
        np.testing.assert_array_equal(integer_biases, [np.rint(bias / step)])
        expected += (np.rint(bias / step) * step)[:, None, None]
    found = run(proto, inputs)["y"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("zero", Zero)
@pytest.mark.parametrize(
    "layer",
    [
        'type: "Convolution" convolution_param { num_output: 4 kernel_size: 1 }',
        'type: "Deconvolution" convolution_param { num_output: 4 kernel_size: 1 }',
        'type: "Deconvolution" convolution_param { num_output: 4 kernel_size: 1 group: 4 }',
        'type: "InnerProduct" inner_product_param { num_output: 4 }',
    ],
)
def test_biases_of_outputs_whose_weights_are_next_to_nothing(random_model, zero, layer):
    """Training leaves such channels: their scale would be so small that a bias of 32 bits could not reach its value."""
    text = DATA + f'layer {{ name: "y" bottom: "data" top: "y" {layer} }}'
    weights, bias = (b.copy() for b in random_model(text).net.layers[1].blobs)
    outputs = weights.swapaxes(0, 1) if "Deconvolution" in layer and "group" not in layer else weights
    bias[...] = [3.3333, -5.0123, 7.0707, 0]
    outputs[:] = 0
    outputs[1], outputs[2], outputs[3] = 1e-12, 1e-38, 1e-42
    model = random_model(text, weights={"y": [weights, bias]})
    inputs = samples(model)
    plan = make_plan(model, {"data": 2.0, "y": 8.0})
    found = run(qdq_export("net", model, plan, zero).proto, inputs)["y"]
    np.testing.assert_allclose(found, run_float(model, inputs, ["y"])["y"], rtol=1e-5, atol=1e-6)


def test_layers_in_fp32_and_outputs_stay_real(random_model):
    model = random_model(NET)
    proto = qdq_export("net", model, planned(model), Zero.OFFSET).proto
    (softmax,) = (node for node in proto.graph.node if node.op_type == "Softmax")
    producers = {name: node.op_type for node in proto.graph.node for name in node.output}
    assert producers[softmax.input[0]] == "Gemm"


LARGEST = (
    DATA
    + """
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "c2" top: "ip" inner_product_param { num_output: 6 } }
layer { name: "y" type: "InnerProduct" bottom: "ip" top: "y" inner_product_param { num_output: 5 } }
"""
)


@pytest.fixture
def largest(random_model):
    """A network, and inputs, whose weights and activations are all about the largest that their scales have."""
    bare = random_model(LARGEST)
    random = np.random.default_rng(0)
    weights = {
        layer.name: [random.uniform(0.95, 1, blob.shape).astype(np.float32) for blob in layer.blobs]
        for layer in bare.net.layers
    }
    model = random_model(LARGEST, weights=weights)
    return model, {"data": random.uniform(0.95, 1, model.shapes["data"]).astype(np.float32)}


def plan_for(model, inputs):
    found = run_float(model, inputs, list(model.shapes))
    return make_plan(model, {value: float(np.abs(array).max()) for value, array in found.items()})


def codes_of_weights(proto):
    stored = constants(proto)
    nodes = [node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    return [(node, stored[node.input[0]]) for node in nodes if stored[node.input[0]].dtype == np.int8]


@pytest.mark.parametrize("zero", Zero)
def test_no_two_layers_share_what_exact_kernels_change(largest, zero):
    """Without VNNI, ONNX Runtime turns weights into uint8, their zero points with them: once for each name."""
    model, inputs = largest
    proto = qdq_export("net", model, plan_for(model, inputs), zero).proto
    names = [name for node, _ in codes_of_weights(proto) for name in (node.input[0], node.input[2])]
    assert len(set(names)) == len(names) == 8
    found = run(proto, inputs, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, exact=True)["y"]
    np.testing.assert_allclose(found, run(proto, inputs)["y"], rtol=0.02)


@pytest.mark.parametrize("zero", Zero)
def test_weights_of_7_bits_saturate_on_no_processor(largest, zero):
    model, inputs = largest
    plan = plan_for(model, inputs)
    export = qdq_export("net", model, plan, zero, reduce_range=True)
    assert {int(np.abs(codes).max()) for _, codes in codes_of_weights(export.proto)} == {64}
    assert pairs_may_saturate(qdq_export("net", model, plan, zero)) and not pairs_may_saturate(export)
    found = run(export.proto, inputs, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)["y"]
    expected = run_float(model, inputs, ["y"])["y"]
    np.testing.assert_allclose(found, expected, rtol=0.03)
