"""Networks with rounded values, against the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import EngineOptions, Executor, run_float
from calib8.lowering import lower_float
from calib8.quantize import make_plan, observed_values
from calib8.repair.rounded_values import entering_bottoms, with_rounded_values

# A hard-swish as ONNX files have it: Add and Clip run in FP32, the product in INT8.
ISLAND = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 6, 6] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "a" type: "Power" bottom: "c" top: "a" power_param { shift: 3 } }
layer { name: "l" type: "Clip" bottom: "a" top: "l" clip_param { min: 0 max: 6 } }
layer { name: "s" type: "Eltwise" bottom: "c" bottom: "l" top: "s" eltwise_param { operation: PROD } }
layer { name: "h" type: "Power" bottom: "s" top: "h" power_param { scale: 0.25 } }
layer { name: "r" type: "ReLU" bottom: "h" top: "r" }
layer { name: "d" type: "Convolution" bottom: "h" top: "d" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "j" type: "Concat" bottom: "d" bottom: "r" top: "j" }
"""


def on_codes(x, threshold):
    return np.clip(np.floor(x * 128 / threshold + 0.5), -128, 127) * threshold / 128


@pytest.fixture
def model(random_model):
    return random_model(ISLAND, 4)


@pytest.fixture
def sample():
    return {"x": np.random.default_rng(5).normal(0, 1, (1, 3, 6, 6)).astype(np.float32)}


@pytest.fixture
def plan(model, sample):
    values = observed_values(model)
    found = run_float(model, sample, values)
    return make_plan(model, {v: 0.9 * float(np.abs(found[v]).max()) for v in values})


def test_what_fp32_gives_is_rounded_where_int8_reads_it(model, sample, plan):
    """And only there: the limits read the sum itself."""
    assert [n for n, form in plan.forms.items() if form is None] == ["x", "a", "l", "h", "r"]
    t, found = plan.thresholds, {}
    steps = lower_float(with_rounded_values(model, plan), ("d", "r"))
    Executor(steps, ("d", "r"), EngineOptions(threads=1)).run(sample, lambda v, x: found.__setitem__(v, x.copy()))

    def conv(name, x):
        weights, bias = model.net.layer_by_name[name].blobs
        return np.einsum("oi,nihw->nohw", weights[:, :, 0, 0], x) + bias[:, None, None]

    c = on_codes(conv("c", sample["x"]), t["c"])
    h = 0.25 * on_codes(c * on_codes(np.clip(c + 3, 0, 6), t["l"]), t["s"])
    np.testing.assert_allclose(found["r"], np.maximum(h, 0), atol=1e-6)
    d = on_codes(conv("d", on_codes(h, t["h"])), t["d"])
    np.testing.assert_allclose(found["d"], d, atol=1e-6)


def test_which_bottoms_enter(model, plan):
    layers = model.net.layer_by_name
    entering = {name: entering_bottoms(model, plan, layers[name]) for name in plan.forms}
    assert {name: set(own) for name, own in entering.items() if own} == {"s": {"l"}, "d": {"h"}, "j": {"r"}}
