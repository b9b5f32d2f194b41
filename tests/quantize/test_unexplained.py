"""Integers of files whose record is gone: rows of small weights become smaller by rounding alone, and are no sign."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.export.files import read_plan, write_calibration_files
from calib8.quantize import make_plan

WIDE = (
    "input: 'data' input_shape { dim: 1 dim: 400 dim: 4 dim: 4 } layer { name: 'c' type: 'Convolution' "
    "bottom: 'data' top: 'c' convolution_param { num_output: 4 kernel_size: 3 bias_term: false } }"
    "layer { name: 'r' type: 'ReLU' bottom: 'c' top: 'r' }"
    "layer { name: 'd' type: 'Convolution' bottom: 'r' top: 'd' "
    "convolution_param { num_output: 4 kernel_size: 1 bias_term: false } }"
)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_row_of_small_weights_is_no_unit(random_model, tmp_path, recorded):
    model = random_model(WIDE)
    weights = model.net.layer_by_name["c"].blobs[0]
    weights[:] = np.random.default_rng(0).laplace(size=weights.shape)
    weights[1:] *= 0.17 / 127 * np.abs(weights[0]).max()  # nearly all of them round to 0
    plan = make_plan(model, {"data": 1.0, "c": 1.0, "r": 1.0, "d": 1.0})
    paths = write_calibration_files(tmp_path, "net", model, plan)
    if not recorded:
        (tmp_path / "bmnet_net.calib8.json").unlink()
    read = read_plan(model, paths[2], paths[0])
    assert not read.unexplained and not read.channel_units
