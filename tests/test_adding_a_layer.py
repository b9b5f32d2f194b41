"""The example of docs/adding-a-layer.md is the file that it says it is, and a type that is added so works at once."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from calib8.engine import run_float
from calib8.errors import UnsupportedError
from calib8.layer_kit import base
from calib8.lowering import build_model
from calib8.proto.text import parse_prototxt

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "adding-a-layer.md"
NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [2, 3] } } }
layer { name: "l" type: "DocumentedLayer" bottom: "x" top: "y" hard_sigmoid_param { alpha: 0.5 %s } }
"""


def example() -> tuple[str, str]:
    """The name of the file in the text, and the code."""
    found = re.search(
        r'This is all of `(\w+\.py)`:\n\n```python title="\1"\n(.*?)```\n', DOCUMENT.read_text(), re.DOTALL
    )
    assert found
    return found[1], found[2]


def test_the_example_is_the_file():
    name, code = example()
    assert (ROOT / "src" / "calib8" / "layers" / name).read_text() == code


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The example as a new type in a module of its own."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    path = tmp_path / "documented_layer.py"
    path.write_text(example()[1].replace('types = ("HardSigmoid",)', 'types = ("DocumentedLayer",)'))
    spec = importlib.util.spec_from_file_location("documented_layer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def test_a_type_is_unknown_before_and_runs_when_it_is_added(request):
    with pytest.raises(UnsupportedError, match="not supported"):
        build_model(parse_prototxt(NET % ""))
    request.getfixturevalue("added")
    model = build_model(parse_prototxt(NET % "beta: 0.25"))
    x = np.linspace(-3, 3, 6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_allclose(run_float(model, {"x": x})["y"], np.clip(0.5 * x + 0.25, 0, 1), rtol=1e-6)


def test_its_unknown_fields_are_refused_without_its_doing(added):
    with pytest.raises(UnsupportedError, match=r"hard_sigmoid_param\.gamma \(unknown\) is set"):
        build_model(parse_prototxt(NET % "gamma: 1"))


def test_every_file_that_the_document_names_exists():
    text = DOCUMENT.read_text()
    named = re.findall(r"`((?:src|tests|bench)/[\w/]+\.\w+)`", text)
    named += [f"src/calib8/layers/{x}" for x in re.findall(r"`(\w+\.py)`", text) if x != "arithmetic.py"]
    assert len(named) >= 4
    for path in named:
        assert (ROOT / path).exists(), path
