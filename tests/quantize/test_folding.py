"""Which values share a threshold, which of them is measured, and what the others get."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.errors import OptionError, QuantizationError, TableError
from calib8.lowering import build_model
from calib8.measure.thresholds import DEAD_THRESHOLD
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import parse_prototxt, read_prototxt
from calib8.quantize import (
    fold_groups,
    fold_thresholds,
    make_plan,
    observed_values,
    set_thresholds,
)

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 dim: 6 dim: 6 } } }\n'


def conv(name: str, bottom: str, top: str | None = None) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{top or name}" '
        f"convolution_param {{ num_output: 4 kernel_size: 1 }} }}\n"
    )


def layer(kind: str, name: str, bottoms: str, tops: str, param: str = "") -> str:
    reads = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    writes = " ".join(f'top: "{t}"' for t in tops.split())
    return f'layer {{ name: "{name}" type: "{kind}" {reads} {writes} {param} }}\n'


def groups_of(text: str, concat: bool = False) -> dict[str, set[str]]:
    model = build_model(parse_prototxt(text))
    groups = fold_groups(model, concat)
    values = [v for g in groups for v in g.members]
    assert sorted(values) == sorted(model.shapes)  # each value exactly once
    assert all({g.name, g.written, g.rectified} <= set(g.members) for g in groups)
    for as_written in (True, False):
        measured = {g.measured(as_written=as_written) for g in groups}
        assert set(observed_values(model, concat, as_written=as_written)) == measured and len(measured) == len(groups)
    return {g.name: set(g.members) for g in groups}


def measured_of(text: str) -> dict[str, tuple[str, str]]:
    """By name what the original measures of a group, and what all other methods do."""
    return {
        g.name: (g.measured(as_written=True), g.measured(as_written=False))
        for g in fold_groups(build_model(parse_prototxt(text)))
    }


def test_a_relu_in_place():
    text = INPUT + conv("c", "x") + layer("ReLU", "r", "c", "c")
    assert groups_of(text) == {"x": {"x"}, "c": {"c@c", "c"}}
    assert measured_of(text) == {"x": ("x", "x"), "c": ("c@c", "c")}


def test_a_relu_with_its_own_top():
    text = INPUT + conv("c", "x") + layer("ReLU", "r", "c", "r")
    assert groups_of(text) == {"x": {"x"}, "c": {"c", "r"}}
    assert measured_of(text) == {"x": ("x", "x"), "c": ("c", "r")}


def test_a_relu_beside_another_reader_leaves_the_value_to_be_measured():
    text = INPUT + conv("c", "x") + layer("ReLU", "r", "c", "r") + layer("Flatten", "f", "c", "f")
    assert measured_of(text)["c"] == ("c", "c")


def test_a_relu_in_place_and_then_one_with_its_own_top():
    text = INPUT + conv("c", "x") + layer("Dropout", "d", "c", "c") + layer("ReLU", "r", "c", "r")
    assert measured_of(text)["c"] == ("c@c", "r")


def test_a_leaky_relu_is_no_end_of_a_group():
    leaky = layer("ReLU", "l", "c", "l", "relu_param { negative_slope: 0.1 }")
    assert measured_of(INPUT + conv("c", "x") + leaky) == {"x": ("x", "x"), "c": ("c", "c"), "l": ("l", "l")}


def test_a_concat_is_measured_as_it_is_written():
    branches = conv("a", "x") + layer("ReLU", "ra", "a", "a") + conv("b", "x")
    text = INPUT + branches + layer("Concat", "k", "a b", "k") + layer("ReLU", "rk", "k", "k")
    assert groups_of(text) == {"x": {"x"}, "k": {"a@a", "a", "b", "k@k", "k"}}
    assert measured_of(text)["k"] == ("k@k", "k")


def test_a_threshold_may_be_given_for_any_value_that_is_measured():
    model = build_model(parse_prototxt(INPUT + conv("c", "x") + layer("ReLU", "r", "c", "c")))
    expected = {"x": 1.0, "c@c": 2.0, "c": 2.0}
    assert fold_thresholds(model, {"x": 1.0, "c@c": 2.0}) == expected
    assert fold_thresholds(model, {"x": 1.0, "c@c": 3.0, "c": 2.0}) == expected
    assert fold_thresholds(model, {"x": 1.0}, dead=["c@c"]) == {"x": 1.0, "c@c": 1.0, "c": 1.0}


def test_a_chain_of_passive_layers_is_one_group():
    text = (
        conv("c", "x")
        + layer("ReLU", "r", "c", "c")
        + layer("Dropout", "d", "c", "d")
        + layer("Flatten", "f", "d", "f")
    )
    assert groups_of(INPUT + text)["c"] == {"c@c", "c", "d", "f"}


def test_a_split_shares_its_threshold_with_all_readers():
    text = layer("Split", "s", "x", "a b") + layer("ReLU", "r", "a", "r") + layer("Flatten", "f", "b", "f")
    assert groups_of(INPUT + text) == {"x": {"x", "a", "b", "r", "f"}}


def test_layers_with_arithmetic_are_not_folded():
    leaky = layer("ReLU", "l", "p", "l", "relu_param { negative_slope: 0.1 }")
    text = layer("Pooling", "p", "x", "p", "pooling_param { kernel_size: 2 stride: 2 }") + leaky
    assert groups_of(INPUT + text) == {"x": {"x"}, "p": {"p"}, "l": {"l"}}


BATCH_NORM = layer("BatchNorm", "bn", "c", "b")
SCALE = layer("Scale", "sc", "b", "s", "scale_param { bias_term: true }")


def test_a_batch_norm_takes_the_threshold_of_its_scale():
    text = INPUT + conv("c", "x") + BATCH_NORM + SCALE
    assert groups_of(text) == {"x": {"x"}, "c": {"c"}, "s": {"b", "s"}}


def test_in_place_the_convolution_keeps_its_own_threshold():
    text = (
        conv("c", "x")
        + layer("BatchNorm", "bn", "c", "c")
        + layer("Scale", "sc", "c", "c")
        + layer("ReLU", "r", "c", "c")
    )
    groups = groups_of(INPUT + text)
    assert groups == {"x": {"x"}, "c@c": {"c@c"}, "c": {"c@bn", "c@sc", "c"}}


def test_a_pair_is_read_off_its_blobs_not_off_the_order_of_the_layers():
    text = INPUT + conv("c", "x") + BATCH_NORM + layer("ReLU", "other", "x", "o") + SCALE
    model = build_model(parse_prototxt(text))
    assert {name: scale.name for name, scale in model.batch_norm_pairs.items()} == {"bn": "sc"}


@pytest.mark.parametrize(
    "follower",
    [
        SCALE + layer("ReLU", "r", "b", "r"),  # a second reader
        layer("Scale", "sc", "x", "s"),  # another blob
        layer("Scale", "sc", "b x", "s", "scale_param { axis: 0 }"),  # gamma is a bottom
        layer("Scale", "sc", "x b", "s", "scale_param { axis: 0 }"),  # the BatchNorm is gamma
        layer("Scale", "sc", "b", "s", "scale_param { num_axes: 2 }"),  # gamma for each channel and row
        layer("ReLU", "r", "b", "r"),
        "",
    ],
)
def test_what_is_no_pair(follower):
    model = build_model(parse_prototxt(INPUT + conv("c", "x") + BATCH_NORM + follower))
    assert model.batch_norm_pairs == {}


CONCAT = conv("a", "x") + conv("b", "x") + layer("Concat", "k", "a b", "k")


def test_bottoms_of_a_concat_take_its_threshold():
    assert groups_of(INPUT + CONCAT) == {"x": {"x"}, "k": {"a", "b", "k"}}


def test_with_concat_quantization_bottoms_keep_their_own():
    assert groups_of(INPUT + CONCAT, concat=True) == {"x": {"x"}, "a": {"a"}, "b": {"b"}, "k": {"k"}}


def test_a_bottom_with_another_reader_is_requantised(random_model):
    model = random_model(INPUT + CONCAT + conv("c", "b"))
    assert observed_values(model) == ("x", "b", "k", "c")
    plan = make_plan(model, {"x": 1.0, "b": 2.0, "k": 4.0, "c": 8.0})
    assert plan.thresholds == {"x": 1.0, "a": 4.0, "b": 2.0, "k": 4.0, "c": 8.0}
    assert plan.forms["k"].multipliers == (128, 128)
    assert plan.forms["k"].rshifts == (7, 8)


def test_a_reader_behind_a_passive_layer_counts_too():
    text = conv("a", "x") + layer("Flatten", "f", "a", "f") + layer("Flatten", "g", "a", "g")
    text += layer("Concat", "k", "f f", "k") + layer("Concat", "m", "g g", "m")
    assert groups_of(INPUT + text) == {"x": {"x"}, "a": {"a", "f", "g"}, "k": {"k"}, "m": {"m"}}
    one = text.replace('bottom: "g" bottom: "g"', 'bottom: "k" bottom: "k"')
    assert groups_of(INPUT + one) == {"x": {"x"}, "m": {"a", "f", "g", "k", "m"}}


def test_concat_of_concats_takes_the_last_threshold_through_passive_layers():
    text = CONCAT + layer("ReLU", "r", "k", "r") + conv("c", "x") + layer("Concat", "m", "r c", "m")
    assert groups_of(INPUT + text) == {"x": {"x"}, "m": {"a", "b", "k", "r", "c", "m"}}


def test_a_batch_norm_before_a_concat_follows_its_scale():
    text = conv("c", "x") + BATCH_NORM + SCALE + layer("ReLU", "r", "s", "s") + layer("Concat", "k", "s x", "k")
    assert groups_of(INPUT + text) == {"x": {"x"}, "c": {"c"}, "k": {"b", "s@sc", "s", "k"}}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_folding_is_what_two_passes_over_the_layers_give(data):
    """Chains of convolutions, ReLU and Flatten, never in place: forwards out := in, backwards in := out, literally."""
    text, values, passive = INPUT, ["x"], []
    for index in range(data.draw(st.integers(1, 12))):
        bottom = data.draw(st.sampled_from(values))
        kind = data.draw(st.sampled_from(["Convolution", "ReLU", "Dropout"]))
        text += conv(f"v{index}", bottom) if kind == "Convolution" else layer(kind, f"v{index}", bottom, f"v{index}")
        if kind != "Convolution":
            passive.append((bottom, f"v{index}"))
        values.append(f"v{index}")
    measured = {v: data.draw(st.floats(0.125, 100, width=32)) for v in values}
    expected = dict(measured)
    for bottom, top in passive:
        expected[top] = expected[bottom]
    for bottom, top in reversed(passive):
        expected[bottom] = expected[top]
    model = build_model(parse_prototxt(text))
    folded = fold_thresholds(model, measured)
    assert folded == expected
    assert fold_thresholds(model, folded) == folded
    assert fold_thresholds(model, {v: measured[v] for v in observed_values(model, as_written=True)}) == folded


def test_thresholds_are_float32():
    model = build_model(parse_prototxt(INPUT))
    assert fold_thresholds(model, {"x": 0.1}) == {"x": float(np.float32(0.1))}


def test_missing_thresholds_are_all_named():
    model = build_model(parse_prototxt(INPUT + conv("c", "x") + layer("ReLU", "r", "c", "c") + conv("d", "c")))
    with pytest.raises(TableError) as error:
        fold_thresholds(model, {"c": 1.0})
    assert error.value.problems == ("blob 'x' (top of layer 'x')", "blob 'd' (top of layer 'd')")


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, 1e39])
def test_thresholds_that_are_no_thresholds_are_all_named(bad):
    model = build_model(parse_prototxt(INPUT + conv("c", "x") + conv("d", "x")))
    with pytest.raises(QuantizationError) as error:
        fold_thresholds(model, {"x": 1.0, "c": bad, "d": bad})
    assert len(error.value.problems) == 2
    assert "layer 'c', blob 'c'" in error.value.problems[0]


def test_a_dead_blob_takes_the_threshold_before_it():
    model = build_model(parse_prototxt(INPUT + conv("c", "x") + layer("ReLU", "r", "c", "c") + conv("d", "c")))
    assert fold_thresholds(model, {"x": 500.0, "c": 1.0, "d": 3.0}, dead=["c"]) == {
        "x": 500.0, "c@c": 500.0, "c": 500.0, "d": 3.0,
    }  # fmt: skip
    assert fold_thresholds(model, {"c": 1.0, "d": 3.0}, dead=["x"])["x"] == DEAD_THRESHOLD


def test_a_dead_blob_does_not_make_a_layer_impossible(random_model):
    text = INPUT + conv("c", "x") + layer("ReLU", "r", "c", "c")
    weights = {"c": [np.eye(4).reshape(4, 4, 1, 1), [-1e4] * 4]}
    model = random_model(text, 0, weights)
    with pytest.raises(QuantizationError, match="layer 'c'"):
        make_plan(model, {"x": 500.0, "c": 1.0})
    plan = make_plan(model, {"x": 500.0, "c": 1.0}, dead=["c"])
    assert np.isfinite(plan.forms["c"].blobs[0]).all()


def test_a_change_reaches_all_values_of_its_group():
    model = build_model(parse_prototxt(INPUT + conv("conv", "x", "c") + layer("ReLU", "r", "c", "c") + conv("d", "c")))
    before = fold_thresholds(model, {"x": 1.0, "c": 2.0, "d": 3.0})
    for name in ("conv", "c", "r", "c@conv"):
        assert set_thresholds(model, before, {name: 9.0}) == {**before, "c": 9.0, "c@conv": 9.0}
    with pytest.raises(OptionError) as error:
        set_thresholds(model, before, {"conv": 9.0, "r": 8.0, "nobody": 1.0})
    assert len(error.value.problems) == 2
    assert "'conv' and 'r' share one threshold and are given 9 and 8" in error.value.problems[0]
    assert "'nobody'" in error.value.problems[1]


@pytest.mark.shared
def test_resnet_and_squeezenet_measure_each_relu_once(shared):
    for name, relus in (("cifar10_resnet20", 19), ("squeezenet_v1.1", 26)):
        folder = shared / "models" / name
        model = build_model(read_prototxt(folder / "deploy.prototxt"), read_caffemodel(folder / "custom.caffemodel"))
        observed = observed_values(model)
        relu_layers = [x for x in model.net.layers if x.type == "ReLU"]
        assert len(relu_layers) == relus
        assert all(x.bottoms[0] not in observed for x in relu_layers if x.top_blobs == x.bottom_blobs)
        plan = make_plan(model, dict.fromkeys(observed, 8.0))
        assert all(plan.thresholds[x.bottoms[0]] == plan.thresholds[x.tops[0]] for x in relu_layers)
