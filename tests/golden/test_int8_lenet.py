"""The original's LeNet in INT8: the chip's own output, from its own files and its own input."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.export import read_plan
from calib8.lowering import build_model
from calib8.lowering.readings import Codes
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt

pytestmark = pytest.mark.shared
FIRST, LAST = Codes("ip2"), Codes("customized2")
CODES = [Codes(v) for v in ("conv1", "pool1", "conv2", "pool2", "ip1", "customized1", "ip2", "customized2")]


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "golden" / "bm1880_lenet"


@pytest.fixture(scope="module")
def images(golden):
    return np.fromfile(golden / "run_input_100x1x28x28.int8", np.int8).reshape(100, 1, 28, 28)


@pytest.fixture(scope="module")
def lenet(golden):
    """lenet(batch): the network and its integers."""

    def load(batch: int):
        shapes = {"data": (batch, 1, 28, 28), "label": (batch,)}
        prototxt = read_prototxt(golden / "deploy.prototxt")
        model = build_model(prototxt, read_caffemodel(golden / "fp32.caffemodel"), shapes)
        table = golden / "bmnet_lenet_calibration_table.pb2"
        return model, read_plan(model, table, golden / "run.caffemodel")

    return load


def test_the_first_image_gives_the_chip_s_ten_integers(golden, lenet, images, run_int8):
    model, plan = lenet(1)
    found = run_int8(model, plan, {"data": images[:1]}, [FIRST, LAST, "customized2"])
    assert found[FIRST].ravel().tolist() == [-14, -7, 4, 15, -16, -7, -48, 70, -9, 15]
    expected = np.fromfile(golden / "run_output_first_image.int8", np.int8)
    assert found[LAST].ravel().tolist() == expected.tolist()
    threshold = plan.thresholds["customized2"]
    np.testing.assert_array_equal(found["customized2"].ravel(), np.float32(expected * (threshold / 128)))


def test_threads_and_batch_do_not_change_a_code(lenet, images, run_int8):
    together, plan = lenet(100)
    one, two = (run_int8(together, plan, {"data": images}, CODES, threads=threads) for threads in (1, 2))
    single, single_plan = lenet(1)
    assert set(one) == set(CODES)
    for name in CODES:
        assert np.array_equal(one[name], two[name]), name
    for i in (0, 1, 57, 99):
        alone = run_int8(single, single_plan, {"data": images[i : i + 1]}, CODES)
        for name in CODES:
            assert np.array_equal(alone[name], one[name][i : i + 1]), name
