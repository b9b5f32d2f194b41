"""`kl` is the original tool's: what it measures, how it counts, and the thresholds that follow from that."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8 import Calibration
from calib8.cli.main import main
from calib8.engine import run_float
from calib8.errors import OptionError
from calib8.export import read_plan
from calib8.proto import calibration_pb2
from calib8.proto.caffe_pb2 import LayerParameter
from calib8.proto.caffemodel_writer import write_caffemodel

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"


class Arrays:
    """Arrays as a source of samples, so many of them in a batch."""

    def __init__(self, batch: int = 1, **arrays: np.ndarray) -> None:
        self._arrays, self.batch_size = arrays, batch
        self.shapes: Mapping[str, tuple[int, ...]] = {name: (batch, *a.shape[1:]) for name, a in arrays.items()}
        self.size: int | None = len(next(iter(arrays.values())))
        self.notes: tuple[str, ...] = ()

    def batches(self):
        for start in range(0, self.size, self.batch_size):
            yield {name: array[start : start + self.batch_size] for name, array in self._arrays.items()}


# The real files of the original.


@pytest.mark.shared
@pytest.mark.parametrize("optimised", [0, 1])
def test_the_original_s_thresholds_and_integers_follow_from_one_digit(shared, optimised):
    """From the network and the first test image alone; what is left are sums in another order."""
    golden = shared / "golden" / "bm1880_lenet"
    pixels = gzip.decompress((shared / "images" / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((shared / "images" / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    image = np.frombuffer(pixels, np.uint8)[: 28 * 28].reshape(1, 1, 28, 28).astype(np.float32) / np.float32(256)
    info = {
        "model_name": "lenet",
        "in_prototxt": golden / "deploy.prototxt",
        "in_caffemodel": golden / "fp32.caffemodel",
        "iteration": 1,
        "enable_calibration_opt": optimised,
        "histogram_bin_num": 2048,
    }
    source = Arrays(data=image, label=np.float32([labels[0]]))
    calibration = Calibration(info, source=source, original=True)
    calibration.calc_tables()

    table = golden / "bmnet_lenet_calibration_table.pb2"
    message = calibration_pb2.NetCalibrationParameter.FromString(table.read_bytes())
    expected = {blob.name: blob.threshold_y for row in message.layer for blob in row.blob_param}
    assert expected.keys() == calibration.plan.thresholds.keys() and len(expected) == 10
    for blob, threshold in expected.items():
        assert calibration.plan.thresholds[blob] == pytest.approx(threshold, rel=2e-6), blob

    theirs = read_plan(calibration.model, table, golden / "bmnet_lenet_int8.caffemodel")
    pairs = [
        (np.asarray(a), np.asarray(b))
        for name, own in theirs.forms.items()
        if own is not None
        for a, b in zip(calibration.plan.forms[name].blobs, own.blobs, strict=True)
    ]
    assert sum(a.size for a, _ in pairs) == 431_080
    assert sum(int((a != b).sum()) for a, b in pairs) <= 5


NETWORKS = {  # colours, mean, scale
    "squeezenet_v1.1": (3, (104, 117, 123), 1),
    "cifar10_resnet20": (3, (113.8, 122.9, 125.3), 1 / 256),
    "mobilenetv2_yolov3_nano_voc": (3, 0, 1 / 256),
    "res10_ssd_face": (3, (104, 177, 123), 1),
    "retinaface_mnet25": (3, 0, 1),
    "ultraface_rfb320": (3, 127, 1 / 128),
    "mtcnn_det2": (3, 127.5, 1 / 128),
    "lenet_mnist": (1, 0, 1 / 256),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", NETWORKS)
def test_the_original_s_own_number_of_bins_works_everywhere(shared, name):
    """204,800, its setting from October 2019 on: thresholds that led to no negative shift in any of these."""
    folder = shared / "models" / name
    colours, mean, scale = NETWORKS[name]
    info = {
        "model_name": name,
        "in_prototxt": folder / "deploy.prototxt",
        "in_caffemodel": folder / "custom.caffemodel",
        "iteration": 2,
        "histogram_bin_num": 204_800,
    }
    bare = Calibration(info)
    (blob,) = bare.model.inputs
    _, _, height, width = bare.model.shapes[blob]
    images = [
        cv2.resize(cv2.imread(str(p)), (width, height)) for p in sorted((shared / "images/coco64").glob("*.jpg"))[:2]
    ]
    pixels = (np.stack(images).astype(np.float32) - np.float32(mean)) * np.float32(scale)
    calibration = Calibration(info, source=Arrays(**{blob: pixels.transpose(0, 3, 1, 2)[:, :colours]}), original=True)
    calibration.calc_tables()
    assert all(calibration.plan.thresholds[v] > 0 for v in calibration.model.shapes)
    largest = max(h.maximum for h in calibration.histograms.values())
    assert max(calibration.thresholds.values()) <= largest * 204_800 / 204_799 * (1 + 1e-6)


# The same without them: a network in plain numpy, and the contract's sentences in plain Python.

NETWORK = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 2, 9, 9] } } }
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 5 kernel_size: 3 }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "relu_ip" type: "ReLU" bottom: "ip" top: "relu_ip" }
"""
BINS = 512


def tops_of(image, weights):
    """What each layer writes, one product after another."""
    (w, b), (v, c) = weights["conv"], weights["ip"]
    conv = np.zeros((5, 7, 7))
    for o, y, x in np.ndindex(5, 7, 7):
        conv[o, y, x] = b[o] + sum(w[o, i, j, k] * image[i, y + j, x + k] for i, j, k in np.ndindex(2, 3, 3))
    behind = np.where(conv > 0, conv, 0)
    pool = np.zeros((5, 4, 4))  # Caffe rounds the number of windows up
    for o, y, x in np.ndindex(5, 4, 4):
        pool[o, y, x] = behind[o, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].max()
    ip = np.array([c[o] + sum(float(a) * float(z) for a, z in zip(v[o], pool.ravel(), strict=True)) for o in range(4)])
    return {"data": image, "conv": conv, "pool": pool, "ip": ip}


def counts_of(values, bins):
    """Of |x|, by the contract; zeros left out."""
    sizes = [abs(float(x)) for x in values if x != 0]
    width = max(sizes) / (bins - 1)
    counts = [0] * bins
    for size in sizes:
        counts[math.floor(size / width + 0.5)] += 1
    return counts, width


def threshold_of(values, bins):
    """By the contract's sentences on the search."""
    counts, width = counts_of(values, bins)
    best = (math.inf, 0)
    for end in range(128, bins + 1, 128):
        inside = counts[:end]
        if sum(inside) == 0:
            continue
        p = [n / sum(counts) for n in inside]
        p[-1] += sum(counts[end:]) / sum(counts)
        q = []
        for k in range(128):
            group = inside[k * end // 128 : (k + 1) * end // 128]
            filled = sum(1 for n in group if n)
            q += [sum(group) / filled / sum(inside) if n else 0.0 for n in group]
        divergence = sum(a * (math.log10(a + 1e-30) - math.log10(b + 1e-30)) for a, b in zip(p, q, strict=True))
        best = min(best, (divergence, end))
    return width * best[1]


def integers_of(weights, bias, bottom, top):
    """Weights and biases by the contract."""
    largest, shift = float(np.abs(weights).max()) * bottom / top, 0
    while largest < 64:
        largest, shift = 2 * largest, shift + 1
    scale = bottom / top * 2**shift
    whole = np.clip(np.floor(weights.astype(np.float64) * scale + 0.5), -128, 127)
    return whole, np.clip(np.floor(bias.astype(np.float64) * 128 / top * 2**shift + 0.5), -32768, 32767)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The network's folder, its weights, and images with many zeros in them."""
    random = np.random.default_rng(11)
    weights = {
        "conv": [random.standard_normal((5, 2, 3, 3)), random.standard_normal(5) - 1],
        "ip": [random.standard_normal((4, 80)), random.standard_normal(4)],
    }
    weights = {name: [blob.astype(np.float32) for blob in blobs] for name, blobs in weights.items()}
    folder = tmp_path_factory.mktemp("example")
    (folder / "deploy.prototxt").write_text(NETWORK)
    types = {"conv": "Convolution", "ip": "InnerProduct"}
    layers = [(LayerParameter(name=name, type=kind), weights[name]) for name, kind in types.items()]
    write_caffemodel(folder / "custom.caffemodel", "example", layers)
    images = np.maximum(random.standard_normal((6, 2, 9, 9)), 0).astype(np.float32)
    return folder, weights, images


def calibrated(folder, images, batch=1, **changes):
    """The example's `Calibration`, done."""
    options = {key: changes.pop(key) for key in ("method", "original", "threads", "repair") if key in changes}
    info = {
        "model_name": "example",
        "in_prototxt": folder / "deploy.prototxt",
        "in_caffemodel": folder / "custom.caffemodel",
        "iteration": len(images),
        "histogram_bin_num": BINS,
        **changes,
    }
    calibration = Calibration(info, source=Arrays(batch, data=images), **options)
    calibration.calc_tables()
    return calibration


def test_thresholds_and_integers_are_those_of_a_plain_calculation(example):
    folder, weights, images = example
    tops = [tops_of(image, weights) for image in images]
    expected = {name: threshold_of(np.concatenate([t[name].ravel() for t in tops]), BINS) for name in tops[0]}
    plan = calibrated(folder, images, original=True).plan
    found = {"data": "data", "conv": "conv", "conv@conv": "conv", "pool": "pool", "ip": "ip", "relu_ip": "ip"}
    assert plan.thresholds.keys() == found.keys()
    for value, name in found.items():
        assert plan.thresholds[value] == pytest.approx(expected[name], rel=2e-6), value
    for name, bottom in (("conv", "data"), ("ip", "pool")):
        own = [np.asarray(blob) for blob in plan.forms[name].blobs]
        for mine, blob in zip(own, integers_of(*weights[name], expected[bottom], expected[name]), strict=True):
            assert (mine.reshape(blob.shape) != blob).sum() <= 1


def test_what_is_measured_matters(example):
    """Before the ReLU and without zeros: by any other rule the example's thresholds would be others."""
    _, weights, images = example
    tops = [tops_of(image, weights) for image in images]
    before = np.concatenate([t["conv"].ravel() for t in tops])
    behind = np.where(before > 0, before, 0)
    right = threshold_of(before, BINS)
    assert abs(threshold_of(behind, BINS) / right - 1) > 0.01
    data = np.concatenate([t["data"].ravel() for t in tops])
    counted, width = counts_of(data, BINS)
    assert counted[0] < (data == 0).sum() < data.size and width > 0


@pytest.mark.parametrize("changes", [{"enable_calibration_opt": 1}, {"enable_calibration_opt": 0}], ids=str)
@pytest.mark.parametrize("bins", [128, 2048, 204_800])
def test_counts_are_exact_whatever_is_said_of_passes(example, changes, bins):
    folder, _, images = example
    calibration = calibrated(folder, images, method="kl", histogram_bin_num=bins, **changes)
    names = ["data", "conv@conv", "pool", "ip"]
    runs = [run_float(calibration.model, {"data": image[None]}, names) for image in images]
    assert calibration.histograms.keys() == set(names)
    for name in names:
        values = np.concatenate([run[name].ravel() for run in runs])
        expected, width = counts_of(values, bins)
        histogram = calibration.histograms[name]
        assert histogram.exact and histogram.width == width
        assert histogram.without_zeros().counts.tolist() == expected
        assert histogram.zeros == (values == 0).sum()


def test_nothing_else_changes_the_result(example):
    folder, _, images = example
    expected = calibrated(folder, images, original=True, threads=1)
    for options in ({"batch": 3}, {"threads": 3}, {"enable_memory_opt": 1}, {"enable_calibration_opt": 0}):
        assert calibrated(folder, images, original=True, **options).thresholds == expected.thresholds, options
    assert calibrated(folder, images, method="kl", repair="none").plan.thresholds == expected.plan.thresholds


def test_another_method_measures_what_it_lacks_and_leaves_the_rest(example):
    folder, _, images = example
    calibration = calibrated(folder, images, original=True)
    original, written = calibration.thresholds, calibration.histograms
    calibration.find_tables("mse")
    assert calibration.histograms.keys() == {"data", "conv@conv", "conv", "pool", "ip", "relu_ip"}
    assert all(calibration.histograms[value] is histogram for value, histogram in written.items())
    assert calibration.thresholds.keys() == {"data", "conv", "pool", "relu_ip"}
    calibration.find_tables("kl")
    assert calibration.thresholds == original

    calibration = calibrated(folder, images, method="mse", repair="none")
    assert not calibration.histograms["data"].exact
    calibration.find_tables("kl")
    assert calibration.thresholds == original and calibration.histograms["data"].exact


def test_another_method_beside_the_original_s_is_refused(example):
    folder, _, images = example
    with pytest.raises(OptionError, match=r"the original tool's method is kl: it cannot be 'mse'"):
        calibrated(folder, images, original=True, method="mse")
    assert calibrated(folder, images, original=True, method="kl").thresholds


def test_the_command_s_original(tmp_path, capsys):
    files = {}
    for name, options in (
        ("one", ["--original"]),
        ("two", ["--method", "kl", "--repair", "none"]),
        ("three", ["--method", "mse"]),
    ):
        (tmp_path / name).mkdir()
        command = ["calibrate", "digits", str(DIGITS), "-n", "20", "--output", str(tmp_path / name)]
        assert main([*command, *options]) == 0
        files[name] = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.suffix != ".json"}
    assert len(files["one"]) == 4
    assert files["one"] == files["two"] != files["three"]
    with pytest.raises(SystemExit) as exit_:
        main(["calibrate", "digits", str(DIGITS), "--original", "--method", "mse"])
    assert exit_.value.code == 2 and "not allowed with" in capsys.readouterr().err
