"""build_model and examine_model: shapes without weights, everything that is wrong together, unknown fields."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.errors import CaffemodelError, ModelError, PrototxtError, UnsupportedError
from calib8.lowering import build_model
from calib8.lowering.examine import examine_model
from calib8.proto.text import parse_prototxt

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 3, 8, 8] } } }\n'
DATA = 'layer { name: "data" type: "ImageData" top: "x" top: "label" }\n'
CONV = "convolution_param { num_output: 4 kernel_size: 3 }"


def one(name: str, kind: str, bottom: str, rest: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {rest} }}\n'


def examined(text: str, *args, **options):
    return examine_model(parse_prototxt(text, "a.prototxt"), *args, **options)


def texts(text: str, *args, **options) -> list[str]:
    return [p.text for p in examined(text, *args, **options).problems]


def test_shapes_without_weights():
    model = build_model(parse_prototxt(INPUT + one("c", "Convolution", "x", CONV) + one("r", "ReLU", "c")))
    assert model.shapes == {"x": (2, 3, 8, 8), "c": (2, 4, 6, 6), "r": (2, 4, 6, 6)}
    assert not model.net.has_weights


def test_problems_of_all_kinds_come_together_and_in_order():
    text = INPUT + one("a", "Nonsense", "x") + one("b", "Convolution", "x") + one("c", "ReLU", "gone")
    text += one("d", "Convolution", "x", CONV) + one("e", "Pooling", "x", "pooling_param { kernel_size: 99 }")
    text += one("f", "ReLU", "a")
    found = examined(text, {"d": (np.zeros((1, 1, 3, 3), np.float32), np.zeros(4, np.float32))})
    assert [p.text.split(" (")[0] for p in found.problems] == [
        "a.prototxt:4: layer 'c'", "a.prototxt:2: layer 'a'", "a.prototxt:3: layer 'b'", "a.prototxt:5: layer 'd'",
        "a.prototxt:6: layer 'e'",
    ]  # fmt: skip
    assert [p.kind for p in found.problems] == [
        PrototxtError, UnsupportedError, UnsupportedError, CaffemodelError, UnsupportedError,
    ]  # fmt: skip
    assert found.shapes == {"x": (2, 3, 8, 8), "d": (2, 4, 6, 6)}
    with pytest.raises(PrototxtError) as caught:
        found.model()
    assert len(caught.value.problems) == 5 and isinstance(caught.value, ModelError)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("convolution_param { num_output: 4 kernel_size: 3 foo: 1 }", "convolution_param.foo"),
        (f"{CONV} foo_param {{ a: 1 }}", "foo_param"),
        (f"{CONV} foo_param <a: 1>", "foo_param"),
        (f"{CONV} include {{ foo: 1 }}", "include.foo"),
    ],
)
def test_an_unknown_field_that_may_count_is_refused_by_layer_and_name(field, name):
    (problem,) = texts(INPUT + one("c", "Convolution", "x", field))
    assert problem == (
        f"a.prototxt:2: layer 'c' (Convolution): {name} (unknown) is set, which calib8 does not implement; "
        "remove it if it has no effect"
    )


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("convolution_param { num_output: 4 kernel_size: 3 weight_filler { foo: 1 } }", "weight_filler.foo"),
        ("convolution_param { num_output: 4 kernel_size: 3 foo_filler { a: 1 } }", "foo_filler"),
        (f"{CONV} param {{ foo: 1 }}", "param.foo"),
        (f"{CONV} forward_type: FLOAT16", "layer.forward_type"),
    ],
)
def test_an_unknown_field_of_training_or_engines_is_a_note(field, name):
    found = examined(INPUT + one("c", "Convolution", "x", field))
    assert not found.problems
    assert any(
        note.startswith("line 2: ") and note.endswith(f"{name}: unknown field, not read") for note in found.notes
    )


def test_parameters_of_another_type_are_a_note():
    found = examined(INPUT + one("r", "ReLU", "x", "pooling_param { kernel_size: 2 } relu_param { }"))
    assert found.notes == ("layer 'r' (ReLU): pooling_param is not this type's, ignored",) and not found.problems


def test_an_unknown_field_beside_the_layers_is_a_note():
    assert examined("foo: 1\n" + INPUT).notes == ("line 1: foo: unknown field, not read",)


def test_an_unknown_field_counts_in_the_layers_of_the_phase_only():
    foreign = one("c", "Convolution", "x", f"include {{ phase: TRAIN }} {CONV} foo_param {{ }}")
    assert not texts(INPUT + foreign + one("d", "Convolution", "x", CONV))
    assert len(texts(INPUT + foreign, phase=0)) == 1


def test_an_unknown_field_of_old_layers_is_found_again():
    old = 'layers { name: "x" type: DUMMY_DATA top: "x" dummy_data_param { shape { dim: [1, 1, 4, 4] } } }\n'
    v1 = 'layers { name: "p" type: POOLING bottom: "x" top: "p" pooling_param { kernel_size: 2 foo: 1 } }\n'
    (problem,) = texts(old + v1)
    assert problem.startswith("a.prototxt:2: layer 'p' (Pooling): pooling_param.foo (unknown)")


def test_shapes_of_data_are_given():
    (problem,) = texts(DATA)
    assert "`shapes=..`" in problem
    found = examined(DATA + one("r", "ReLU", "x"), input_shapes={"x": (5, 3, 4, 4)})
    assert not found.problems
    assert found.shapes == {"x": (5, 3, 4, 4), "label": (5,), "r": (5, 3, 4, 4)}  # nobody reads the label


def test_a_label_that_is_read_needs_a_shape_too():
    (problem,) = texts(DATA + one("r", "ReLU", "label"), input_shapes={"x": (5, 3, 4, 4)})
    assert "'label'" in problem
    both = {"x": (5, 3, 4, 4), "label": (5, 1)}
    assert examined(DATA + one("r", "ReLU", "label"), input_shapes=both).shapes["r"] == (5, 1)


def test_a_shape_for_nobody_is_a_problem():
    assert texts(INPUT, input_shapes={"y": (1,)}) == ["a.prototxt: no input 'y' to give a shape; inputs are 'x'"]


@pytest.mark.parametrize("dim", [10**9, 2**31, 2**62])
def test_a_blob_too_large_for_caffe_is_refused(dim):
    (problem,) = texts(f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: [9, {dim}] }} }} }}')
    assert "at most 2147483647 elements" in problem


def shared(names: dict[str, tuple[str, ...]]) -> str:
    layers = [one(name, "Convolution", "x", f"{CONV} {params(*specs)}") for name, specs in names.items()]
    return INPUT + "".join(layers)


def params(*names: str) -> str:
    return " ".join(f'param {{ name: "{name}" }}' for name in names)


def weights_of_a_convolution(value: float) -> tuple[np.ndarray, ...]:
    return np.full((4, 3, 3, 3), value, np.float32), np.full(4, value, np.float32)


def test_of_shared_blobs_the_last_in_the_file_counts_for_all_layers():
    text = shared({"a": ("w",), "b": ("w", "other")})
    stored = {"a": weights_of_a_convolution(1), "b": weights_of_a_convolution(2)}
    a, b = build_model(parse_prototxt(text), stored).net.layers[1:]
    assert [blob.flat[0] for blob in (*a.blobs, *b.blobs)] == [2, 1, 2, 2]


def test_a_layer_whose_blobs_are_all_shared_need_not_be_in_the_file():
    text = shared({"a": ("w", "b"), "twin": ("w", "b"), "half": ("w", "")})
    found = examined(text, {"a": weights_of_a_convolution(1)})
    assert [blob.flat[0] for blob in found.net.layers[2].blobs] == [1, 1]
    (problem,) = found.problems
    assert problem.text == (
        "a.prototxt:4: layer 'half' (Convolution) has 1 blobs in the caffemodel (4x3x3x3); expected 2 (4x3x3x3, 4)"
    )


@pytest.mark.parametrize(
    ("kind", "meant"),
    [("relu", "ReLU"), ("INNERPRODUCT", "InnerProduct"), ("Convoluton", "Convolution"), ("CReLU", ""), ("Bn2", "")],
)
def test_misspelt_types(kind, meant):
    (problem,) = texts(INPUT + one("a", kind, "x"))
    assert problem.endswith(f"is not supported; did you mean {meant}?" if meant else "is not supported")


def test_data_that_no_layer_reads_need_no_shape():
    label = 'layer { name: "label" type: "Data" top: "label" }\n'
    silence = 'layer { name: "s" type: "Silence" bottom: "label" }\n'
    found = examined(INPUT + label + silence + one("r", "ReLU", "x"), input_shapes={"x": (5, 3, 4, 4)})
    assert not found.problems and found.shapes["label"] == (5,)
    (problem,) = texts(INPUT + label + one("r", "ReLU", "label"), input_shapes={"x": (5, 3, 4, 4)})
    assert "'label'" in problem


@pytest.mark.parametrize(
    ("param", "blobs", "is_odd"),
    [
        ("", ([0.5], [1.0], [0.0]), True),
        ("", ([0.0], [1.0], [0.0]), True),
        ("", ([0.5], [0.0], [0.0]), True),
        ("", ([0.0], [0.0], [0.0]), False),
        ("", ([0.5], [1.0], [1.0]), False),
        ("batch_norm_param { scale_bias: true }", ([0.5], [1.0], [0.0], [1.0], [0.0]), False),
    ],
)
def test_statistics_that_a_factor_of_0_takes_away_are_a_note(param, blobs, is_odd):
    text = INPUT + one("bn", "BatchNorm", "x", param)
    found = examine_model(parse_prototxt(text), {"bn": [np.array(b, np.float32) for b in blobs]}, {"x": (1, 1)})
    assert [n.split(",")[0] for n in found.notes if "factor" in n] == [
        "layer 'bn' (BatchNorm): its scale factor (the third blob) is 0"
    ] * is_odd


def test_bit_widths_of_other_tools_are_a_note():
    text = INPUT + one("r", "ConvolutionRistretto", "x", f"{CONV} quantization_param {{ bw_params: 4 fl_params: 3 }}")
    found = examine_model(parse_prototxt(text))
    assert found.notes == (
        "layer 'r' (ConvolutionRistretto): quantization_param has bit widths of another tool, which are not used",
    )
    assert not found.problems


def test_an_unknown_field_that_is_refused_is_told_once():
    two = one("u", "Upsample", "x", "upsample_param { scale: 2 shiny: 2 new: 3 }")
    found = examined(INPUT + two + one("v", "Power", "x", "strict: true"))
    (problem,) = found.problems
    assert problem.text.endswith(
        "upsample_param.shiny (unknown), upsample_param.new (unknown) are set, which calib8 does not implement; "
        "remove them if they have no effect"
    )
    assert found.notes == ("line 3: layer.strict: unknown field, not read",)
    (problem,) = examined(INPUT + two.replace("new: 3", "")).problems
    assert "shiny (unknown) is set, which calib8 does not implement; remove it if it has" in problem.text
