"""ONNX files: valid, named after Caffe's blobs, the same numbers; quantised ones with the codes of the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from calib8.arithmetic import dequantize, quantize
from calib8.calibration import Calibration
from calib8.data import ImagesSource, Preprocess
from calib8.engine import run_float
from calib8.errors import OptionError, UnsupportedError
from calib8.export import onnx_export, onnx_model
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt
from calib8.quantize import make_plan

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [2, 4, 9, 8] } } }\n'
CONV = 'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { %s } }\n'
RELU = 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }\n'

LAYERS = {
    "convolution": CONV % "num_output: 6 kernel_size: 3 stride: 2 pad: 1 group: 2",
    "no bias": CONV % "num_output: 5 kernel_h: 1 kernel_w: 3 bias_term: false",
    "relu in place": CONV % "num_output: 6 kernel_size: 3" + RELU,
    "relu beside another reader": CONV
    % "num_output: 4 kernel_size: 1"
    + 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "relu" }\n'
    'layer { name: "sum" type: "Eltwise" bottom: "relu" bottom: "conv" top: "sum" }',
    "deconvolution": 'layer { name: "y" type: "Deconvolution" bottom: "data" top: "y"'
    " convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 } }",
    "inner product": 'layer { name: "y" type: "InnerProduct" bottom: "data" top: "y"'
    " inner_product_param { num_output: 7 } }",
    "inner product, transposed": 'layer { name: "y" type: "InnerProduct" bottom: "data" top: "y"'
    " inner_product_param { num_output: 7 transpose: true bias_term: false axis: 2 } }",
    "batch norm with its scale": CONV
    % "num_output: 6 kernel_size: 3 bias_term: false"
    + 'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }\n'
    'layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }\n' + RELU,
    "batch norm alone": 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }',
    "scale alone": 'layer { name: "y" type: "Scale" bottom: "data" top: "y" scale_param { bias_term: true } }',
    "largest": 'layer { name: "y" type: "Pooling" bottom: "data" top: "y"'
    " pooling_param { kernel_size: 3 stride: 2 pad: 1 } }",
    "average": 'layer { name: "y" type: "Pooling" bottom: "data" top: "y"'
    " pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }",
    "global average": 'layer { name: "y" type: "Pooling" bottom: "data" top: "y"'
    " pooling_param { pool: AVE global_pooling: true } }",
    "sum": CONV
    % "num_output: 4 kernel_size: 1"
    + 'layer { name: "y" type: "Eltwise" bottom: "conv" bottom: "data" top: "y"'
    " eltwise_param { coeff: 1 coeff: -2 } }",
    "maximum": CONV % "num_output: 4 kernel_size: 1"
    + 'layer { name: "y" type: "Eltwise" bottom: "conv" bottom: "data" top: "y" eltwise_param { operation: MAX } }',
    "product": CONV % "num_output: 4 kernel_size: 1"
    + 'layer { name: "y" type: "Eltwise" bottom: "conv" bottom: "data" top: "y" eltwise_param { operation: PROD } }',
    "leaky": 'layer { name: "y" type: "ReLU" bottom: "data" top: "y" relu_param { negative_slope: 0.1 } }',
    "prelu": 'layer { name: "y" type: "PReLU" bottom: "data" top: "y" }',
    "concat": CONV % "num_output: 4 kernel_size: 1"
    + 'layer { name: "y" type: "Concat" bottom: "conv" bottom: "data" top: "y" }',
    "moved data": CONV
    % "num_output: 6 kernel_size: 1"
    + 'layer { name: "p" type: "Permute" bottom: "conv" top: "p" permute_param { order: [0, 2, 3, 1] } }\n'
    'layer { name: "f" type: "Flatten" bottom: "p" top: "f" }\n'
    'layer { name: "s" type: "Slice" bottom: "f" top: "s1" top: "s2" slice_param { slice_point: 100 } }\n'
    'layer { name: "d" type: "Dropout" bottom: "s1" top: "s1" }',
}
FP32_WITHIN = (
    CONV % "num_output: 6 kernel_size: 1"
    + 'layer { name: "soft" type: "Softmax" bottom: "conv" top: "soft" }\n'
    + 'layer { name: "y" type: "Scale" bottom: "soft" top: "y" }'
)


def session(proto, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(proto, inputs, **options):
    runs = session(proto, **options)
    names = [output.name for output in runs.get_outputs()]
    return dict(zip(names, runs.run(names, inputs), strict=True))


def samples(model, seed=0):
    rng = np.random.default_rng(seed)
    return {value: rng.standard_normal(model.shapes[value]).astype(np.float32) for value in model.inputs}


def on_steps(inputs, plan):
    """Inputs rounded to whole codes: other real numbers may lie so near to a tie that float32 does not tell."""
    return {v: dequantize(quantize(x, plan.thresholds[v]), plan.thresholds[v]) for v, x in inputs.items()}


def measured(model, share=1.0):
    """Thresholds that clip a little, from a few samples."""
    found = {}
    for seed in range(3):
        for value, array in run_float(model, samples(model, seed), list(model.shapes)).items():
            found[value] = max(found.get(value, 1e-3), share * float(np.abs(array).max()))
    return found


def checked(export):
    onnx.checker.check_model(export.proto, full_check=True)
    return export.proto


@pytest.mark.parametrize("text", LAYERS.values(), ids=LAYERS)
def test_float_network_is_valid_and_gives_the_same_numbers(random_model, text):
    model = random_model(DATA + text)
    export = onnx_export("net", model)
    proto, inputs = checked(export), samples(model)
    assert [x.name for x in proto.graph.input] == ["data"]
    assert tuple(x.name for x in proto.graph.output) == model.net.outputs
    for port in (*proto.graph.input, *proto.graph.output):
        assert tuple(d.dim_value for d in port.type.tensor_type.shape.dim) == model.shapes[port.name]
    expected = run_float(model, inputs)
    for name, found in run(proto, inputs).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max())
    assert export.notes == ()


@pytest.mark.parametrize(
    "level", [ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL]
)
@pytest.mark.parametrize("text", LAYERS.values(), ids=LAYERS)
def test_quantised_network_gives_the_codes_of_the_contract(random_model, run_int8, text, level):
    model = random_model(DATA + text)
    plan = make_plan(model, measured(model, 0.8))
    proto, outputs = checked(onnx_export("net", model, plan)), model.net.outputs
    for seed in range(4):
        inputs = on_steps(samples(model, seed + 10), plan)
        expected = run_int8(model, plan, inputs, outputs, real_inputs=model.inputs)
        for name, found in run(proto, inputs, level=level).items():
            np.testing.assert_allclose(found, expected[name], rtol=1e-6, atol=0)


def test_an_fp32_layer_between_int8_ones(random_model, run_int8):
    """What it gives is quantised in float32: next to a tie it may be the neighbouring code."""
    model = random_model(DATA + FP32_WITHIN)
    plan = make_plan(model, measured(model))
    assert plan.forms["soft"] is None and plan.forms["y"] is not None
    inputs = on_steps(samples(model), plan)
    expected = run_int8(model, plan, inputs, ["y"], real_inputs=model.inputs)["y"]
    found = run(checked(onnx_export("net", model, plan)), inputs)["y"]
    np.testing.assert_allclose(found, expected, atol=1.01 * plan.thresholds["y"] / 128)
    assert np.mean(np.isclose(found, expected, rtol=1e-6)) > 0.99


@settings(max_examples=25)
@given(exponent=st.integers(-6, 6), ratio=st.floats(0.3, 3), seed=st.integers(0, 2**20))
def test_ties_round_up(random_model, run_int8, exponent, ratio, seed):
    """Weights and input in few steps: accumulators meet ties all the time, positive and negative ones."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(-4, 5, (3, 4, 1, 1)) / 4
    text = CONV % "num_output: 3 kernel_size: 1 bias_term: false"
    model = random_model(DATA + text, weights={"conv": [weights]})
    tx = 2.0**exponent
    plan = make_plan(model, {"data": tx, "conv": tx * ratio})
    inputs = {"data": (rng.integers(-128, 128, model.shapes["data"]) * tx / 128).astype(np.float32)}
    expected = run_int8(model, plan, inputs, ["conv"], real_inputs=["data"])["conv"]
    found = run(onnx_export("net", model, plan).proto, inputs)["conv"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_weights_are_those_of_the_plan(random_model):
    model = random_model(DATA + LAYERS["relu in place"])
    plan = make_plan(model, measured(model))
    stored = {x.name: numpy_helper.to_array(x) for x in onnx_export("net", model, plan).proto.graph.initializer}
    weights, bias = plan.forms["conv"].blobs
    assert any(x.dtype == np.int8 and np.array_equal(x, weights) for x in stored.values() if x.shape == weights.shape)
    assert any(x.dtype == np.int32 and np.array_equal(x, bias) for x in stored.values() if x.shape == bias.shape)
    assert not any(x.dtype == np.float32 and x.size > 1 for x in stored.values())


def test_everything_is_inside_and_the_same_twice(random_model):
    model = random_model(DATA + CONV % "num_output: 64 kernel_size: 3")
    first, second = onnx_export("net", model), onnx_export("net", model)
    assert first.data == second.data
    assert all(x.data_location == TensorProto.DEFAULT for x in first.proto.graph.initializer)
    assert {x.domain for x in first.proto.opset_import} == {""}
    names = [x for node in first.proto.graph.node for x in (node.name, *node.output)]
    assert all(names)


def test_names_that_clash_with_inner_ones(random_model):
    """A blob with a name that the writer would have given to an inner value."""
    model = random_model(DATA + CONV % "num_output: 2 kernel_size: 1" + RELU)
    inner = {x for node in onnx_export("net", model).proto.graph.node for x in node.output} - {"conv"}
    inner |= {x.name for x in onnx_export("net", model).proto.graph.initializer}
    assert inner
    for name in inner:
        text = (
            CONV % "num_output: 2 kernel_size: 1"
        ) + f'layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "{name}" }}'
        clash = random_model(DATA + text)
        found = run(checked(onnx_export("net", clash)), samples(clash))
        np.testing.assert_allclose(found[name], run_float(clash, samples(clash))[name], rtol=1e-5)


def test_outputs_that_no_node_makes(random_model):
    """A constant, and an input that a layer hands on."""
    text = """
    layer { name: "prior" type: "PriorBox" bottom: "data" bottom: "data" top: "prior" prior_box_param { min_size: 3 } }
    layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" }
    """
    model = random_model(DATA + text)
    found, expected = run(checked(onnx_export("net", model)), samples(model)), run_float(model, samples(model))
    assert set(found) == {"prior", "drop"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_an_input_that_is_overwritten_keeps_its_name(random_model):
    model = random_model(DATA + 'layer { name: "relu" type: "ReLU" bottom: "data" top: "data" }')
    proto = checked(onnx_export("net", model))
    assert [x.name for x in proto.graph.input] == ["data"]
    x = next(iter(samples(model).values()))
    ((name, result),) = run(proto, {"data": x}).items()
    assert name == "data'"
    np.testing.assert_array_equal(result, np.maximum(x, 0))


PYTHON = "import caffe\nclass Double(caffe.Layer):\n" + "".join(
    f"    def {name}\n"
    for name in (
        "setup(self, bottom, top): pass",
        "reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)",
        "forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data",
    )
)


def python_net(tmp_path, first, rest):
    (tmp_path / "double_layer.py").write_text(PYTHON)
    python = (
        f'layer {{ name: "double" type: "Python" bottom: "{first}" top: "double"'
        ' python_param { module: "double_layer" layer: "Double" } }\n'
    )
    path = tmp_path / "deploy.prototxt"
    path.write_text(DATA + rest + python + 'layer { name: "last" type: "ReLU" bottom: "double" top: "last" }')
    return parse_prototxt(path.read_text(), str(path))


def test_the_network_ends_in_front_of_a_layer_in_python(tmp_path):
    model = build_model(
        python_net(tmp_path, "abs", 'layer { name: "abs" type: "AbsVal" bottom: "data" top: "abs" }\n'), {}
    )
    export = onnx_export("net", model)
    assert [x.name for x in checked(export).graph.output] == ["abs"]
    (note,) = export.notes
    assert "'double' (Python), 'last' (ReLU)" in note and "'abs'" in note


def test_nothing_in_front_of_a_layer_in_python_is_refused(tmp_path):
    model = build_model(python_net(tmp_path, "data", ""), {})
    with pytest.raises(UnsupportedError, match=r"nothing of the network.*'double' \(Python\)"):
        onnx_export("net", model)


def test_inputs_alone_are_refused(random_model):
    with pytest.raises(UnsupportedError, match="it has inputs only"):
        onnx_export("net", random_model(DATA))


def test_too_large_for_one_file(random_model, monkeypatch):
    model = random_model(DATA + CONV % "num_output: 64 kernel_size: 3")
    monkeypatch.setattr(onnx_model, "MAX_BYTES", 1000)
    with pytest.raises(OptionError, match="more than 1000 bytes"):
        onnx_export("net", model)


def test_digits(run_int8):
    """The example network: every code of 30 images, and so the same digit."""
    calibration = Calibration(
        {
            "model_name": "digits",
            "in_prototxt": DIGITS / "deploy.prototxt",
            "in_caffemodel": DIGITS / "custom.caffemodel",
            "iteration": 50,
        },
        method="mse",
    )
    calibration.calc_tables()
    model, plan = calibration.model, calibration.plan
    runs = session(checked(onnx_export("digits", model, plan)))
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = (rng.integers(0, 256, model.shapes["data"]).astype(np.float32) - 128) / 128
        expected = run_int8(model, plan, {"data": x}, ["prob"], real_inputs=["data"])["prob"]
        np.testing.assert_allclose(runs.run(["prob"], {"data": x})[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "images", "preprocess"),
    [
        ("squeezenet_v1.1", "imagenet/evaluation", Preprocess(mean=(104.0, 117.0, 123.0))),
        ("mtcnn_det2", "coco64", Preprocess(color_format="rgb", mean=(127.5,), scale=1 / 128)),
        ("mobilenetv2_yolov3_nano_voc", "coco64", Preprocess(color_format="rgb", scale=1 / 256)),
    ],
)
def test_real_networks(shared, run_int8, name, images, preprocess):
    folder = shared / "models" / name
    info = {
        "model_name": name,
        "in_prototxt": folder / "deploy.prototxt",
        "in_caffemodel": folder / "custom.caffemodel",
    }
    bare = Calibration(info)
    (blob,) = bare.model.inputs
    source = ImagesSource(shared / "images" / images, blob, bare.model.shapes[blob], preprocess)
    calibration = Calibration(info, source=source, method="mse")
    calibration.calc_tables()
    model, plan = calibration.model, calibration.plan
    real, quantised = session(checked(onnx_export(name, model))), session(checked(onnx_export(name, model, plan)))
    x = on_steps({blob: next(iter(source.batches()))[blob]}, plan)[blob]
    outputs = list(model.net.outputs)
    expected = run_float(model, {blob: x}, outputs)
    for output, found in zip(outputs, real.run(outputs, {blob: x}), strict=True):
        np.testing.assert_allclose(found, expected[output], atol=1e-4 * np.abs(expected[output]).max())
    expected = run_int8(model, plan, {blob: x}, outputs, real_inputs=[blob])
    for output, found in zip(outputs, quantised.run(outputs, {blob: x}), strict=True):
        np.testing.assert_allclose(found, expected[output], rtol=1e-4, atol=1e-6)
