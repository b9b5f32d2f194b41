"""Nets from prototxts: phases, blobs in place, layers that only measure, and every structural problem with its line."""

from __future__ import annotations

import pytest

from calib8.errors import PrototxtError
from calib8.graph import Phase, build_net
from calib8.layer_kit.measuring import only_measures
from calib8.proto.text import parse_prototxt

INPUT = 'layer { name: "data" type: "Input" top: "data" }\n'


def net(text: str, **options):
    return build_net(parse_prototxt(text, "a.prototxt"), only_measures=only_measures, **options)


def problems(text: str, **options) -> list[str]:
    with pytest.raises(PrototxtError) as caught:
        net(text, **options)
    return list(caught.value.problems)


def layer(name: str, bottom: str = "", top: str = "", kind: str = "ReLU", rest: str = "") -> str:
    parts = [f'bottom: "{b}"' for b in bottom.split()] + [f'top: "{t}"' for t in top.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(parts)} {rest} }}\n'


def test_every_write_in_place_is_a_value_and_the_last_one_owns_the_name():
    found = net(INPUT + layer("a", "data", "y") + layer("b", "y", "y") + layer("c", "y", "z") + layer("d", "y", "y"))
    assert [x.bottoms for x in found.layers] == [(), ("data",), ("y@a",), ("y@b",), ("y@b",)]
    assert [x.tops for x in found.layers] == [("data",), ("y@a",), ("y@b",), ("z",), ("y",)]
    assert found.values_of_blob["y"] == ("y@a", "y@b", "y")
    assert found.outputs == ("z", "y")
    assert [x.place.line for x in found.layers] == [1, 2, 3, 4, 5]


def test_a_value_s_name_never_meets_a_blob_s():
    found = net(INPUT + layer("a", "data", "y y@a") + layer("b", "y", "y"))
    assert len({t for x in found.layers for t in x.tops}) == 4
    assert found.layers[1].tops[1] == "y@a"


@pytest.mark.parametrize(("phase", "expected"), [(0, ["data", "a"]), (1, ["data", "b"])])
def test_phases(phase, expected):
    text = INPUT + layer("a", "data", "y", rest="include { phase: TRAIN }")
    text += layer("b", "data", "y", rest="exclude { phase: TRAIN }")
    found = net(text, phase=phase)
    assert [x.name for x in found.layers] == expected
    assert {*found.absent} == {"a", "b"} - {*expected}


def test_stages_and_levels():
    text = INPUT + layer("a", "data", "y", rest='include { stage: "deploy" not_stage: "slow" min_level: 2 }')
    text += layer("b", "data", "z", rest="include { max_level: 1 } include { phase: TRAIN }")

    def names(**options):
        return [x.name for x in net(text, **options).layers]

    assert names(stages=("deploy",), level=2) == ["data", "a"]
    assert names(stages=("deploy",), level=1) == ["data", "b"]
    assert names(stages=("deploy", "slow"), level=2) == ["data"]


def test_the_file_s_own_stages_count_but_not_its_level_and_phase():
    text = 'state { phase: TRAIN level: 2 stage: "deploy" }\n' + INPUT
    text += layer("a", "data", "y", rest='include { phase: TEST stage: "deploy" }')
    text += layer("b", "data", "z", rest="include { min_level: 2 }")
    assert [x.name for x in net(text).layers] == ["data", "a"]


def test_layers_that_only_measure_are_left_out_and_named():
    text = INPUT + layer("label", "", "label", "Input") + layer("fc", "data", "fc")
    text += layer("loss", "fc label", "loss", "SoftmaxWithLoss") + layer("acc", "fc label", "acc", "Accuracy")
    text += layer("sum", "loss", "sum")
    found = net(text)
    assert [x.name for x in found.layers] == ["data", "label", "fc"]
    assert found.left_out == ("loss", "acc", "sum")
    assert [n for n in found.notes if "left out" in n] == [
        "layer 'loss' (SoftmaxWithLoss) is left out: it only measures",
        "layer 'acc' (Accuracy) is left out: it only measures",
        "layer 'sum' (ReLU) is left out: it reads 'loss', which was left out",
    ]


def test_all_structural_problems_at_once_with_their_lines():
    text = INPUT + layer("a", "data", "y") + layer("a", "nowhere", "z") + layer("b", "late", "w w")
    text += layer("c", "self", "self") + layer("d", "data", "y") + layer("e", "data", "late", "")
    text += layer("f", "data", "v", rest="include { phase: TEST } exclude { phase: TRAIN }")
    assert problems(text) == [
        "a.prototxt:7: layer 'e' has no type",
        "a.prototxt:3: layer 'a' (ReLU) has the name of the one in line 2; give each layer its own",
        "a.prototxt:8: layer 'f' (ReLU) has both include and exclude rules; Caffe allows one kind",
        "a.prototxt:3: layer 'a' (ReLU) reads bottom 'nowhere', which no layer writes",
        "a.prototxt:4: layer 'b' (ReLU) reads bottom 'late', which is written later, by layer 'e'",
        "a.prototxt:4: layer 'b' (ReLU) has top 'w' twice",
        "a.prototxt:5: layer 'c' (ReLU) reads bottom 'self', which only it itself writes",
        "a.prototxt:6: layer 'd' (ReLU) writes top 'y', as layer 'a' does already; it is not in place",
    ]


def test_a_circle_is_read_before_it_is_written():
    (problem,) = problems(INPUT + layer("a", "data q", "p") + layer("b", "p", "q"))
    assert problem == "a.prototxt:2: layer 'a' (ReLU) reads bottom 'q', which is written later, by layer 'b'"


def test_a_bottom_of_another_phase_is_said_to_be_one():
    text = layer("data", "", "data", "Data", "include { phase: TRAIN }") + layer("a", "data", "y")
    (problem,) = problems(text)
    assert problem.endswith("which only layer 'data' writes, and that has no part in this phase")
    assert len(net(text, phase=Phase.TRAIN).layers) == 2


def test_no_layer_left():
    (problem,) = problems(layer("data", "", "data", "Data", "include { phase: TRAIN }"))
    assert problem == "a.prototxt: no layer takes part in phase TEST (1 layers in the file)"


def test_an_old_input_has_no_line():
    text = 'input: "x" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1\n' + layer("x", "x", "x")
    found = net(text)
    assert [(x.name, x.place.line) for x in found.layers] == [("x_input", 0), ("x", 2)]
