"""A Net's blobs and layers by their numbers, calls between layers, the loss; the log and the clock."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import caffe
from calib8.errors import UnsupportedError

INPUTS = """
layer { name: "d" type: "Input" top: "d" top: "label" input_param { shape { dim: [2, 3] } shape { dim: 2 } } }
"""
NET = (
    INPUTS
    + """
layer { name: "f" type: "InnerProduct" bottom: "d" top: "f"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "r" type: "ReLU" bottom: "f" top: "f" }
layer { name: "p" type: "Power" bottom: "f" top: "p" power_param { scale: 2 } loss_weight: 0.5 }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "loss" }
layer { name: "a" type: "Accuracy" bottom: "f" bottom: "label" top: "a" }
"""
)


@pytest.fixture
def net(tmp_path):
    (tmp_path / "n.prototxt").write_text(NET)
    net = caffe.Net(str(tmp_path / "n.prototxt"), caffe.TEST)
    net.blobs["d"].data[...] = [[1, -2, 3], [4, 5, -6]]
    net.blobs["label"].data[...] = [1, 3]
    return net


def test_classes_are_those_of_the_compiled_part(net):
    assert isinstance(net, caffe._caffe.Net)
    assert isinstance(net.blobs["f"], caffe._caffe.Blob)
    assert type(net.params["f"]) is caffe._caffe.BlobVec is type(net.layers[1].blobs)
    assert issubclass(caffe.SGDSolver, caffe._caffe.Solver)
    assert all(hasattr(caffe._caffe, name) for name in caffe._caffe.__all__)


def test_numbers_of_blobs(net):
    names = list(net.blobs)
    assert names == net._blob_names == ["d", "label", "f", "p", "loss", "a"]
    assert [blob.shape for blob in net._blobs] == [(2, 3), (2,), (2, 4), (2, 4), (), ()]
    assert [net._top_ids(i) for i in range(6)] == [[0, 1], [2], [2], [3], [4], [5]]
    assert [net._bottom_ids(i) for i in range(6)] == [[], [0], [2], [2], [2, 1], [2, 1]]
    assert net._inputs == [0, 1]
    assert [names[i] for i in net._outputs] == net.outputs == ["a", "loss", "p"]


def test_weights_in_the_loss(net):
    assert net._blob_loss_weights == [0, 0, 0, 0.5, 1, 0]
    assert list(net.blob_loss_weights.items())[3:] == [("p", 0.5), ("loss", 1), ("a", 0)]


def test_forward_gives_the_loss(net):
    total = net._forward(0, 5)
    assert total == pytest.approx(0.5 * net.blobs["p"].data.sum() + float(net.blobs["loss"].data), rel=1e-6)
    assert net._forward(1, 2) == 0
    before = net.blobs["p"].data.copy()
    net.params["f"][0].data[...] *= 3
    net._forward(1, 2)
    assert np.array_equal(net.blobs["p"].data, before)
    net._forward(3, 3)
    assert np.allclose(net.blobs["p"].data, 2 * net.blobs["f"].data)


def test_calls_before_and_after_every_layer(net):
    net.forward()
    expected = {name: blob.data.copy() for name, blob in net.blobs.items()}
    calls, between = [], {}
    net.before_forward(lambda number: calls.append(("before", number)))
    net.after_forward(lambda number: calls.append(("after", number)))
    net.after_forward(lambda number: between.setdefault(number, net.blobs["f"].data.copy()))
    net.forward()
    assert calls == [(when, number) for number in range(6) for when in ("before", "after")]
    assert (between[1] < 0).any() and np.array_equal(between[2], np.maximum(between[1], 0))
    assert all(np.allclose(net.blobs[name].data, values) for name, values in expected.items())
    calls.clear()
    net.forward(start="r", end="p")
    assert calls == [(when, number) for number in (2, 3) for when in ("before", "after")]


def test_a_call_may_change_a_blob(net):
    net.forward()
    usual = net.blobs["p"].data.copy()

    def zero(number):
        if number == 3:
            net.blobs["f"].data[...] = 1

    net.before_forward(zero)
    assert (net.forward()["p"] == 2).all() and not (usual == 2).all()


def test_padded_batches(net):
    rows = np.arange(9, dtype=np.float32).reshape(3, 3)
    first, last = net._batch({"d": rows})
    assert np.array_equal(first["d"], rows[:2])
    assert np.array_equal(last["d"], [[6, 7, 8], [0, 0, 0]])


def test_arrays_of_a_memory_layer(tmp_path):
    (tmp_path / "m.prototxt").write_text(
        """layer { name: "d" type: "MemoryData" top: "d" top: "l"
        memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 } }
        layer { name: "p" type: "Power" bottom: "d" top: "p" } layer { name: "s" type: "Silence" bottom: "l" }"""
    )
    net = caffe.Net(str(tmp_path / "m.prototxt"), caffe.TEST)
    data = np.arange(6, dtype=np.float32).reshape(2, 1, 1, 3)
    net._set_input_arrays(data, np.zeros((2, 1, 1, 1), np.float32))
    assert np.array_equal(net.forward()["p"], data)


def test_training_is_refused_under_these_names_too(net):
    with pytest.raises(UnsupportedError, match=r"Net\._backward is for training"):
        net._backward(5, 0)
    with pytest.raises(UnsupportedError, match="NCCL is for training"):
        caffe.NCCL(None, "")
    assert (caffe.solver_count(), caffe.solver_rank()) == (1, 0)


def test_the_log(capsys):
    logger = logging.getLogger("calib8")
    level, handlers = logger.level, logger.handlers
    logger.handlers = []  # a command that ran in this process leaves its own
    try:
        caffe.init_log(0)
        caffe.init_log(0)
        caffe.log("heard once")
        caffe.init_log(2, True)
        caffe.log("not heard")
        caffe.init_log(0, False)
        caffe.log("not heard either")
        lines = capsys.readouterr().err.splitlines()  # a command that ran before may log there, too
        assert [line for line in lines if line.startswith("INFO")] == ["INFO heard once"]
    finally:
        logger.setLevel(level)
        logger.handlers = handlers


def test_the_clock():
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    first = timer.ms
    assert first > 0
    assert timer.ms == first
    timer.stop()
    assert timer.ms == first
