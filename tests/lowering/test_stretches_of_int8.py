"""lower_stretch: a network run in two parts gives the bits that it gives in one, wherever it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.engine import EngineOptions, Executor
from calib8.lowering.integer import IntegerSetup, lower_int8, lower_stretch
from calib8.lowering.readings import Codes
from calib8.quantize import make_plan, observed_values

CHAIN = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 6, 6] } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "p1" type: "Pooling" bottom: "c1" top: "p1" pooling_param { kernel_size: 2 } }
layer { name: "c2" type: "Convolution" bottom: "p1" top: "c2" convolution_param { num_output: 4 kernel_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "c2" top: "ip" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def values_of(steps, names, inputs):
    found = {}
    Executor(steps, names, EngineOptions(repack_weights=True)).run(
        inputs, lambda name, array: found.__setitem__(name, array.copy())
    )
    return found


@pytest.mark.parametrize("int8", [(), ("c1", "r1", "p1"), ("p1", "ip"), ("c1", "r1", "p1", "c2", "ip")])
def test_cut_anywhere(random_model, int8):
    model = random_model(CHAIN)
    rng = np.random.default_rng(0)
    plan = make_plan(model, {v: float(rng.uniform(4, 8)) for v in observed_values(model)})
    setup = IntegerSetup(frozenset(int8), {n: p for n, p in plan.forms.items() if p is not None}, plan.thresholds)
    inputs = {"x": rng.standard_normal((1, 3, 6, 6), np.float32)}
    whole = values_of(lower_int8(model, setup, ["prob"]), ["prob"], inputs)["prob"]
    layers = model.net.layers
    for cut in range(2, len(layers)):
        last = layers[cut - 1]
        between = Codes(last.tops[0]) if last.name in int8 else last.tops[0]
        first = values_of(lower_stretch(model, setup, layers[:cut], (), [between]), [between], inputs)
        steps = lower_stretch(model, setup, layers[cut:], [between], ["prob"])
        assert [name for step in steps for name in step.layers] == [x.name for x in layers[cut:]]
        np.testing.assert_array_equal(values_of(steps, ["prob"], first)["prob"], whole)
