"""replan: the integers of make_plan with the changed thresholds, and the very plans of before elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.errors import QuantizationError
from calib8.layers import same_integers
from calib8.quantize import fold_groups, make_plan, observed_values, replan

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 6, 6] } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "c1" }
layer { name: "sc" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "c3" type: "Convolution" bottom: "c1" top: "c3" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "cat" type: "Concat" bottom: "c2" bottom: "c3" top: "cat" }
layer { name: "p" type: "Pooling" bottom: "cat" top: "p" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "ip" inner_product_param { num_output: 5 } }
"""


def planned(model):
    rng = np.random.default_rng(1)
    return make_plan(model, {v: float(rng.uniform(4, 8)) for v in observed_values(model)})


def equal(one, other):
    assert one.forms.keys() == other.forms.keys()
    return all(same_integers(one.forms[name], other.forms[name]) for name in one.forms)


def test_every_group_changed_alone_gives_what_make_plan_gives(random_model):
    model = random_model(NETWORK)
    before = planned(model)
    for group in fold_groups(model):
        changed = dict.fromkeys(group.members, before.thresholds[group.name] * 1.3)
        after = replan(model, before, changed)
        anew = make_plan(model, {**before.thresholds, **changed})
        assert equal(after, anew) and after.thresholds == anew.thresholds
        assert not equal(after, before)


def test_layers_that_the_change_does_not_reach_keep_their_plans(random_model):
    model = random_model(NETWORK)
    before = planned(model)
    after = replan(model, before, {"ip": 9.0})
    changed = {name for name in before.forms if before.forms[name] is not after.forms[name]}
    assert changed == {"ip"}


def test_only_some_layers(random_model):
    model = random_model(NETWORK)
    before = planned(model)
    changes = {"cat": 9.0, "c2": 9.0, "c3": 9.0}
    whole, part = replan(model, before, changes), replan(model, before, changes, {"c2", "ip"})
    assert [name for name, own in part.forms.items() if own] == ["c2", "ip"]
    assert part.forms["c2"].blobs[0].tobytes() == whole.forms["c2"].blobs[0].tobytes()
    assert part.forms["ip"] is before.forms["ip"] and part.thresholds == whole.thresholds


def test_a_scale_follows_its_batch_norm(random_model):
    """Its own thresholds stay the same, and the shift that its row carries does not."""
    model = random_model(NETWORK)
    before = planned(model)
    (bottom,) = model.net.layer_by_name["bn"].bottoms
    after = replan(model, before, {bottom: before.thresholds[bottom] / 5})
    assert after.forms["sc"].rshift == after.forms["bn"].rshift != before.forms["bn"].rshift


def test_a_threshold_that_cannot_be_expressed_is_refused(random_model):
    model = random_model(NETWORK)
    with pytest.raises(QuantizationError, match="'ip'"):
        replan(model, planned(model), {"ip": 1e-9})


def test_layers_that_switch_to_fp32_and_back(random_model):
    """Weights that two bottoms share are integers only where these have one threshold."""
    shared = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 4, 4] } } }
    layer { name: "y" type: "Input" top: "y" input_param { shape { dim: [1, 2, 4, 4] } } }
    layer {
      name: "c" type: "Convolution" bottom: "x" bottom: "y" top: "cx" top: "cy"
      convolution_param { num_output: 2 kernel_size: 1 }
    }
    layer { name: "r" type: "ReLU" bottom: "cx" top: "r" }
    """
    model = random_model(shared)
    before = make_plan(model, dict.fromkeys(observed_values(model), 8.0))
    away = replan(model, before, {"y": 9.0})
    assert {name for name, own in before.forms.items() if own} == {"c", "r"}
    assert not any(away.forms.values())
    assert equal(replan(model, away, {"y": 8.0}), before)
