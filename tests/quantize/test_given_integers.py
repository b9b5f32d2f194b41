"""Plans whose integers do not follow from thresholds: made by a pass, or read from files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib8.errors import QuantizationError
from calib8.layer_kit.weighted_sum import Refinement
from calib8.layers import same_integers
from calib8.quantize import fold_groups, make_plan, observed_values, refined, replan, settled, with_given

NETWORK = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 3, 6, 6] } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "n" }
layer { name: "sc" type: "Scale" bottom: "n" top: "n" scale_param { bias_term: true } }
layer { name: "c2" type: "Convolution" bottom: "n" top: "c2" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "c2" top: "ip" inner_product_param { num_output: 5 } }
"""


@pytest.fixture
def model(random_model):
    return random_model(NETWORK)


@pytest.fixture
def plan(model):
    return make_plan(model, dict.fromkeys(observed_values(model), 8.0))


def other_weights(form):
    return replace(form, weights=np.flip(form.weights, 0))


def test_plain_integers_have_no_giver(plan):
    assert plan.given == {}


def test_a_refinement_rounds_and_shifts(model, plan):
    down = Refinement(
        lambda w, tx, ty, rs: np.floor(w.astype(np.float64) * tx / ty * 2.0**rs).clip(-128, 127).astype(np.int8)
    )
    after = refined(model, plan, {"c2": replace(down, bias_shift=np.full(4, 0.5))}, "down")
    own, before, layer = after.forms["c2"], plan.forms["c2"], model.net.layer_by_name["c2"]
    ratio = plan.thresholds["n"] / plan.thresholds["c2"] * 2.0**before.rshift
    np.testing.assert_array_equal(own.weights, np.floor(layer.blobs[0] * ratio).clip(-128, 127))
    step = plan.thresholds["c2"] / 128 / 2**before.rshift
    np.testing.assert_array_equal(own.bias, np.floor((layer.blobs[1] + 0.5) / step + 0.5).clip(-32768, 32767))
    assert after.given == {"c2": "down"}
    assert all(after.forms[name] is plan.forms[name] for name in plan.forms if name != "c2")


def test_a_batch_norm_is_refined_together_with_its_scale(model, plan):
    after = refined(model, plan, {"bn": Refinement(bias_shift=np.full(4, 0.25))}, "shift")
    assert after.given == {"bn": "shift", "sc": "shift"}
    assert (after.forms["bn"].shift > plan.forms["bn"].shift).all()
    assert same_integers(after.forms["sc"], plan.forms["sc"])


def test_a_new_threshold_rounds_anew_only_where_it_reaches(model, plan):
    given = with_given(plan, {n: other_weights(plan.forms[n]) for n in ("c1", "c2", "ip")}, "a file")
    group = next(g for g in fold_groups(model) if "ip" in g.members)
    after = replan(model, given, dict.fromkeys(group.members, 9.0))
    assert after.given == {"c1": "a file", "c2": "a file"}
    assert after.forms["c1"] is given.forms["c1"] and after.forms["c2"] is given.forms["c2"]
    assert same_integers(after.forms["ip"], make_plan(model, {**plan.thresholds, "ip": 9.0}).forms["ip"])


def test_what_follows_after_all_is_no_longer_given(model, plan):
    read = with_given(
        plan, {**{n: f for n, f in plan.forms.items() if f}, "c2": other_weights(plan.forms["c2"])}, "files"
    )
    assert set(read.given) == {"c1", "bn", "sc", "c2", "ip"}
    assert settled(model, read).given == {"c2": "files"}
    assert settled(model, plan) is plan


def test_thresholds_without_plain_integers_leave_all_as_given(model, plan):
    thresholds = {**plan.thresholds, "c1": 1e-6, "n": 1e6}
    with pytest.raises(QuantizationError):
        make_plan(model, thresholds)
    read = with_given(replace(plan, thresholds=thresholds), {"c2": plan.forms["c2"]}, "files")
    assert settled(model, read).given == {"c2": "files"}


def test_warnings_follow_the_integers(random_model):
    text = NETWORK[: NETWORK.index('layer { name: "bn"')]
    model = random_model(text, 0, {"c1": [np.full((4, 3, 3, 3), 0.01), [1e6, 0, 0, 0]]})
    plan = make_plan(model, {"x": 8.0, "c1": 8.0})
    assert any("clamped" in text for text in plan.warnings)
    kept = with_given(
        replace(plan, warnings=("about the table", *plan.warnings)), {"c1": replace(plan.forms["c1"], warnings=())}, "p"
    )
    assert kept.warnings == ("about the table",)
