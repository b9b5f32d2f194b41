"""Our thresholds in other runtimes beside their own tools: python bench/other_runtimes.py MODELS IMAGES [options]

MODELS and IMAGES are the folders that real_models.py describes. For every network and 100 calibration images: quality,
agreement with FP32 and SNR (see evaluation.py) on the evaluation images, 95 % intervals in brackets, and the seconds
from the calibration images to the files.

- ncnn runs `export --format ncnn` with thresholds by several methods and of a repaired calibration, and with what
  ncnn2table's default (`kl`) finds: 2,048 bins up to the largest value, zeros left out, the threshold with the least
  divergence of 128 levels, of what each layer reads; 31 levels for weights of 3 x 3 convolutions with stride 1, 127 for
  the others. ncnn's tool has no package: its rules are written down here anew, from tools/quantize/ncnn2table.cpp of
  Tencent/ncnn.
- ONNX Runtime runs `export --format onnx-uint8` and `onnx-int8`, and what its own quantize_static makes of the FP32
  export, folded as we write it, with weights per channel and unsigned activations.

Times are of this machine and mean something side by side only.
"""

from __future__ import annotations

import argparse
import functools
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
from accuracy import VARIANTS
from evaluation import Evaluation, Outputs, Result
from figures import estimate
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from real_models import CALIBRATION_IMAGES, Network, real_models

from calib8.engine import run_float
from calib8.export import ncnn_export, onnx_export
from calib8.export.ncnn import NcnnFiles
from calib8.export.ncnn import layers as ncnn_layers
from calib8.export.ncnn.int8 import Int8Weights
from calib8.export.onnx_qdq import Zero, qdq_export
from calib8.layer_kit.weighted_window import WeightedWindow
from calib8.layers.convolution import Convolution
from calib8.layers.inner_product import InnerProduct
from calib8.lowering import Model, fold_channel_affines
from calib8.quantize.channel_units import in_channel_units

try:
    import ncnn
except ImportError:
    ncnn = None

Array = np.ndarray
METHODS = ("mse", "kl-fine", "max", "standard")
"""Sets of thresholds, by the names of accuracy.py: three methods, and the default of `calib8 calibrate`, repaired."""
_BINS, _LEVELS, _EPS = 2048, 128, 1e-4
_ORT = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}


def ncnn_runs(files: NcnnFiles, network: Network, names: Sequence[str]) -> Callable[[Array], Outputs]:
    """A function that runs a sample, FP32 arithmetic where it is not INT8."""
    net = ncnn.Net()
    net.opt.num_threads = 1
    for name in ("use_fp16_storage", "use_fp16_packed", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    with tempfile.TemporaryDirectory() as folder:
        param, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_bytes(files.param)
        weights.write_bytes(files.bin)
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise RuntimeError("ncnn does not load the files")

    def run(sample: Array) -> Outputs:
        extractor = net.create_extractor()
        extractor.set_light_mode(False)  # else a blob that was read is gone
        extractor.input(network.blob, ncnn.Mat(np.ascontiguousarray(sample[0])).clone())
        return {name: as_in_caffe(name, extractor.extract(name)[1]) for name in names}

    def as_in_caffe(name: str, mat: Any) -> Array:
        array = np.zeros(0, np.float32) if mat.empty() else np.array(mat)  # numpy crashes on an empty one
        if network.model.net.producer[name].type != "DetectionOutput":
            return array[None]
        return np.pad(array.reshape(-1, 6), ((0, 0), (1, 0)))[None, None]  # the image's number, which ncnn leaves out

    return run


def onnx_runs(proto: Any, network: Network, names: Sequence[str]) -> Callable[[Array], Outputs]:
    """The same in ONNX Runtime."""
    present = {x.name for x in proto.graph.output}
    inner = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names if n not in present]
    proto.graph.output.extend(inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")  # else the figures are those of the processor
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda sample: dict(zip(names, session.run(list(names), {network.blob: sample}), strict=True))


def least_divergence(counts: Array) -> int:
    """How many of the bins ncnn2table keeps."""
    share = counts / max(counts.sum(), 1)
    sums = np.concatenate([[0.0], np.cumsum(share)])
    best, found = np.inf, _LEVELS
    for kept in range(_LEVELS, _BINS):
        clipped = share[:kept] + _EPS
        clipped[-1] += share[kept:].sum()
        edges = np.arange(_LEVELS + 1) * (kept / _LEVELS)
        mean = np.diff(np.interp(edges, np.arange(_BINS + 1), sums)) / (kept / _LEVELS)
        # A bin that lies in two levels has its parts of both.
        within = np.interp(np.arange(kept + 1), edges, np.concatenate([[0.0], np.cumsum(mean * (kept / _LEVELS))]))
        divergence = (clipped * np.log(clipped / (np.diff(within) + _EPS))).sum()
        if divergence < best:
            best, found = divergence, kept
    return found


def ncnn2table(model: Model, network: Network, samples: Sequence[Array]) -> NcnnFiles:
    """The files with ncnn2table's own scales."""
    folded = fold_channel_affines(model)
    weighted = [(x, op) for x, op in folded.pairs if isinstance(op, Convolution | InnerProduct)]
    values = sorted({layer.bottoms[0] for layer, _ in weighted})
    largest = dict.fromkeys(values, 1e-30)
    for sample in samples:
        for value, array in run_float(folded, {network.blob: sample}, values).items():
            largest[value] = max(largest[value], float(np.abs(array).max()))
    counts = {value: np.zeros(_BINS) for value in values}
    for sample in samples:
        for value, array in run_float(folded, {network.blob: sample}, values).items():
            numbers = np.abs(array[array != 0])
            bins = np.minimum((numbers / largest[value] * _BINS).astype(int), _BINS - 1)
            counts[value] += np.bincount(bins, minlength=_BINS)
    thresholds = {v: (least_divergence(counts[v]) + 0.5) * largest[v] / _BINS for v in values}
    narrow = {
        x.name for x, op in weighted if isinstance(op, WeightedWindow) and _is_3x3(op, folded.shapes[x.bottoms[0]])
    }
    with mock.patch.object(ncnn_layers, "quantize", functools.partial(_as_ncnn2int8, narrow)):
        return ncnn_export(model, thresholds)


def _is_3x3(op: WeightedWindow, shape: tuple[int, ...]) -> bool:
    window, groups = op.geometry(shape)
    return groups == 1 and (window.kernel, window.stride, window.dilation) == ((3, 3), (1, 1), (1, 1))


def _as_ncnn2int8(narrow: set[str], name: str, weights: Array, threshold: float, *_: Any, **__: Any) -> Int8Weights:
    levels = 31 if name in narrow else 127
    scales = (levels / np.maximum(np.abs(weights).max(axis=1), 1e-30)).astype(np.float32)
    scaled = weights * scales[:, None]
    values = np.clip(np.trunc(scaled + np.copysign(0.5, scaled)), -127, 127).astype(np.int8)
    return Int8Weights(name, values, scales, np.float32(127 / threshold))


class _Samples(CalibrationDataReader):
    def __init__(self, blob: str, samples: Sequence[Array]) -> None:
        self._left = iter([{blob: sample} for sample in samples])

    def get_next(self) -> Any:
        return next(self._left, None)


def quantize_static_of(model: Model, network: Network, samples: Sequence[Array], method: CalibrationMethod) -> Any:
    """What ONNX Runtime's own quantiser makes of the network."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(onnx_export(network.name, fold_channel_affines(model)).data)
        quantize_static(
            source, target, _Samples(network.blob, samples), calibrate_method=method, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(str(target))


def show(network: Network, methods: Sequence[str], count: int) -> None:
    """The lines of one network."""
    evaluation = Evaluation(network)
    samples = list(network.calibration(0, min(count, len(network.pool))))
    n, task = evaluation.samples, network.task
    print(f"\n{network.name}: {n} samples; FP32 {task.measure} {estimate(evaluation.fp32.quality, n).text('.3f')}")

    def line(name: str, seconds: float, result: Result) -> None:
        figures = (
            f"{task.measure} {estimate(result.quality, n).text('.3f')}",
            f"{task.agreement} {estimate(result.agreement, n).text('.3f')}",
            f"SNR {estimate(result.snr, n).text('.1f')} dB",
        )
        print(f"  {name:<34}{'; '.join(figures)}; {seconds:.1f} s", flush=True)

    for method in methods:
        start = time.perf_counter()
        model, plan, _ = VARIANTS[method](network, samples)
        seconds = time.perf_counter() - start
        if ncnn is not None:
            files = ncnn_export(in_channel_units(model, plan.channel_units), plan.thresholds)
            line(f"ncnn, {method}", seconds, evaluation.by(ncnn_runs(files, network, evaluation.names)))
        for zero in Zero:
            proto = qdq_export(network.name, model, plan, zero).proto
            line(
                f"ONNX Runtime, {zero.value}, {method}",
                seconds,
                evaluation.by(onnx_runs(proto, network, evaluation.names)),
            )
    if ncnn is not None:
        start = time.perf_counter()
        files = ncnn2table(network.model, network, samples)
        seconds = time.perf_counter() - start
        line("ncnn, its own kl", seconds, evaluation.by(ncnn_runs(files, network, evaluation.names)))
    for name, method in _ORT.items():
        start = time.perf_counter()
        proto = quantize_static_of(network.model, network, samples, method)
        seconds = time.perf_counter() - start
        line(f"ONNX Runtime, its own {name}", seconds, evaluation.by(onnx_runs(proto, network, evaluation.names)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--network", action="append", help="only this one; may be given several times")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one; may be given several times")
    parser.add_argument("--samples", type=int, default=CALIBRATION_IMAGES, help="to calibrate with")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for network in real_models(options.models, options.images):
        if options.network is None or network.name in options.network:
            show(network, options.method or METHODS, options.samples)


if __name__ == "__main__":
    main()
