"""The overview of a network: sizes counted by hand, precision as the plan has it, problems instead of errors."""

from __future__ import annotations

import pytest

from calib8.analyze import overview_of
from calib8.lowering.examine import examine_model
from calib8.proto.text import parse_prototxt
from calib8.quantize import fp32_reasons, make_plan, observed_values

NET = """
name: "n"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 3, 8, 8] } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 group: 1 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "s" type: "Softmax" bottom: "p" top: "s" }
layer { name: "f" type: "Flatten" bottom: "s" top: "f" }
layer { name: "ip" type: "InnerProduct" bottom: "f" top: "ip" inner_product_param { num_output: 5 bias_term: false } }
"""


def overview(text: str, **options):
    return overview_of(examine_model(parse_prototxt(text, "a.prototxt"), **options))


def test_rows():
    found = overview(NET)
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["x", "c", "r", "p", "s", "f", "ip"]
    c = rows["c"]
    assert (c.type, c.line, c.bottoms, c.tops) == ("Convolution", 4, ("x",), ("c",))
    assert (c.bottom_shapes, c.top_shapes) == (((2, 3, 8, 8),), ((2, 4, 6, 6),))
    assert c.parameters == 4 * 3 * 3 * 3 + 4
    assert c.multiply_adds == 2 * 4 * 6 * 6 * (3 * 3 * 3)
    ip = rows["ip"]
    assert (ip.parameters, ip.multiply_adds) == (5 * 36, 2 * 5 * 36)
    assert (found.parameters, found.multiply_adds) == (112 + 180, c.multiply_adds + ip.multiply_adds)
    assert rows["r"].top_shapes == ((2, 4, 6, 6),) and rows["r"].bottoms == rows["r"].tops == ("c",)
    assert found.inputs == {"x": (2, 3, 8, 8)} and found.outputs == {"ip": (2, 5)}
    assert found.name == "n" and not found.problems


def test_precision_and_reasons():
    found = {row.name: (row.precision, row.reason) for row in overview(NET).rows}
    assert found == {
        "x": (None, ""),
        "c": ("INT8", ""),
        "r": ("INT8", ""),
        "p": ("INT8", ""),
        "s": ("FP32", "no integer rule"),
        "f": ("FP32", "hands on what FP32 layers gave"),
        "ip": ("INT8", ""),
    }


def test_problems_leave_the_rest_visible():
    text = NET + 'layer { name: "?" type: "Nonsense" bottom: "ip" top: "q" }\n'
    text += 'layer { name: "t" type: "TanH" bottom: "q" top: "t" }\n'
    text += 'layer { name: "u" type: "TanH" bottom: "none" top: "u" }\n'
    found = overview(text)
    assert len(found.problems) == 2
    rows = {row.name: row for row in found.rows}
    assert rows["c"].parameters == 112 and rows["c"].precision is None
    assert rows["?"].top_shapes == (None,) and rows["?"].parameters is None
    assert rows["t"].bottom_shapes == (None,) and rows["t"].multiply_adds is None
    assert found.outputs == {"t": None, "u": None}


def test_reasons_without_thresholds_are_the_plan_s(random_model):
    """Values that share one threshold whatever it is are seen to; all others count as different."""
    shared = 'layer { name: "y" type: "Split" bottom: "x" top: "y" top: "z" }\n'
    twin = (
        'layer {{ name: "{0}" type: "Convolution" bottom: "y" bottom: "{1}" top: "{0}1" top: "{0}2" '
        "convolution_param {{ num_output: 2 kernel_size: 1 }} }}\n"
    )
    both = twin.format("a", "z") + twin.format("b", "c")
    concat = 'layer { name: "j" type: "Concat" bottom: "a1" bottom: "a2" top: "j" }\n'
    text = NET.replace("num_output: 4 kernel_size: 3", "num_output: 3 kernel_size: 1") + shared + both + concat
    model = random_model(text)
    reasons = fp32_reasons(model)
    thresholds = {v: float(i) for i, v in enumerate(observed_values(model), start=20)}
    plan = make_plan(model, thresholds)
    assert {n: r is None for n, r in reasons.items()} == {
        n: p is not None for n, p in plan.forms.items() if n in reasons
    }
    assert reasons["a"] is None and reasons["b"] == "several bottoms with thresholds of their own share its weights"
    assert "x" not in reasons


@pytest.mark.shared
def test_real_models(shared):
    for folder in sorted((shared / "models").iterdir()):
        if folder.is_dir():
            prototxt = parse_prototxt((folder / "deploy.prototxt").read_text(), str(folder))
            found = overview_of(examine_model(prototxt))
            assert not found.problems and found.parameters > 50_000 and found.multiply_adds > 1_000_000
            sources = [row for row in found.rows if row.precision is None]
            assert [row.tops for row in sources] == [(blob,) for blob in found.inputs]
