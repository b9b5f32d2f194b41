"""ncnn's files: their text and bytes, and what ncnn's own runtime computes from them."""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np
import pytest

from calib8.engine import run_float
from calib8.errors import OptionError, UnsupportedError
from calib8.export.ncnn import ncnn_export
from calib8.export.ncnn.int8 import quantize
from calib8.export.ncnn.layers import is_written
from calib8.layers import registry
from calib8.lowering import build_model
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import parse_prototxt, read_prototxt

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 8, 12, 9] } } }\n'


def layer(kind, bottom, top, param="", name=None):
    bottoms = "".join(f' bottom: "{b}"' for b in bottom.split())
    tops = "".join(f' top: "{t}"' for t in top.split())
    return f'layer {{ name: "{name or kind}" type: "{kind}"{bottoms}{tops} {param} }}\n'


def conv(bottom, top, param, kind="Convolution"):
    return layer(kind, bottom, top, f"convolution_param {{ {param} }}", name=top)


def pool(param):
    return layer("Pooling", "data", "y", f"pooling_param {{ {param} }}")


def neuron(kind, param=""):
    return layer(kind, "data", "y", param)


FLAT = layer("Pooling", "data", "p", "pooling_param { pool: AVE global_pooling: true }") + layer("Flatten", "p", "f")
LAYERS = {
    "convolution": conv("data", "y", "num_output: 5 kernel_size: 3 pad: 1"),
    "rectangular": conv("data", "y", "num_output: 5 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1"),
    "pads of each side": conv("data", "y", "num_output: 5 kernel_size: 3 pad_l: 1 pad_b: 2"),
    "dilation, no bias": conv("data", "y", "num_output: 16 kernel_size: 3 dilation: 2 bias_term: false"),
    "groups": conv("data", "y", "num_output: 6 kernel_size: 3 group: 2"),
    "depthwise": conv("data", "y", "kernel_size: 3 pad: 1", "ConvolutionDepthwise"),
    "deconvolution": conv("data", "y", "num_output: 5 kernel_size: 4 stride: 2 pad: 1", "Deconvolution"),
    "deconvolution, groups": conv("data", "y", "num_output: 6 kernel_size: 3 stride: 2 group: 2", "Deconvolution"),
    "deconvolution, depthwise": conv("data", "y", "num_output: 8 kernel_size: 2 stride: 2 group: 8", "Deconvolution"),
    "inner product": layer("InnerProduct", "data", "y", "inner_product_param { num_output: 5 }"),
    "inner product, transposed": layer(
        "InnerProduct", "data", "y", "inner_product_param { num_output: 5 transpose: true bias_term: false }"
    ),
    "inner product of rows": layer("Reshape", "data", "r", "reshape_param { shape { dim: [1, 24, 36] } }")
    + layer("InnerProduct", "r", "y", "inner_product_param { num_output: 5 axis: 2 }"),
    "inner product of one row": layer("Reshape", "data", "r", "reshape_param { shape { dim: [1, 1, 864] } }")
    + layer("InnerProduct", "r", "y", "inner_product_param { num_output: 5 axis: 2 }"),
    "inner product of a matrix": layer("Reshape", "data", "r", "reshape_param { shape { dim: [1, 24, 36] } }")
    + layer("InnerProduct", "r", "y", "inner_product_param { num_output: 5 }"),
    "batch norm, alone": neuron("BatchNorm"),
    "batch norm, scale, relu": conv("data", "c", "num_output: 5 kernel_size: 1 bias_term: false")
    + layer("BatchNorm", "c", "c")
    + layer("Scale", "c", "c", "scale_param { bias_term: true }")
    + layer("ReLU", "c", "y"),
    "bn": neuron("BN"),
    "merged bn": neuron("BN", "bn_param { bn_mode: INFERENCE }"),
    "scale": neuron("Scale", "scale_param { bias_term: true }"),
    "scale by one number": neuron("Scale", "scale_param { num_axes: 0 }"),
    "scale of a vector": FLAT + layer("Scale", "f", "y"),
    "scale by a blob": FLAT + layer("Scale", "data f", "y", "scale_param { axis: 0 }"),
    "scale by an equal blob": layer("AbsVal", "data", "a") + layer("Scale", "data a", "y", "scale_param { axis: 0 }"),
    "axpy": layer("Pooling", "data", "p", "pooling_param { pool: AVE global_pooling: true }")
    + layer("AbsVal", "data", "a")
    + layer("Axpy", "p data a", "y"),
    "bias": neuron("Bias"),
    "max": pool("kernel_size: 3 stride: 2"),
    "max with pads": pool("kernel_size: 3 stride: 2 pad: 1"),
    "max, windows beyond the border": pool("kernel_size: 2 stride: 3 pad: 1"),
    "max, rounded down": pool("kernel_size: 2 stride: 2 round_mode: FLOOR"),
    "average": pool("pool: AVE kernel_size: 3 stride: 2"),
    "average with pads": pool("pool: AVE kernel_size: 3 stride: 2 pad: 1"),
    "average without its pads": pool("pool: AVE kernel_size: 3 stride: 2 pad: 1 avg_include_pad: false"),
    "global average": pool("pool: AVE global_pooling: true"),
    "global maximum": pool("global_pooling: true"),
    "relu": neuron("ReLU"),
    "leaky": neuron("ReLU", "relu_param { negative_slope: 0.1 }"),
    "bounded relu": neuron("ReLU", "relu_param { relu6: true minimum: 0.25 }"),
    "relu behind a convolution": conv("data", "c", "num_output: 5 kernel_size: 1") + layer("ReLU", "c", "y"),
    "leaky behind a convolution": conv("data", "c", "num_output: 5 kernel_size: 1")
    + layer("ReLU", "c", "c", "relu_param { negative_slope: 0.1 }"),
    "relu6 behind a depthwise": conv("data", "c", "kernel_size: 3", "ConvolutionDepthwise") + layer("ReLU6", "c", "c"),
    "clip behind an inner product": layer("InnerProduct", "data", "c", "inner_product_param { num_output: 7 }")
    + layer("Clip", "c", "y", "clip_param { min: -3 max: 2 }"),
    "relu behind a deconvolution": conv("data", "c", "num_output: 4 kernel_size: 2", "Deconvolution")
    + layer("ReLU", "c", "c"),
    "relu6": neuron("ReLU6"),
    "prelu": neuron("PReLU"),
    "prelu, shared": neuron("PReLU", "prelu_param { channel_shared: true }"),
    "clip": neuron("Clip", "clip_param { min: -0.5 max: 0.25 }"),
    "elu": neuron("ELU", "elu_param { alpha: 0.7 }"),
    "absolute": neuron("AbsVal"),
    "bnll": neuron("BNLL"),
    "sigmoid": neuron("Sigmoid"),
    "tanh": neuron("TanH"),
    "mish": neuron("Mish"),
    "swish": neuron("Swish"),
    "hard swish": neuron("HardSwish"),
    "hard sigmoid": neuron("HardSigmoid", "hard_sigmoid_param { alpha: 0.25 beta: 0.4 }"),
    "power": neuron("AbsVal").replace('"y"', '"a"')
    + layer("Power", "a", "y", "power_param { power: 1.5 scale: 0.5 shift: 2 }"),
    "linear power": neuron("Power", "power_param { scale: -0.5 shift: 2 }"),
    "exp": neuron("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }"),
    "natural exp": neuron("Exp"),
    "log": layer("AbsVal", "data", "a") + layer("Log", "a", "y", "log_param { base: 10 scale: 2 shift: 1 }"),
    "threshold": neuron("Threshold", "threshold_param { threshold: 0.25 }"),
    "lrn": neuron("LRN", "lrn_param { local_size: 5 alpha: 0.5 beta: 0.75 k: 2 }"),
    "lrn within": neuron("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
    "mvn": neuron("MVN"),
    "mvn across, mean only": neuron("MVN", "mvn_param { across_channels: true normalize_variance: false }"),
    "normalize": neuron("Normalize", "norm_param { across_spatial: false channel_shared: false }"),
    "normalize across": neuron("Normalize"),
    "sum": layer("AbsVal", "data", "a") + layer("Eltwise", "data a", "y", "eltwise_param { coeff: 1 coeff: -2.5 }"),
    "sum of three": layer("AbsVal", "data", "a")
    + layer("TanH", "data", "t")
    + layer("Eltwise", "data a t", "y", "eltwise_param { operation: SUM }"),
    "twice the same": layer("Eltwise", "data data", "y"),
    "product": layer("AbsVal", "data", "a") + layer("Eltwise", "data a", "y", "eltwise_param { operation: PROD }"),
    "product by a factor for each channel": FLAT + layer("Eltwise", "data f", "y", "eltwise_param { operation: PROD }"),
    "maximum": layer("TanH", "data", "a") + layer("Eltwise", "data a", "y", "eltwise_param { operation: MAX }"),
    "minimum": layer("TanH", "data", "a") + layer("Eltwise", "data a data", "y", "eltwise_param { operation: MIN }"),
    "quotient": layer("Exp", "data", "a") + layer("Eltwise", "data a", "y", "eltwise_param { operation: DIV }"),
    "concat": layer("AbsVal", "data", "a") + layer("Concat", "data a", "y"),
    "concat along rows": layer("AbsVal", "data", "a") + layer("Concat", "data a", "y", "concat_param { axis: 2 }"),
    "concat of vectors": FLAT + layer("AbsVal", "f", "a") + layer("Concat", "f a", "y"),
    "slice": layer("Slice", "data", "a b c", "slice_param { slice_point: [3, 5] }"),
    "slice along columns": layer("Slice", "data", "a b c", "slice_param { axis: 3 }"),
    "transpose": neuron("Transpose", "transpose_param { dim: [0, 2, 3, 1] }"),
    "silence": layer("Slice", "data", "a y", "slice_param { slice_point: 3 }")
    + 'layer { name: "s" type: "Silence" bottom: "a" }\n',
    "split": layer("Split", "data", "a b") + layer("TanH", "a", "y") + layer("AbsVal", "b", "z"),
    "softmax": neuron("Softmax"),
    "softmax along rows": neuron("Softmax", "softmax_param { axis: 2 }"),
    "softmax of a vector": FLAT + layer("Softmax", "f", "y"),
    "tile": neuron("Tile", "tile_param { tiles: 3 }"),
    "tile along columns": neuron("Tile", "tile_param { axis: 3 tiles: 2 }"),
    "dropout": layer("AbsVal", "data", "a") + layer("Dropout", "a", "a") + layer("TanH", "a", "y"),
    "dropout that multiplies": neuron("Dropout", "dropout_param { scale_train: false dropout_ratio: 0.25 }"),
    "an output under another name": layer("AbsVal", "data", "a") + layer("Dropout", "a", "y"),
    "flatten": neuron("Flatten"),
    "flatten the last axes": neuron("Flatten", "flatten_param { axis: 2 }"),
    "reshape": neuron("Reshape", "reshape_param { shape { dim: [0, 4, 2, -1] } }"),
    "reshape to a matrix": neuron("Reshape", "reshape_param { shape { dim: [1, -1, 6] } }"),
    "pixel shuffle": neuron("Reshape", "reshape_param { pixelshuffler: 2 }"),
    "squeeze": layer("Pooling", "data", "p", "pooling_param { global_pooling: true }")
    + layer("Squeeze", "p", "y", "squeeze_param { axis: 3 }"),
    **{
        f"permute {order}": neuron("Permute", f"permute_param {{ order: {list(order)} }}")
        for order in ((0, 1, 3, 2), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1))
    },
    "permute a matrix": layer("Reshape", "data", "r", "reshape_param { shape { dim: [1, 24, 36] } }")
    + layer("Permute", "r", "y", "permute_param { order: [0, 2, 1] }"),
    "shuffled channels": neuron("ShuffleChannel", "shuffle_channel_param { group: 4 }"),
    "crop": layer("Pooling", "data", "p", "pooling_param { kernel_size: 4 stride: 2 }")
    + layer("Crop", "data p", "y", "crop_param { offset: 2 offset: 3 }"),
    "crop channels": layer("Slice", "data", "a b", "slice_param { slice_point: 3 }")
    + layer("Crop", "data a", "y", "crop_param { axis: 1 offset: 4 offset: 0 offset: 0 }"),
    "padding": neuron("Padding", "padding_param { pad_t: 1 pad_l: 2 pad_b: 3 pad_value: 5 }"),
    "interp": neuron("Interp", "interp_param { height: 20 width: 15 }"),
    "interp, cut": neuron("Interp", "interp_param { zoom_factor: 2 pad_beg: -1 pad_end: -2 }"),
    "upsample": neuron("Upsample", "upsample_param { scale: 3 }"),
    "prior boxes": layer("Pooling", "data", "p", "pooling_param { kernel_size: 4 stride: 4 }")
    + layer("PriorBox", "p data", "y", "prior_box_param { min_size: 3 max_size: 5 aspect_ratio: 2 clip: true }"),
    "clustered prior boxes": layer("Pooling", "data", "p", "pooling_param { kernel_size: 4 stride: 4 }")
    + layer("PriorBoxClustered", "p data", "y", "prior_box_param { width: [3, 4] height: [5, 2] variance: 0.2 }"),
    "several prior boxes": layer("Pooling", "data", "p", "pooling_param { kernel_size: 4 stride: 4 }")
    + layer("PriorBox", "p data", "a", "prior_box_param { min_size: 3 variance: [0.1, 0.1, 0.2, 0.2] }", "a")
    + layer("PriorBox", "data data", "b", "prior_box_param { min_size: 2 step: 1 }", "b")
    + layer("Concat", "a b", "y", "concat_param { axis: 2 }"),
    "upsample, bilinear": neuron("Upsample", "upsample_param { height: 24 width: 20 mode: BILINEAR }"),
}


def samples(model, seed=0):
    rng = np.random.default_rng(seed)
    return {value: rng.standard_normal(model.shapes[value]).astype(np.float32) for value in model.inputs}


@pytest.fixture(scope="module")
def run_ncnn(tmp_path_factory):
    """run(files, inputs, outputs): what ncnn's runtime makes of the files, FP32 arithmetic where it is not INT8."""
    ncnn = pytest.importorskip("ncnn", reason="ncnn's Python package is not installed")
    folder = tmp_path_factory.mktemp("ncnn")

    def run(files, inputs, outputs):
        param, weights = folder / "net.param", folder / "net.bin"
        param.write_bytes(files.param)
        weights.write_bytes(files.bin)
        net = ncnn.Net()
        net.opt.num_threads = 1
        for name in ("use_fp16_storage", "use_fp16_packed", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, name, False)
        assert net.load_param(str(param)) == 0
        assert net.load_model(str(weights)) == 0
        extractor = net.create_extractor()
        extractor.set_light_mode(False)  # else a blob that was read is gone
        for name, array in inputs.items():
            extractor.input(name, ncnn.Mat(np.ascontiguousarray(array[0])).clone())
        found = {}
        for name in outputs:
            status, blob = extractor.extract(name)
            assert status == 0, name
            found[name] = np.zeros((1, 0)) if blob.empty() else np.array(blob)[None]  # whose data are nowhere
        return found

    return run


@pytest.mark.parametrize("text", LAYERS.values(), ids=LAYERS)
def test_fp32_gives_the_same_numbers(random_model, run_ncnn, text):
    model = random_model(DATA + text)
    inputs, outputs = samples(model), model.net.outputs
    expected = run_float(model, inputs)
    found = run_ncnn(ncnn_export(model), inputs, outputs)
    for name in outputs:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5 * np.abs(expected[name]).max())


def detector(param, classes=2, scores="f2"):
    """An SSD of one map: codes, scores by a Softmax, prior boxes, DetectionOutput."""
    return (
        layer("Pooling", "data", "p", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }")
        + conv("p", "loc", "num_output: 8 kernel_size: 1")
        + layer("Permute", "loc", "loc2", "permute_param { order: [0, 2, 3, 1] }", "loc2")
        + layer("Flatten", "loc2", "f1", name="f1")
        + conv("p", "conf", f"num_output: {2 * classes} kernel_size: 1")
        + layer("Permute", "conf", "conf2", "permute_param { order: [0, 2, 3, 1] }", "conf2")
        + layer("Reshape", "conf2", "conf3", f"reshape_param {{ shape {{ dim: [0, -1, {classes}] }} }}")
        + layer("Softmax", "conf3", "soft", "softmax_param { axis: 2 }")
        + layer("Flatten", "soft", "f2", name="f2")
        + layer("PriorBox", "p data", "priors", "prior_box_param { min_size: 4 max_size: 6 }")
        + layer(
            "DetectionOutput",
            f"f1 {scores} priors",
            "y",
            f"detection_output_param {{ num_classes: {classes} {param} }}",
        )
    )


@pytest.mark.parametrize(("param", "classes"), [
    ("nms_param { nms_threshold: 0.45 top_k: 30 } keep_top_k: 10 confidence_threshold: 0.4 code_type: CENTER_SIZE", 2),
    ("code_type: CENTER_SIZE", 2), ("code_type: CENTER_SIZE confidence_threshold: 0.3 nms_param { top_k: 20 }", 4),
])  # fmt: skip
def test_detections_are_the_same(random_model, run_ncnn, param, classes):
    """ncnn has the best of all classes first; within a class they are as in Caffe."""
    for scores in ("f2", "soft"):
        model = random_model(DATA + detector(param, classes, scores))
        inputs = samples(model, seed=3)
        expected = run_float(model, inputs)["y"][0, 0, :, 1:]
        found = run_ncnn(ncnn_export(model), inputs, ["y"])["y"][0]
        assert len(expected) > 4 and found.shape == expected.shape
        assert (np.diff(found[:, 1]) <= 0).all()
        np.testing.assert_allclose(by_label(found), by_label(expected), rtol=1e-4, atol=1e-5)


def by_label(rows):
    """Within a label the best first; as good as equal ones from left to right."""
    return rows[np.lexsort((rows[:, 2], -rows[:, 1].round(5), rows[:, 0]))]


def test_nothing_is_detected(random_model, run_ncnn):
    """Caffe gives a row of -1 then; ncnn an empty blob."""
    model = random_model(DATA + detector("code_type: CENTER_SIZE confidence_threshold: 0.9999"))
    inputs = samples(model)
    assert run_float(model, inputs)["y"][0, 0].tolist() == [[0, -1, -1, -1, -1, -1, -1]]
    assert run_ncnn(ncnn_export(model), inputs, ["y"])["y"].size == 0


@pytest.mark.parametrize("param", [
    "", "code_type: CENTER_SIZE background_label_id: 1", "code_type: CENTER_SIZE nms_param { eta: 0.9 }",
    "code_type: CENTER_SIZE variance_encoded_in_target: true",
])  # fmt: skip
def test_detections_that_ncnn_has_otherwise(random_model, param):
    with pytest.raises(UnsupportedError) as why:
        ncnn_export(random_model(DATA + detector(param)))
    (problem,) = why.value.problems
    assert problem.startswith("layer 'DetectionOutput' (DetectionOutput): ") and "no eta" in problem


REFUSED = frozenset(
    """
    Accuracy ArgMax BatchReindex ContinuationIndicator DummyData Embed Erf FrcnDetection Im2col LSTM Lstm MatMul Mul
    PSROIPooling Parameter PassThrough Proposal Python RNN ROIPooling Reduction Region Reorg RetinaFaceDetection Reverse
    SPP SoftmaxWithLoss YoloDetection YoloDetectionOutput Yolov3DetectionOutput
    """.split()  # noqa: SIM905 - a list of so many names would be a column
)


def test_every_layer_type_is_written_and_compared_or_refused_by_name():
    """Whoever adds a type says which; types of one class are one."""
    compared = {kind for text in LAYERS.values() for kind in re.findall('type: "([^"]+)"', text)} | {"DetectionOutput"}
    types = registry()
    written = {types[kind] for kind in compared}
    for kind, op in types.items():
        if op.kind == "source":
            continue
        assert is_written(op) == any(cls in written for cls in op.__mro__), kind
        assert is_written(op) != (kind in REFUSED), kind
    assert not REFUSED & compared and set(types) >= REFUSED


def test_a_layer_that_is_refused_is_named(random_model):
    with pytest.raises(UnsupportedError) as why:
        ncnn_export(random_model(DATA + layer("Reverse", "data", "y") + layer("ArgMax", "y", "z")))
    assert [problem.partition(":")[0] for problem in why.value.problems] == [
        "layer 'Reverse' (Reverse)", "layer 'ArgMax' (ArgMax)"
    ]  # fmt: skip


def integers(x, scale):
    """Round half away from zero, and clip to -127..127."""
    scaled = x.astype(np.float64) * scale
    return np.clip(np.sign(scaled) * np.floor(np.abs(scaled) + 0.5), -127, 127)


def convolved(x, weights, groups):
    """A naive convolution without pads, (C, H, W) with (O, C/g, kh, kw)."""
    outputs, inputs, high, wide = weights.shape
    rows, columns = x.shape[1] - high + 1, x.shape[2] - wide + 1
    y = np.zeros((outputs, rows, columns))
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for r in range(rows):
            for c in range(columns):
                y[o, r, c] = (x[first : first + inputs, r : r + high, c : c + wide] * weights[o]).sum()
    return y


@pytest.mark.parametrize(
    ("param", "groups", "channels"),
    [
        ("num_output: 16 kernel_size: 3", 1, 8),  # by ncnn's fast algorithm for 3 x 3
        ("num_output: 5 kernel_size: 1", 1, 8),
        ("num_output: 8 kernel_size: 3 group: 8", 8, 8),
        ("num_output: 6 kernel_size: 2 group: 2", 2, 8),
    ],
)
def test_int8_gives_the_sums_of_rounded_numbers(random_model, run_ncnn, param, groups, channels):
    model = random_model(DATA + conv("data", "y", param))
    inputs = samples(model)
    threshold = 2.0  # clips some
    weights, bias = model.net.layers[1].blobs
    scales = 127 / np.abs(weights.reshape(groups if groups > 1 else len(weights), -1)).max(axis=1).astype(np.float64)
    of_output = np.repeat(scales, len(weights) // len(scales))
    x = integers(inputs["data"][0], 127 / threshold)
    sums = convolved(x, integers(weights, of_output[:, None, None, None]), groups)
    sums = sums / (127 / threshold) / of_output[:, None, None]
    found = run_ncnn(ncnn_export(model, {"data": threshold, "y": 1.0}), inputs, ["y"])["y"][0]
    # ncnn divides by its scales through an approximate reciprocal (2^-12), and float32 may lie beyond a tie.
    differences = np.abs(found - bias[:, None, None] - sums)
    assert np.mean(differences <= 4e-4 * np.abs(sums) + 1e-4) > 0.98
    assert differences.max() < 3 * threshold / 127 * np.abs(weights).max()


def test_int8_of_an_inner_product_with_a_rectifier(random_model, run_ncnn):
    text = layer("InnerProduct", "data", "c", "inner_product_param { num_output: 6 }") + layer("ReLU", "c", "y")
    model = random_model(DATA + text)
    inputs = samples(model)
    weights, bias = model.net.layers[1].blobs
    scales = 127 / np.abs(weights).max(axis=1).astype(np.float64)
    x = integers(inputs["data"].reshape(-1), 127 / 3.0)
    sums = integers(weights, scales[:, None]) @ x / scales / (127 / 3.0)
    found = run_ncnn(ncnn_export(model, {"data": 3.0, "c": 1.0, "y": 1.0}), inputs, ["y"])["y"][0]
    np.testing.assert_allclose(found, np.maximum(sums + bias, 0), atol=0.1)
    assert (found == 0).any() and (found > 0).any()


def test_what_has_no_int8_in_ncnn_stays_in_fp32(random_model, run_ncnn):
    text = conv("data", "y", "num_output: 4 kernel_size: 2 stride: 2", "Deconvolution")
    model = random_model(DATA + text)
    files = ncnn_export(model, {"data": 0.1, "y": 0.1})
    assert files.table == b"" and files == ncnn_export(model)


SMALL = (
    DATA
    + conv("data", "c", "num_output: 2 kernel_size: 1")
    + layer("BatchNorm", "c", "c")
    + layer("ReLU", "c", "c")
    + layer("Eltwise", "c c", "e")
    + layer("InnerProduct", "e", "f", "inner_product_param { num_output: 3 }")
)


def test_text_of_the_layers(random_model):
    text = ncnn_export(random_model(SMALL)).param.decode()
    magic, counts, *lines = text.splitlines()
    assert (magic, counts) == ("7767517", "5 6")
    assert [" ".join(line.split()) for line in lines] == [
        "Input data 0 1 data 0=9 1=12 2=8",
        "Convolution c 1 1 data c 0=2 1=1 2=1 3=1 4=0 5=1 6=16 9=1 11=1 12=1 13=1 14=0 15=0 16=0",
        "Split splitncnn_c 1 2 c c_splitncnn_0 c_splitncnn_1",
        "Eltwise Eltwise 2 1 c_splitncnn_0 c_splitncnn_1 e 0=1",
        "InnerProduct InnerProduct 1 1 e f 0=3 1=1 2=648",
    ]


def test_bytes_of_the_weights(random_model):
    model = random_model(SMALL)
    files = ncnn_export(model, dict.fromkeys(model.shapes, 2.0))
    (weights, bias), (mean, variance, _) = model.net.layers[1].blobs, model.net.layers[2].blobs
    factor = 1 / np.sqrt(variance.astype(np.float64) + 1e-5)
    folded = (weights.reshape(2, 8) * factor[:, None]).astype(np.float32)
    scales = 127 / np.abs(folded).max(axis=1)
    data, place = files.bin, 0

    def take(form, count):
        nonlocal place
        found = np.array(struct.unpack_from(f"<{count}{form}", data, place))
        place += struct.calcsize(f"<{count}{form}")
        return found

    assert take("I", 1) == 0x000D4B38
    np.testing.assert_array_equal(take("b", 16).reshape(2, 8), integers(folded, scales[:, None].astype(np.float32)))
    np.testing.assert_allclose(take("f", 2), (bias - mean) * factor, rtol=1e-6)
    np.testing.assert_allclose(take("f", 2), scales, rtol=1e-6)
    np.testing.assert_allclose(take("f", 1), 63.5)
    assert take("I", 1) == 0x000D4B38
    assert np.abs(take("b", 648)).max() == 127
    np.testing.assert_array_equal(take("f", 3), model.net.layers[-1].blobs[1])
    take("f", 4)
    assert place == len(data)


def test_int8_weights_fill_up_to_four_bytes(random_model):
    model = random_model(DATA + conv("data", "y", "num_output: 1 kernel_size: 1 bias_term: false group: 1"))
    text = DATA.replace("1, 8", "1, 7") + conv("data", "y", "num_output: 1 kernel_size: 1 bias_term: false")
    seven = random_model(text)
    for found, padding in ((model, 0), (seven, 1)):
        size = found.net.layers[1].blobs[0].size
        data = ncnn_export(found, {"data": 1.0, "y": 1.0}).bin
        assert len(data) == 4 + size + padding + 8
        assert data[4 + size : 4 + size + padding] == bytes(padding)


def test_table_for_ncnn2int8(random_model):
    model = random_model(SMALL)
    table = ncnn_export(model, {**dict.fromkeys(model.shapes, 2.0), "e": 0.5}).table.decode()
    rows = {line.split()[0]: np.array(line.split()[1:], float) for line in table.splitlines()}
    assert list(rows) == ["c_param_0", "InnerProduct_param_0", "c", "InnerProduct"]
    assert rows["c"] == [63.5] and rows["InnerProduct"] == [254]
    weights = model.net.layers[-1].blobs[0]
    np.testing.assert_allclose(rows["InnerProduct_param_0"], 127 / np.abs(weights).max(axis=1), rtol=1e-6)
    assert len(rows["c_param_0"]) == 2


def test_weights_of_nothing_get_a_scale_that_is_a_number():
    own = quantize("x", np.array([[0, 0], [1e-42, 0], [1, -2]], np.float32), 4.0)
    assert np.isfinite(own.scales).all() and (own.scales > 0).all()
    np.testing.assert_array_equal(own.values, [[0, 0], [0, 0], [64, -127]])


def test_everything_that_ncnn_cannot_do_is_refused_at_once(random_model):
    text = (
        DATA
        + layer("Reduction", "data", "r", "reduction_param { axis: 2 }")
        + layer("Swish", "data", "s", "swish_param { beta: 2 }")
        + layer("Permute", "data", "p", "permute_param { order: [1, 0, 2, 3] }")
        + layer("Softmax", "s", "t", "softmax_param { axis: 0 }")
    )
    with pytest.raises(UnsupportedError, match="cannot run as Caffe does") as caught:
        ncnn_export(random_model(text))
    assert len(caught.value.problems) == 4
    for name, problem in zip(("Reduction", "Swish", "Permute", "Softmax"), caught.value.problems, strict=True):
        assert f"'{name}'" in problem


def test_images_of_a_batch_go_one_by_one(random_model, run_ncnn):
    text = SMALL.replace("dim: [1, 8", "dim: [3, 8")
    files = ncnn_export(random_model(text))
    assert files == ncnn_export(random_model(SMALL))
    with pytest.raises(UnsupportedError, match="one image at a time"):
        ncnn_export(random_model(text + layer("Reshape", "f", "g", "reshape_param { shape { dim: [1, 9] } }")))


def test_names_with_blanks_are_refused(random_model):
    text = DATA + layer("ReLU", "data", "a b", name="x").replace('top: "a" top: "b"', 'top: "a b"')
    with pytest.raises(OptionError, match="cannot hold") as caught:
        ncnn_export(random_model(text))
    assert caught.value.problems == ("'a b'",)


def test_without_weights():
    with pytest.raises(UnsupportedError, match="give the caffemodel"):
        ncnn_export(build_model(parse_prototxt(SMALL)))


def test_inputs_that_nothing_reads_are_left_out(random_model):
    text = 'layer { name: "data" type: "Input" top: "x" top: "label" input_param { shape { dim: [1, 3, 4, 4] } } }\n'
    lines = ncnn_export(random_model(text + layer("ReLU", "x", "y"))).param.decode().splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["Input", "data"], ["ReLU", "ReLU"]]


@pytest.mark.parametrize("non_negative", [True, False])
def test_levels_of_3x3_are_those_that_cannot_overflow(random_model, run_ncnn, non_negative):
    """All weights and all pixels the same: the largest sum there is, by ncnn's fast algorithm for 3 x 3."""
    text = DATA.replace("1, 8", "1, 64") + layer("ReLU" if non_negative else "TanH", "data", "x")
    text += conv("x", "y", "num_output: 16 kernel_size: 3 bias_term: false")
    weights = np.ones((16, 64, 3, 3), np.float32)
    weights[1::2] *= -0.25
    model = random_model(text, weights={"y": [weights]})
    files = ncnn_export(model, {"data": 1.0, "x": 1.0, "y": 1.0})
    inputs = {"data": np.full(model.shapes["data"], 50, np.float32)}
    found = run_ncnn(files, inputs, ["y"])["y"][0]
    np.testing.assert_allclose(found[::2], 64 * 9, rtol=0.02)
    np.testing.assert_allclose(found[1::2], -64 * 9 / 4, rtol=0.02)


@pytest.mark.parametrize("non_negative", [True, False])
def test_no_input_reaches_further_than_the_limit(non_negative):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((20, 400)).astype(np.float32) * np.linspace(0.01, 3, 20, dtype=np.float32)[:, None]
    weights[0] = 0
    own, free = (quantize("x", weights, 1.0, most, non_negative=non_negative) for most in (5_000, None))
    above, below = (np.maximum(sign * own.values.astype(int), 0).sum(axis=1) for sign in (1, -1))
    reach = np.maximum(above, below) if non_negative else above + below
    assert reach.max() <= 5_000 and (own.scales <= free.scales).all()
    assert reach[1:].min() > 4_600  # not less than need be
    wide = quantize("x", weights, 1.0, 10**6, non_negative=non_negative)
    np.testing.assert_array_equal(wide.values, free.values)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "logits", "mean", "scale", "least"),
    [
        ("squeezenet_v1.1", ["pool10"], (104, 117, 123), 1, 15),
        ("cifar10_resnet20", ["fc1"], (125, 123, 114), 1 / 256, 18),
        ("res10_ssd_face", ["conv4_3_norm_mbox_loc", "conv4_3_norm_mbox_conf"], (104, 177, 123), 1, 15),
        ("mobilenetv2_yolov3_nano_voc", ["layer69-conv", "layer79-conv"], (0, 0, 0), 1 / 256, 12),
    ],
)
def test_real_networks(shared, run_ncnn, name, logits, mean, scale, least):
    """FP32 as we compute it, and INT8 near it, on one photograph; thresholds are its largest values."""
    folder = shared / "models" / name
    weights = read_caffemodel(folder / "custom.caffemodel")
    model = build_model(read_prototxt(folder / "deploy.prototxt"), weights).batch_of_one()
    (blob,) = model.inputs
    photograph = cv2.imread(str(min((shared / "images" / "coco64").glob("*.jpg"))))
    height, width = model.shapes[blob][2:]
    pixels = (cv2.resize(photograph, (width, height)).astype(np.float32) - np.float32(mean)) * np.float32(scale)
    x = {blob: np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
    values = run_float(model, x, list(model.shapes))
    names = [*model.net.outputs, *logits]
    in_float = run_ncnn(ncnn_export(model), x, names)
    for value in names:
        expected = values[value]
        if expected.shape[-1] == 7:  # detections, without the image's number
            in_float[value], expected = by_label(in_float[value][0]), by_label(expected[0, 0, :, 1:])
            assert len(expected) > 10
        np.testing.assert_allclose(in_float[value], expected, atol=1e-4 * np.abs(expected).max())
    thresholds = {value: max(float(np.abs(array).max()), 1e-6) for value, array in values.items()}
    in_int8 = run_ncnn(ncnn_export(model, thresholds), x, logits)
    for value in logits:
        noise = np.square(in_int8[value] - values[value]).sum() / np.square(values[value]).sum()
        assert least < -10 * np.log10(noise) < 60
