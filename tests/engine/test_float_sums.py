"""Layers in INT8 without kernels over integers, as on a GPU: the same graph on the CPU, against naive integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import CASES
from oracles.integer_layers import convolution, deconvolution

from calib8.engine import EngineOptions, Executor, run_float
from calib8.engine.session import open_session
from calib8.export import read_plan
from calib8.layer_kit import codes as nodes
from calib8.layer_kit.onnx_builder import OnnxBuilder
from calib8.layer_kit.spatial import Window
from calib8.layer_kit.subpixel import transposed_weighted_sum
from calib8.lowering import OnnxStep, build_model
from calib8.lowering.integer import IntegerSetup, lower_int8
from calib8.lowering.readings import Codes
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.quantize import make_plan, observed_values

WITHOUT_CUDA_KERNELS = {"QLinearConv", "ConvInteger"}
LIMIT = 2**23
SMALL_NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 8, 12, 11] } } }
layer { name: "dw" type: "DepthwiseConvolution" bottom: "x" top: "dw"
        convolution_param { num_output: 8 group: 8 kernel_size: 3 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "dw" top: "bn" }
layer { name: "sc" type: "Scale" bottom: "bn" top: "sc" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "sc" top: "relu" relu_param { negative_slope: 0.1 } }
layer { name: "max" type: "Pooling" bottom: "relu" top: "max" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "pw" type: "Convolution" bottom: "max" top: "pw" convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "up" type: "Deconvolution" bottom: "pw" top: "up"
        convolution_param { num_output: 6 group: 2 kernel_size: 4 stride: 2 pad: 1 } }
layer { name: "dil" type: "Convolution" bottom: "up" top: "dil"
        convolution_param { num_output: 6 group: 3 kernel_size: 3 pad: 2 dilation: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "up" bottom: "dil" top: "sum" }
layer { name: "ave" type: "Pooling" bottom: "sum" top: "ave" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "ave" top: "ip" inner_product_param { num_output: 5 } }
"""


def as_codes(values) -> np.ndarray:
    return (np.asarray(values) + 128).astype(np.uint8)


def run(build, x, *, integer_kernels=False):
    """The codes that a graph gives, and the graph."""
    g = OnnxBuilder(integer_kernels=integer_kernels)
    name = g.input(x.shape, np.uint8)
    onnx, weights = g.model([(build(g, name), np.uint8)])
    session = open_session(OnnxStep(onnx, weights, (), (), ()), EngineOptions(gpu=None))
    return session.run(None, {name: as_codes(x)})[0].astype(np.int64) - 128, onnx


def convolutions(onnx) -> int:
    types = [node.op_type for node in onnx.graph.node]
    assert WITHOUT_CUDA_KERNELS.isdisjoint(types)
    return types.count("Conv")


def rounded(accumulators: np.ndarray, rshift: int) -> np.ndarray:
    return np.clip((2 * accumulators + (1 << rshift)) // (2 << rshift), -128, 127)


@st.composite
def windows(draw):
    """Windows over two axes that fit an image of 6 x 7."""
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pairs = {name: draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for name in ("pad", "pad_end")}
    steps = {name: draw(st.tuples(st.integers(1, 2), st.integers(1, 2))) for name in ("stride", "dilation")}
    return Window(kernel=kernel, **pairs, **steps)


@settings(max_examples=40)
@given(st.data(), windows(), st.sampled_from([1, 1, 2, 3]), st.integers(0, 31), st.integers(0, 2**32))
def test_a_convolution(data, window, group, rshift, seed):
    depth, outputs = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (2, depth * group, 6, 7))
    w = rng.integers(-128, 128, (outputs * group, depth, *window.kernel)) // data.draw(st.sampled_from([1, 50]))
    b = rng.integers(-32768, 32768, len(w))
    geometry = nodes.ConvGeometry(window.stride, window.pads, window.dilation, group)
    found, onnx = run(lambda g, c: nodes.weighted_sum(g, c, w.astype(np.int8), b, rshift, geometry), x)
    shared = {k: getattr(window, k) for k in ("stride", "pad", "pad_end", "dilation")}
    assert convolutions(onnx) == 1
    assert np.array_equal(found, convolution(x, (w, b, rshift), **shared, group=group))


@settings(max_examples=20)
@given(windows(), st.sampled_from([1, 2]), st.integers(0, 20), st.integers(0, 2**32))
def test_a_deconvolution(window, group, rshift, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (1, 2 * group, 6, 7))
    w, b = rng.integers(-128, 128, (2 * group, 2, *window.kernel)), rng.integers(-32768, 32768, 2 * group)
    shared = {k: getattr(window, k) for k in ("stride", "pad", "pad_end", "dilation")}
    expected = deconvolution(x, (w, b, rshift), **shared, group=group)
    found, onnx = run(
        lambda g, c: transposed_weighted_sum(
            g, c, w.astype(np.int8), b, rshift, window, group, x.shape, expected.shape
        ),
        x,
    )
    assert convolutions(onnx) == 1
    assert np.array_equal(found, expected)


# Outputs, inputs of a group, kernel and groups of sums that float32 cannot hold.
TOO_LARGE = [(3, 700, (1, 1), 1), (4, 5000, (1, 1), 2), (2, 9, (9, 9), 1), (4, 8, (10, 10), 2), (2, 1, (25, 24), 1),
             (3, 1, (23, 24), 3), (2, 2, (24, 22), 1), (1, 600, (1,), 1)]  # fmt: skip


@pytest.mark.parametrize("case", TOO_LARGE, ids=str)
@pytest.mark.parametrize("rshift", [12, 17])
def test_sums_beyond_float32_are_cut(case, rshift):
    """Codes and weights at their largest, ties among the accumulators; all in 64 bits to compare with."""
    outputs, depth, kernel, group = case
    rng = np.random.default_rng(rshift)
    size = [k + 2 for k in kernel]
    x = rng.choice([-128, 127, 126, 125], (1, depth * group, *size), p=[0.5, 0.3, 0.1, 0.1])
    signs = np.sign(x.reshape(group, depth, -1)[:, :, :1]).reshape(group, 1, depth, *(1,) * len(kernel))
    sizes = rng.integers(112, 128, (group, outputs // group, depth, *kernel))
    w = (signs * sizes).reshape(outputs, depth, *kernel)
    geometry = nodes.ConvGeometry((1,) * len(kernel), (1,) * 2 * len(kernel), (1,) * len(kernel), group)
    spatial = tuple(range(2, 2 + len(kernel)))
    padded = np.pad(x, [(0, 0), (0, 0), *[(1, 1)] * len(kernel)])
    seen = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=spatial)
    seen = seen.reshape(group, depth, *seen.shape[2 : 2 + len(kernel)], math.prod(kernel))
    by_group = w.reshape(group, outputs // group, depth, -1)
    acc = np.einsum("gd...k,godk->go...", seen, by_group).reshape(1, outputs, *seen.shape[2:-1])
    middle = acc.reshape(outputs, -1)[:, acc[0, 0].size // 2]
    b = (1 << rshift >> 1) - middle  # all middle ones on a tie
    found, onnx = run(lambda g, c: nodes.weighted_sum(g, c, w.astype(np.int8), b, rshift, geometry), x)
    assert convolutions(onnx) > 1
    assert np.array_equal(found, rounded(acc + b.reshape(-1, *(1,) * len(kernel)), rshift))
    assert (found.reshape(outputs, -1)[:, acc[0, 0].size // 2] == 1).all()


def test_uncut_they_are_wrong(monkeypatch):
    """A tie, and the accumulator below it, with a sum of 26 bits."""
    w = np.full((1, 3000, 1, 1), 127, np.int8)
    w[0, 0] = 2
    x = np.full((1, 3000, 1, 1), 127)
    bias = np.array([(1 << 8) - int((x * w).sum())])

    def both() -> list[int]:
        pixel = nodes.ConvGeometry((1, 1), (0,) * 4, (1, 1))
        sums = (run(lambda g, c, b=b: nodes.weighted_sum(g, c, w, b, 9, pixel), x)[0] for b in (bias, bias - 1))
        return [int(found.item()) for found in sums]

    assert both() == [1, 0]
    monkeypatch.setattr(nodes, "is_exact_in_float32", lambda largest: True)
    assert both() != [1, 0]


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 6000), st.integers(0, 2**32), st.sampled_from([1, 2, 16, 127]))
def test_ranges_are_exact_and_few(outputs, inputs, seed, size):
    rng = np.random.default_rng(seed)
    w = rng.integers(-size - 1, size + 1, (outputs, inputs)).astype(np.int8)
    ranges = list(nodes.exact_ranges(w))
    assert [first for first, _ in ranges] == [0, *[last for _, last in ranges[:-1]]] and ranges[-1][1] == inputs
    largest = [max(sum(abs(int(v)) for v in row[first:last]) for row in w) * 128 for first, last in ranges]
    assert all(bound < LIMIT for bound in largest)
    whole = max(sum(abs(int(v)) for v in row) for row in w) * 128
    assert len(ranges) <= 2 * (whole // LIMIT + 1)


def int8_codes(model, plan, inputs, names, **options):
    plans = {name: own for name, own in plan.forms.items() if own is not None}
    setup = IntegerSetup(frozenset(plans), plans, plan.thresholds, frozenset(model.inputs), **options)
    steps = lower_int8(model, setup, names)
    found: dict[str, np.ndarray] = {}
    executor = Executor(steps, names, EngineOptions(threads=1, gpu=None))
    executor.run(inputs, lambda name, x: found.__setitem__(name, x.copy()))
    return found, [node for step in steps if isinstance(step, OnnxStep) for node in step.onnx.graph.node]


def same_codes(model, plan, inputs, names, **options):
    expected, _ = int8_codes(model, plan, inputs, names, **options)
    found, graph = int8_codes(model, plan, inputs, names, integer_kernels=False, **options)
    assert WITHOUT_CUDA_KERNELS.isdisjoint(node.op_type for node in graph)
    assert expected.keys() == found.keys() == set(names)
    for name in names:
        assert np.array_equal(found[name], expected[name]), name
    return expected


def test_every_layer_type_with_integers_gives_the_same_codes(random_model):
    checked = set()
    for case in CASES:
        model = random_model(case.prototxt())
        plan = make_plan(model, {value: 3 + i / 64 for i, value in enumerate(observed_values(model))})
        if case.tops and plan.forms["l"] is not None:
            inputs = {name: array * np.float32(40) for name, array in case.inputs().items()}
            same_codes(model, plan, inputs, [Codes(t) for t in model.net.layers[-1].tops])
            checked.add(case.type)
    assert checked >= {
        "Convolution",
        "Deconvolution",
        "InnerProduct",
        "Scale",
        "BatchNorm",
        "Pooling",
        "Eltwise",
        "PReLU",
    }


@pytest.mark.parametrize("bits", [16, 32])
def test_a_network_gives_the_same_codes(random_model, bits):
    model = random_model(SMALL_NET)
    codes = np.random.default_rng(0).integers(-128, 128, (2, 8, 12, 11)).astype(np.float32)
    values = [layer.tops[0] for layer in model.net.layers[1:]]
    largest = {v: float(np.abs(x).max()) for v, x in run_float(model, {"x": codes / 32}, values).items()}
    plan = make_plan(model, {"x": 4.0, **largest})
    found = same_codes(model, plan, {"x": codes}, [Codes(v) for v in values], accumulator_bits=bits)
    assert all(((x > 0) & (x < 255)).mean() > 0.8 and np.unique(x).size > 5 for x in found.values())


@pytest.mark.shared
def test_lenet_gives_the_chip_s_integers(shared):
    golden = shared / "golden" / "bm1880_lenet"
    shapes = {"data": (100, 1, 28, 28), "label": (100,)}
    model = build_model(read_prototxt(golden / "deploy.prototxt"), read_caffemodel(golden / "fp32.caffemodel"), shapes)
    plan = read_plan(model, golden / "bmnet_lenet_calibration_table.pb2", golden / "run.caffemodel")
    images = np.fromfile(golden / "run_input_100x1x28x28.int8", np.int8).reshape(100, 1, 28, 28).astype(np.float32)
    values = ("conv1", "pool1", "conv2", "pool2", "ip1", "customized1", "ip2", "customized2")
    codes = same_codes(model, plan, {"data": images}, [Codes(v) for v in values])
    last = codes[Codes("customized2")][0].astype(np.int64).ravel() - 128
    assert last.tolist() == np.fromfile(golden / "run_output_first_image.int8", np.int8).tolist()
