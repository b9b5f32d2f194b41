"""Whole multipliers: gains of layers without weights are exact, and thresholds hardly move."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.arithmetic import average_pooling_constants
from calib8.quantize import fold_groups, make_plan
from calib8.repair.whole_multipliers import WholeMultipliers

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 12, 12] } } }'


def conv(name, bottom="x"):
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        "convolution_param { num_output: 2 kernel_size: 1 } }"
    )


def layer(kind, name, *bottoms, rest=""):
    read = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ name: "{name}" type: "{kind}" {read} top: "{name}" {rest} }}'


RESIDUAL = "\n".join([
    INPUT, conv("a"), conv("b"), layer("Eltwise", "s", "a", "b"),
    'layer { name: "r" type: "ReLU" bottom: "s" top: "s" }',
    conv("c", "s"), layer("Eltwise", "u", "s", "c", rest="eltwise_param { coeff: [1, -1] }"), conv("d", "u"),
    layer("Eltwise", "v", "u", "s", "d"),
])  # fmt: skip


def moved(random_model, text, thresholds, **options):
    """The model, its plan and the one with whole multipliers."""
    model = random_model(text)
    given = {g.name: thresholds[g.name] for g in fold_groups(model)}
    plan = make_plan(model, given)
    return model, plan, WholeMultipliers(**options).apply(model, plan, {})


def gains(model, plan, name):
    """What the integers multiply each bottom by, over what they should."""
    own, form = model.net.layer_by_name[name], plan.forms[name]
    ty = plan.thresholds[own.tops[0]]
    ratios = [plan.thresholds[b] / ty * 2.0**form.rshift for b in own.bottoms]
    return np.array(form.multipliers) / ratios


@pytest.mark.parametrize("seed", range(6))
def test_multipliers_of_sums_are_exact(random_model, seed):
    rng = np.random.default_rng(seed)
    model = random_model(RESIDUAL)
    thresholds = {g.name: float(np.float32(rng.uniform(1, 6))) for g in fold_groups(model)}
    model, plan, after = moved(random_model, RESIDUAL, thresholds)
    for name in ("s", "u"):
        np.testing.assert_allclose(gains(model, after, name), 1, atol=1e-6)
        assert np.abs(gains(model, plan, name) - 1).max() > 1e-4
    # Of v two bottoms are settled, by s and by u.
    found = gains(model, after, "v")
    np.testing.assert_allclose(found[2], 1, atol=1e-6)
    assert np.abs(found - 1).min() < 1e-6 and np.abs(found - 1).max() < 1 / 64
    for value, threshold in plan.thresholds.items():
        assert abs(np.log(after.thresholds[value] / threshold)) < 0.13


def test_small_multipliers_are_rounded_up(random_model):
    """A bottom that is a small part of the sum does not lose a part of its range."""
    text = "\n".join([INPUT, conv("a"), conv("b"), layer("Eltwise", "s", "a", "b")])
    _, plan, after = moved(random_model, text, {"x": 1.0, "a": 8.0, "b": 0.26, "s": 8.0})
    assert plan.forms["s"].multipliers == (64, 2) and after.forms["s"].multipliers == (64, 3)
    assert after.thresholds["b"] == pytest.approx(8.0 * 3 / 64)


@pytest.mark.parametrize("operation", ["MAX", "PROD"])
def test_other_operations(random_model, operation):
    rest = f"eltwise_param {{ operation: {operation} }}"
    text = "\n".join([INPUT, conv("a"), conv("b"), layer("Eltwise", "s", "a", "b", rest=rest)])
    model, _, after = moved(random_model, text, {"x": 1.0, "a": 3.0, "b": 2.3, "s": 3.7})
    found = product_gain(model, after, "s") if operation == "PROD" else gains(model, after, "s")
    np.testing.assert_allclose(found, 1, atol=1e-6)


def product_gain(model, plan, name):
    """What the integers of a product multiply codes by, over what they should."""
    own, form = model.net.layer_by_name[name], plan.forms[name]
    exact = 1.0
    for bottom in own.bottoms:
        exact *= plan.thresholds[bottom] / 128
    return form.multipliers[0] / 2.0**form.rshift / (exact * 128 / plan.thresholds[own.tops[0]])


@pytest.mark.parametrize("top", [0.9, 1.05, 3.7, 6.87, 6.91])
def test_the_multiplier_of_a_product_is_exact(random_model, top):
    """Its top moves by less than one of 64 steps, and its bottoms stay, also where a later sum reads them."""
    product = layer("Eltwise", "s", "a", "b", rest="eltwise_param { operation: PROD }")
    text = "\n".join([INPUT, conv("a"), conv("b"), product, layer("Eltwise", "v", "a", "s")])
    model, plan, after = moved(random_model, text, {"x": 1.0, "a": 3.0, "b": 2.3, "s": top, "v": 5.0})
    assert product_gain(model, plan, "s") < 1 - 1e-4
    np.testing.assert_allclose(product_gain(model, after, "s"), 1, atol=1e-6)
    assert abs(after.thresholds["s"] / top - 1) < 1 / 128 + 1e-3
    assert [after.thresholds[v] for v in "ab"] == [plan.thresholds[v] for v in "ab"]


def test_max_pools_are_exact(random_model):
    pool = layer("Pooling", "p", "a", rest="pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
    text = "\n".join([INPUT, conv("a"), pool, conv("b", "p")])
    _, plan, after = moved(random_model, text, {"x": 1.0, "a": 3.0, "p": 2.7, "b": 1.0})
    form = after.forms["p"]
    assert after.thresholds["p"] == 3.0 and form.multiplier == 1 << form.rshift
    assert after.forms["b"].rshift >= 0 and after.thresholds["b"] == plan.thresholds["b"]


def test_a_max_pool_that_shares_its_threshold_stays(random_model):
    pool = layer("Pooling", "p", "a", rest="pooling_param { pool: MAX kernel_size: 1 }")
    text = "\n".join([INPUT, conv("a"), conv("b"), pool, layer("Concat", "j", "p", "b")])
    _, plan, after = moved(random_model, text, {"x": 1.0, "a": 3.0, "j": 2.7})
    assert after.thresholds == plan.thresholds


@pytest.mark.parametrize("kernel", [2, 3, 7, 12])
@pytest.mark.parametrize("top", [0.7, 1.9, 3.3])
def test_averages_have_the_gain_that_their_thresholds_say(random_model, kernel, top):
    """Where thresholds within 3 % can have it: constants that cut much off leave gaps."""
    pool = layer("Pooling", "p", "a", rest=f"pooling_param {{ pool: AVE kernel_size: {kernel} }}")
    text = "\n".join([INPUT, conv("a"), pool])
    _, plan, after = moved(random_model, text, {"x": 1.0, "a": 3.0, "p": top})

    def off(ty, form):
        factor, shift = average_pooling_constants(kernel**2, form.multiplier, form.rshift)
        return abs(np.log(factor / 2.0**shift * kernel**2 / (3.0 / ty)))

    model = random_model(text)
    tried = np.float32(top * np.linspace(0.971, 1.029, 400))
    best = min(off(float(t), make_plan(model, {"x": 1.0, "a": 3.0, "p": float(t)}).forms["p"]) for t in tried)
    assert off(after.thresholds["p"], after.forms["p"]) < best + 1e-6
    assert abs(np.log(after.thresholds["p"] / plan.thresholds["p"])) < 0.031


def test_either_part_can_be_left_out(random_model):
    pool = layer("Pooling", "p", "s", rest="pooling_param { pool: MAX kernel_size: 2 }")
    text = "\n".join([INPUT, conv("a"), conv("b"), layer("Eltwise", "s", "a", "b"), pool])
    thresholds = {"x": 1.0, "a": 3.1, "b": 2.3, "s": 3.7, "p": 3.0}
    _, plan, pools = moved(random_model, text, thresholds, sums=False)
    assert {v for v in thresholds if pools.thresholds[v] != plan.thresholds[v]} == {"p"}
    _, _, sums = moved(random_model, text, thresholds, pools=False)
    assert sums.thresholds["p"] == plan.thresholds["p"] and sums.thresholds["b"] != plan.thresholds["b"]
    assert WholeMultipliers().counters(None, plan) == {}
