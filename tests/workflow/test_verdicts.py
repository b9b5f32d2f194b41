"""`verdict`: other images than those of the calibration, where there are any; figures against a run by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe
from calib8.engine import run_float
from calib8.workflow import Arrays, CalibrateOptions, VerdictOptions, calibrate, open_network, verdict
from calib8.workflow.samples import runs_of

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def network():
    return open_network(DIGITS / "deploy.prototxt", DIGITS / "custom.caffemodel")


@pytest.fixture(scope="module")
def plan(network):
    return calibrate(network, CalibrateOptions(iteration=20, threads=1)).plan


def test_images_behind_those_of_the_calibration(network, plan, run_int8):
    found = verdict(network, plan, VerdictOptions(20, images=3, threads=1))
    assert found.held_out and found.images == 3
    runs = list(runs_of(network, 23))[20:]
    signal = noise = 0.0
    same = 0
    for inputs in runs:
        x = run_float(network.of_one_sample, inputs, ["prob"])["prob"].astype(np.float64)
        y = run_int8(network.of_one_sample, plan, inputs, ["prob"], real_inputs=list(inputs))["prob"]
        signal, noise, same = signal + (x**2).sum(), noise + ((x - y) ** 2).sum(), same + (x.argmax() == y.argmax())
    (one,) = found.outputs
    assert (one.agreeing, one.asked, one.kind) == (same, 3, "classes")
    assert one.comparison.snr_db == pytest.approx(10 * np.log10(signal / noise), rel=1e-3)


def test_the_same_images_where_there_are_no_others(network, plan):
    found = verdict(network, plan, VerdictOptions(network.samples.size, images=2, threads=1))
    assert not found.held_out and found.images == 2


@pytest.mark.parametrize(("calibrated", "images"), [(0, 2), (10, 2), (100, 5), (1000, 16)])
def test_a_twentieth_is_enough(calibrated, images):
    assert VerdictOptions(calibrated).count == images


def test_few_others_are_better_than_the_same(network, plan):
    found = verdict(network, plan, VerdictOptions(network.samples.size - 3, images=32, threads=1))
    assert found.held_out and found.images == 3


ROWS = """
import caffe


class Rows(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1, 1, 1, 5)

    def forward(self, bottom, top):
        found = bottom[0].data.reshape(-1)
        found = found[found > 0.3]  # as many rows as there are, others in INT8
        top[0].reshape(1, 1, len(found), 5)
        top[0].data[...] = found[:, None]
"""


def test_rows_of_a_layer_in_python_may_be_others_in_int8(tmp_path):
    (tmp_path / "rows.py").write_text(ROWS)
    (tmp_path / "deploy.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 1, 12, 12] } } }'
        'layer { name: "c" type: "Convolution" bottom: "x" top: "c"'
        ' convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "constant" value: 0.3 } } }'
        'layer { name: "rows" type: "Python" bottom: "c" top: "rows" python_param { module: "rows" layer: "Rows" } }'
    )
    caffe.Net(str(tmp_path / "deploy.prototxt"), caffe.TEST).save(str(tmp_path / "custom.caffemodel"))
    samples = np.random.default_rng(0).normal(size=(6, 1, 12, 12)).astype(np.float32)
    files = tmp_path / "deploy.prototxt", tmp_path / "custom.caffemodel"
    np.savez(tmp_path / "samples.npz", x=samples)
    network = open_network(*files, Arrays(tmp_path / "samples.npz"))
    plan = calibrate(network, CalibrateOptions(iteration=4, threads=1, method="max", repair="none")).plan
    (one,) = verdict(network, plan, VerdictOptions(4, images=2, threads=1)).outputs
    assert one.lost is None and one.kind == "numbers"
