"""Lanes, histograms and channels, against what is counted by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from calib8.analyze.answers import Classes, ClassMap, DetectionRows, Numbers, Picture
from calib8.analyze.doctor.recipes import Recipe
from calib8.graph import build_net
from calib8.measure.histogram import AdaptiveHistogram
from calib8.proto.text import parse_prototxt
from calib8.report.drawings import DAMAGE_LEVELS, channels_drawing, damage_level, histogram_drawing, network_drawing
from calib8.report.lanes import lanes_of
from calib8.report.shown_samples import coloured, displayed, names_of_classes

NAMES = {
    "chain": [("a", "d", "a"), ("b", "a", "b"), ("c", "b", "c")],
    "skip": [("a", "d", "a"), ("b", "a", "b"), ("c", "b", "c"), ("sum", "a c", "sum")],
    "branches": [("a", "d", "a"), ("b", "d", "b"), ("c", "d", "c"), ("cat", "a b c", "cat"), ("e", "cat", "e")],
    "late": [("a", "d", "a"), ("b", "a", "b"), ("c", "d a b", "c"), ("e", "a c", "e")],
}


def net(layers):
    text = 'input: "d" input_shape { dim: 1 dim: 2 dim: 4 dim: 4 }'
    for name, bottoms, top in layers:
        kind = "Eltwise" if " " in bottoms else "ReLU"
        read = " ".join(f'bottom: "{b}"' for b in bottoms.split())
        text += f'layer {{ name: "{name}" type: "{kind}" {read} top: "{top}" }}'
    return build_net(parse_prototxt(text))


@pytest.mark.parametrize("layers", NAMES.values(), ids=NAMES)
def test_no_two_values_share_a_lane(layers):
    found = net(layers)
    lanes = lanes_of(found)
    assert len(lanes.edges) == sum(len(x.bottoms) for x in found.layers)
    value_at = {}
    for edge in lanes.edges:
        value = found.layers[edge.start].tops[0]
        assert edge.source == lanes.lane_of[edge.start] and edge.target == lanes.lane_of[edge.stop]
        for row in range(edge.start + 1, edge.stop):
            assert value_at.setdefault((row, edge.lane), value) == value
            assert lanes.lane_of[row] != edge.lane  # no layer stands on a way
        assert edge.lane < lanes.width


def test_the_drawing_has_a_link_for_every_layer():
    found = net(NAMES["skip"])
    text = network_drawing(found, {"a": 50.0, "b": 5.0})
    assert re.findall(r'href="#layer-(\d+)"', text) == ["0", "1", "2", "3", "4"]
    assert 'class="node d0"' in text and f'class="node d{DAMAGE_LEVELS - 1}"' in text and text.count("node none") == 3


def test_levels_of_damage():
    found = [damage_level(snr) for snr in (float("inf"), 40, 39.9, 29, 24, 19, 14, 9, float("-inf"))]
    assert found == [0, 0, 1, 2, 3, 4, 5, 6, 6]


def test_thresholds_stand_where_they_are():
    counter = AdaptiveHistogram(256)
    counter.add(np.linspace(0, 8, 1000, dtype=np.float32))
    text = histogram_drawing(counter.result(), {"max": 8.0, "mse": 4.0}, 2.0)
    lines = re.findall(r'm-(\w+)[^>]*><title>\w+</title><line[^>]* x1="([\d.]+)"', text)
    places = {name: float(x) for name, x in lines}
    chosen = float(re.search(r'class="chosen" x1="([\d.]+)"', text)[1])
    assert places["max"] - 8 == pytest.approx(4 * (chosen - 8), abs=0.3)
    assert places["mse"] - 8 == pytest.approx(2 * (chosen - 8), abs=0.3)
    assert "clips 75" in text


def test_channels_are_as_tall_as_they_reach():
    text = channels_drawing([4.0, 2.0, 1.0], "largest")
    tall = [90 - float(y) for y in re.findall(r"V([\d.]+)H", text)]
    assert tall == pytest.approx([76, 38, 19], abs=0.1)


def test_a_sample_becomes_its_picture_again():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 200, 200)).astype(np.float32)
    recipe = Recipe((104.0, 117.0, 123.0), (0.5,) * 3, "bgr")
    sample = (pixels - np.array([104, 117, 123]).reshape(3, 1, 1)) * 0.5
    np.testing.assert_array_equal(displayed(sample[None], recipe), pixels.transpose(1, 2, 0).astype(np.uint8))
    rgb = Recipe(recipe.mean, recipe.scale, "rgb")
    np.testing.assert_array_equal(displayed(sample[None], rgb), pixels[::-1].transpose(1, 2, 0).astype(np.uint8))


def test_classes_have_colours_of_their_own():
    found = coloured(np.arange(21).reshape(3, 7))
    assert len({tuple(c) for c in found.reshape(-1, 3)}) == 21 and found.dtype == np.uint8
    assert names_of_classes("cat\n\n dog \n") == ("cat", "dog")


def test_kinds_of_answers_are_told_apart():
    kinds = [kind(("y",)).kind for kind in (Classes, ClassMap, Picture, Numbers, DetectionRows)]
    assert kinds == ["classes", "map", "picture", "numbers", "boxes"]
