"""net.forward() beside the bare executor: SqueezeNet v1.1 (batch 1) and LeNet with random weights, in one run.

python bench/speed/pycaffe.py [SECONDS]    (for each line and network)

On one core, in processor time, and the lines take turns: other processes hardly count.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import caffe
from caffe import layers as L  # noqa: N812 - so do scripts write networks
from caffe import params as P  # noqa: N812
from calib8.engine import Executor
from calib8.lowering import Model, build_model, lower_float
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt

_XAVIER = {"weight_filler": {"type": "xavier"}}
_FIRES = ((16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256))


def squeezenet() -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 3, 227, 227]})
    top = L.ReLU(L.Convolution(n.data, num_output=64, kernel_size=3, stride=2, **_XAVIER), in_place=True)
    top = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    for fire in _FIRES:
        top = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=3, stride=2) if fire is None else _fire(top, *fire)
    n.conv10 = L.Convolution(L.Dropout(top, in_place=True), num_output=1000, kernel_size=1, **_XAVIER)
    n.prob = L.Softmax(L.Pooling(L.ReLU(n.conv10, in_place=True), pool=P.Pooling.AVE, global_pooling=True))
    return n


def _fire(bottom: object, squeeze: int, expand: int) -> object:
    narrow = L.ReLU(L.Convolution(bottom, num_output=squeeze, kernel_size=1, **_XAVIER), in_place=True)
    one = L.ReLU(L.Convolution(narrow, num_output=expand, kernel_size=1, **_XAVIER), in_place=True)
    three = L.ReLU(L.Convolution(narrow, num_output=expand, kernel_size=3, pad=1, **_XAVIER), in_place=True)
    return L.Concat(one, three)


def lenet() -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 1, 28, 28]})
    pool1 = L.Pooling(L.Convolution(n.data, num_output=20, kernel_size=5, **_XAVIER), kernel_size=2, stride=2)
    pool2 = L.Pooling(L.Convolution(pool1, num_output=50, kernel_size=5, **_XAVIER), kernel_size=2, stride=2)
    n.ip1 = L.InnerProduct(pool2, num_output=500, **_XAVIER)
    n.prob = L.Softmax(L.InnerProduct(L.ReLU(n.ip1, in_place=True), num_output=10, **_XAVIER))
    return n


def lines(
    net_files: tuple[Path, Path], model: Model, image: np.ndarray, middle: str
) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    own = image.copy()
    net = caffe.Net(net_files[0], caffe.TEST, weights=net_files[1])

    def bare(values: list[str]) -> Callable[[], object]:
        executor = Executor(lower_float(model, values), values)
        return lambda: (np.copyto(own, image), executor.run({"data": own}, lambda name, array: None))

    def forward() -> object:
        net.blobs["data"].data[...] = image
        return net.forward()

    other = caffe.Net(net_files[0], caffe.TEST, weights=net_files[1])

    def forward_and_read() -> object:
        other.blobs["data"].data[...] = image
        other.forward()
        return other.blobs[middle].data[0]

    return {
        "bare executor, outputs": bare(["prob"]),
        "net.forward()": forward,
        f"net.forward(), then a read of {middle}": forward_and_read,
        "bare executor, every blob": bare(list(net.blobs)),
    }


def measure(name: str, spec: caffe.NetSpec, middle: str, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prototxt, caffemodel = Path(folder) / "net.prototxt", Path(folder) / "net.caffemodel"
        prototxt.write_text(str(spec.to_proto()))
        net = caffe.Net(prototxt, caffe.TEST)
        net.save(caffemodel)
        model = build_model(read_prototxt(prototxt), read_caffemodel(caffemodel))
        image = np.random.default_rng(0).standard_normal(net.blobs["data"].shape).astype(np.float32)
        timed = lines((prototxt, caffemodel), model, image, middle)
        times: dict[str, list[float]] = {line: [] for line in timed}
        end = time.perf_counter() + seconds * len(timed)
        while time.perf_counter() < end:
            for line, run in timed.items():
                run()  # or it would find the caches as the other line has left them
                start = time.process_time()
                run()
                times[line].append(time.process_time() - start)
        for line, found in times.items():
            best, usual = 1e3 * min(found), 1e3 * float(np.percentile(found, 20))
            print(f"{name:12} {line:42} best {best:8.3f} ms   20th percentile {usual:8.3f} ms")


def main(seconds: float) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    measure("squeezenet", squeezenet(), "Concat4", seconds)
    measure("lenet", lenet(), "ip1", seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)
