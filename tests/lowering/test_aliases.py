"""Layers in place over a blob that lies in another one's memory in Caffe."""

from __future__ import annotations

import pytest

from calib8.lowering.examine import examine_model
from calib8.proto.text import parse_prototxt

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 4, 6, 6] } } }\n'
RESHAPE = ("Reshape", "reshape_param { shape { dim: [0, -1] } }")
SHUFFLE = ("Reshape", "reshape_param { pixelshuffler: 2 }")


def layer(name: str, kind: str, bottoms: str, tops: str, rest: str = "") -> str:
    blobs = "".join(f' bottom: "{b}"' for b in bottoms.split()) + "".join(f' top: "{t}"' for t in tops.split())
    return f'layer {{ name: "{name}" type: "{kind}"{blobs} {rest} }}\n'


def problems(text: str) -> list[str]:
    return [p.text for p in examine_model(parse_prototxt(INPUT + layer("a", "AbsVal", "x", "a") + text, "f")).problems]


@pytest.mark.parametrize("shared", [("Flatten", ""), RESHAPE, ("Split", "")])
def test_a_blob_that_is_changed_under_another_name(shared):
    text = layer("s", shared[0], "a", "s", shared[1]) + layer("relu", "ReLU", "s", "s") + layer("r", "TanH", "a", "r")
    assert problems(text) == [
        "f:5: layer 'r' (TanH): reads 'a', which layer 'relu' changes before in Caffe: that works in place on 's', "
        "which lies in the same memory there; give 'relu' a top of its own"
    ]


def test_memory_is_handed_on_through_several_layers_and_to_several_tops():
    text = layer("s", "Split", "a", "s1 s2") + layer("f", "Flatten", "s1", "f") + layer("p", "Power", "f", "f")
    text += layer("r", "TanH", "s2", "r") + layer("q", "TanH", "s1", "q")
    assert [p.split(" (")[0] for p in problems(text)] == ["f:6: layer 'r'", "f:7: layer 'q'"]


@pytest.mark.parametrize(
    "text",
    [
        layer("s", "Flatten", "a", "s") + layer("r", "TanH", "a", "r") + layer("relu", "ReLU", "s", "s"),  # read before
        layer("s", "Flatten", "a", "s") + layer("relu", "ReLU", "s", "t") + layer("r", "TanH", "a", "r"),  # own top
        layer("s", "AbsVal", "a", "s") + layer("relu", "ReLU", "s", "s") + layer("r", "TanH", "a", "r"),  # own memory
        layer("s", SHUFFLE[0], "a", "s", SHUFFLE[1]) + layer("relu", "ReLU", "s", "s") + layer("r", "TanH", "a", "r"),
        layer("relu", "ReLU", "a", "a") + layer("s", "Flatten", "a", "s") + layer("r", "TanH", "a", "r"),
        layer("s", "Flatten", "a", "s") + layer("relu", "ReLU", "s", "s") + layer("r", "TanH", "s", "r"),
    ],
)
def test_what_caffe_computes_as_it_is_written(text):
    assert not problems(text)
