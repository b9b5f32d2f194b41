"""The same results on a GPU as on the CPU: INT8 bit for bit, FP32 within rounding.

Each test runs on a GPU, where there is one, and with graphs made for a GPU on the CPU.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import caffe
from calib8 import Calibration
from calib8.cli.main import main
from calib8.engine import EngineOptions, Executor, gpu, run_float, run_int8, session
from calib8.engine.even_pads import with_even_pads
from calib8.errors import DeviceError
from calib8.export import read_plan
from calib8.lowering import build_model, lower_float
from calib8.lowering.integer import IntegerSetup, lower_int8
from calib8.lowering.readings import Codes
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.quantize import integer_setup, make_plan, observed_values

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 16, 30, 31] } } }
layer { name: "dw" type: "DepthwiseConvolution" bottom: "x" top: "dw"
        convolution_param { num_output: 16 group: 16 kernel_size: 3 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "dw" top: "bn" }
layer { name: "sc" type: "Scale" bottom: "bn" top: "sc" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "sc" top: "relu" relu_param { negative_slope: 0.1 } }
layer { name: "max" type: "Pooling" bottom: "relu" top: "max" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "pw" type: "Convolution" bottom: "max" top: "pw" convolution_param { num_output: 32 kernel_size: 1 } }
layer { name: "win" type: "Convolution" bottom: "pw" top: "win"
        convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
layer { name: "five" type: "Convolution" bottom: "win" top: "five"
        convolution_param { num_output: 32 kernel_size: 5 pad: 2 group: 2 } }
layer { name: "dil" type: "Convolution" bottom: "five" top: "dil"
        convolution_param { num_output: 32 kernel_size: 3 pad: 2 dilation: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "five" bottom: "dil" top: "sum" }
layer { name: "up" type: "Deconvolution" bottom: "sum" top: "up"
        convolution_param { num_output: 32 group: 4 kernel_size: 4 stride: 2 pad: 1 } }
layer { name: "ave" type: "Pooling" bottom: "up" top: "ave" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "ave" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
MODELS = ["squeezenet_v1.1", "cifar10_resnet20", "mobilenetv2_yolov3_nano_voc", "res10_ssd_face", "ultraface_rfb320"]


def on_the_cpu(onnx, settings, number, disabled_optimizers):
    """Stands in for `gpu_session`: the graph that a GPU would get."""
    assert {node.op_type for node in onnx.graph.node}.isdisjoint({"QLinearConv", "ConvInteger"})
    return ort.InferenceSession(
        with_even_pads(onnx).SerializeToString(),
        settings,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=[*disabled_optimizers, "ConvActivationFusion"],
    )


@pytest.fixture(params=[pytest.param("gpu", marks=pytest.mark.gpu), "stand-in"], autouse=True)
def _device(request, monkeypatch):
    if request.param == "stand-in":
        monkeypatch.setattr(session, "gpu_session", on_the_cpu)
        for module, name in ((session, "check_gpu"), (session, "check_sums"), (gpu, "check_gpu"), (gpu, "check_sums")):
            monkeypatch.setattr(module, name, lambda number: None)
        return
    try:
        gpu.check_gpu(0)
    except DeviceError as why:
        pytest.skip(str(why))


only_on_a_gpu = pytest.mark.parametrize("_device", [pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)


def on_both(steps_of, inputs, names):
    """What the GPU and the CPU give; `steps_of(integer_kernels)` are the steps."""
    found = []
    for number in (0, None):
        options = EngineOptions(gpu=number)
        values: dict[str, np.ndarray] = {}
        executor = Executor(steps_of(options.integer_kernels), names, options)
        for _ in range(2):  # the second time with bound buffers
            executor.run(inputs, lambda name, x, v=values: v.__setitem__(name, x.copy()))
        found.append(values)
    return found


def same_codes(model, setup_of, inputs):
    """Codes bit for bit, but for those behind a layer in FP32, whose last bits are the device's own."""
    chosen = setup_of(integer_kernels=True).int8_layers
    exact = set(model.inputs)
    for layer in model.net.layers:
        if layer.name in chosen and exact.issuperset(layer.bottoms):
            exact.update(layer.tops)
    names = [Codes(value) for value in sorted(exact.difference(model.inputs))]
    assert names
    on_gpu, on_cpu = on_both(lambda k: lower_int8(model, setup_of(integer_kernels=k), names), inputs, names)
    for name in names:
        assert np.array_equal(on_gpu[name], on_cpu[name]), name


def close(on_gpu, on_cpu):
    for name, expected in on_cpu.items():
        np.testing.assert_allclose(on_gpu[name], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def images_of(model):
    rng = np.random.default_rng(0)
    return {value: rng.uniform(-100, 100, model.shapes[value]).astype(np.float32) for value in model.inputs}


@only_on_a_gpu
def test_integers_are_added_exactly():
    gpu.check_sums(0)


def test_a_network_in_fp32(random_model):
    model = random_model(NET)
    names = [layer.tops[0] for layer in model.net.layers[1:]]
    close(*on_both(lambda _: lower_float(model, names), images_of(model), names))


def plan_of(model, inputs):
    values = tuple(observed_values(model))
    largest = {value: float(np.abs(x).max()) or 1.0 for value, x in run_float(model, inputs, values).items()}
    return make_plan(model, largest)


@pytest.mark.parametrize("bits", [16, 32])
def test_a_network_in_int8(bits, random_model):
    model = random_model(NET)
    inputs = images_of(model)
    plan = plan_of(model, inputs)
    plans = {name: own for name, own in plan.forms.items() if own is not None}

    def setup_of(**options):
        return IntegerSetup(frozenset(plans), plans, plan.thresholds, accumulator_bits=bits, **options)

    same_codes(model, setup_of, inputs)


def test_sums_beyond_float32(random_model):
    """An InnerProduct whose sums are cut."""
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [3, 20000] } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 7 } }
    """
    model = random_model(text, weights={"ip": [np.ones((7, 20000)), np.arange(7)]})
    plan = make_plan(model, {"x": 100.0, "ip": 2e6})
    plans = {"ip": plan.forms["ip"]}
    inputs = {"x": np.random.default_rng(0).uniform(80, 100, (3, 20000)).astype(np.float32)}
    same_codes(model, lambda **options: IntegerSetup(frozenset(plans), plans, plan.thresholds, **options), inputs)


@pytest.mark.shared
def test_lenet_gives_the_chip_s_integers(shared):
    golden = shared / "golden" / "bm1880_lenet"
    shapes = {"data": (100, 1, 28, 28), "label": (100,)}
    model = build_model(read_prototxt(golden / "deploy.prototxt"), read_caffemodel(golden / "fp32.caffemodel"), shapes)
    plan = read_plan(model, golden / "bmnet_lenet_calibration_table.pb2", golden / "run.caffemodel")
    plans = {name: own for name, own in plan.forms.items() if own is not None}
    images = np.fromfile(golden / "run_input_100x1x28x28.int8", np.int8).reshape(100, 1, 28, 28).astype(np.float32)

    def setup_of(**options):
        return IntegerSetup(frozenset(plans), plans, plan.thresholds, frozenset(model.inputs), **options)

    last = Codes("customized2")
    inputs = {"data": images, "label": np.zeros(100, np.float32)}
    found = run_int8(model, setup_of(), inputs, [last], EngineOptions(gpu=0))[last]
    first = found[0].astype(np.int64).ravel() - 128
    assert first.tolist() == np.fromfile(golden / "run_output_first_image.int8", np.int8).tolist()
    same_codes(model, setup_of, inputs)


@pytest.mark.shared
@pytest.mark.parametrize("name", MODELS)
def test_real_networks(name, shared):
    folder = shared / "models" / name
    (prototxt,), (weights,) = folder.glob("*.prototxt"), folder.glob("*.caffemodel")
    model = build_model(read_prototxt(prototxt), read_caffemodel(weights))
    model = model.batch_of_one() or model
    inputs = images_of(model)
    names = [v for v in observed_values(model) if v not in model.inputs]
    close(*on_both(lambda _: lower_float(model, names), inputs, names))
    plan = plan_of(model, inputs)
    plans = {layer: own for layer, own in plan.forms.items() if own is not None}
    chosen = integer_setup(model, plan).int8_layers
    same_codes(model, lambda **options: IntegerSetup(chosen, plans, plan.thresholds, **options), inputs)


@only_on_a_gpu
def test_a_number_that_no_gpu_has():
    with pytest.raises(DeviceError, match="GPU 99 is asked for, and there is no such one; CUDA sees"):
        gpu.check_gpu(99)


def test_a_net_follows_the_mode(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal((2, 16, 30, 31))
    on_cpu = net.forward()["prob"].copy()
    caffe.set_mode_gpu()
    caffe.set_device(0)
    try:
        on_gpu = net.forward()["prob"].copy()
    finally:
        caffe.set_mode_cpu()
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-4, atol=1e-6)


def test_calibrate_finds_the_same_thresholds(tmp_path, capsys):
    found = []
    for name, options in (("gpu", ["--gpu"]), ("cpu", [])):
        folder = shutil.copytree(DIGITS, tmp_path / name, ignore=shutil.ignore_patterns("bmnet_*"))
        assert main(["calibrate", "digits", str(folder), "-n", "20", "--method", "max", *options]) == 0
        info = {"in_prototxt": folder / "deploy.prototxt", "in_caffemodel": folder / "custom.caffemodel"}
        model = Calibration({"model_name": "digits", **info}).model
        table = folder / "bmnet_digits_calibration_table.pb2"
        found.append(read_plan(model, table, folder / "bmnet_digits_int8.caffemodel").thresholds)
    on_gpu, on_cpu = found
    assert on_gpu.keys() == on_cpu.keys()
    np.testing.assert_allclose([on_gpu[v] for v in on_cpu], list(on_cpu.values()), rtol=1e-4)
    assert capsys.readouterr().err == ""
