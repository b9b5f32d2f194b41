"""A metric of the user's: where it is found, what it is called with, and every way in which it can fail."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.analyze.user_metric import user_metric
from calib8.errors import OptionError

TEXT = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2] } } }
layer { name: "a" type: "TanH" bottom: "x" top: "y" }
layer { name: "b" type: "ReLU" bottom: "y" top: "y" }
"""
OUTPUTS = {"y": np.ones((2, 2), np.float32)}


@pytest.fixture
def model(random_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return random_model(TEXT)


def test_it_gets_blobs_by_name_and_labels_where_there_are_some(model, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def plain(fp32, int8):\n    return float((fp32['y'] - int8['y']).sum())\n"
        "def labelled(fp32, int8, labels):\n    return labels.sum() + int8['y'].sum()\n"
    )
    plain, _ = user_metric("mine:plain", model)
    assert plain(OUTPUTS, {"y": np.zeros((2, 2), np.float32)}, None) == 4.0
    labelled, _ = user_metric("mine:labelled", model)
    assert labelled(OUTPUTS, OUTPUTS, np.array([1, 2])) == 7.0


def test_modules_on_pythonpath_and_helpers_beside(model, tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "far.py").write_text("import near\ndef metric(fp32, int8): return near.VALUE\n")
    (library / "near.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(str(library))
    found, _ = user_metric("far:metric", model)
    assert found(OUTPUTS, OUTPUTS, None) == 3.0


def test_the_digest_follows_the_code(model, tmp_path):
    (tmp_path / "m1.py").write_text("def metric(fp32, int8): return 1\n")
    (tmp_path / "m2.py").write_text("def metric(fp32, int8): return 2\n")
    assert (
        user_metric("m1:metric", model)[1] == user_metric("m1:metric", model)[1] != user_metric("m2:metric", model)[1]
    )


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (None, "nowhere:metric", "no module 'nowhere'"),
        (None, "metric", "no built-in meaning"),
        (None, ":metric", "no built-in meaning"),
        (None, "mine:a b", "no built-in meaning"),
        ("x = 1", "mine:metric", "no function 'metric'"),
        ("metric = 1", "mine:metric", "no function 'metric'"),
        ("import missing_helper", "mine:metric", "missing_helper"),
        ("def metric(", "mine:metric", "SyntaxError"),
        ("1 / 0", "mine:metric", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_imported(model, tmp_path, code, name, message):
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(OptionError, match=message) as error:
        user_metric(name, model)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return fp32['no']", "KeyError: 'no' at .*mine.py:2"),
        ("return 'text'", "could not convert"),
        ("return None", "TypeError"),
        ("raise SystemExit(0)", "raised SystemExit: 0"),
        ("raise type('Odd', (BaseException,), {'__str__': lambda self: 1})()", "raised Odd: .its text cannot be made"),
    ],
)
def test_what_fails_when_it_is_called(model, tmp_path, body, message):
    (tmp_path / "mine.py").write_text(f"def metric(fp32, int8):\n    {body}\n")
    metric, _ = user_metric("mine:metric", model)
    with pytest.raises(OptionError, match=message):
        metric(OUTPUTS, OUTPUTS, None)
