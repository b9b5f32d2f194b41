"""`calib8 evaluate`: figures against counting by hand, several tables, JSON, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from calib8.cli.main import main
from calib8.engine import run_float
from calib8.workflow import open_network
from calib8.workflow.samples import runs_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """The digits, with the labels of their evaluation set."""
    made = shutil.copytree(ROOT / "examples" / "digits", tmp_path / "d", ignore=shutil.ignore_patterns("bmnet_*"))
    text = (made / "deploy.prototxt").read_text()
    text = text.replace('top: "data"', 'top: "data" top: "label"', 1).replace("calibration_lmdb", "evaluation_lmdb")
    (made / "deploy.prototxt").write_text(text)
    return made


def evaluate(folder, *options):
    return main(["evaluate", "digits", str(folder), "--threads", "1", *options])


def test_figures_are_those_of_a_count(folder, capsys):
    assert evaluate(folder, "--samples", "40", "-n", "20", "--method", "mse", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["kind"], len(found["tables"])) == (40, "classes", 1)
    first, fifth = found["tables"][0]["measures"]
    network = open_network(folder / "deploy.prototxt", folder / "custom.caffemodel")
    labels = np.concatenate([b["label"] for b in network.samples.batches()])[:40]
    model = network.of_one_sample
    scores = np.concatenate([run_float(model, inputs, ["prob"])["prob"] for inputs in runs_of(network, 40)])
    assert first["fp32"] == pytest.approx(np.mean(scores.argmax(1) == labels))
    ranks = [list(np.argsort(-row, kind="stable")).index(int(label)) for row, label in zip(scores, labels, strict=True)]
    assert fifth["fp32"] == pytest.approx(np.mean(np.array(ranks) < 5))
    assert first["difference"] == pytest.approx(first["int8"] - first["fp32"])
    assert first["low"] <= first["difference"] <= first["high"]


def test_tables_side_by_side(folder, capsys):
    for method in ("max", "mse"):
        assert main(["calibrate", method, str(folder), "-n", "20", "--method", method, "--no-verdict"]) == 0
    capsys.readouterr()
    tables = [str(folder / f"bmnet_{m}_calibration_table.pb2") for m in ("max", "mse")]
    assert evaluate(folder, "--samples", "20", "--table", tables[0], "--table", tables[1]) == 0
    out = capsys.readouterr().out
    assert [line.split(",")[0] for line in out.splitlines() if ", 20 images" in line] == tables
    assert out.count("top-1") == 2 and "95 of 100" in out


def test_only_some_layers(folder, capsys):
    assert evaluate(folder, "--samples", "10", "-n", "20", "--int8-layers", "ip", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tables"][0]["outputs"]["snr_db"] > 20
    assert evaluate(folder, "--samples", "10", "-n", "20", "--int8-layers", "no,prob") == 1
    error = capsys.readouterr().err
    assert "no layer 'no'" in error and "'prob' runs in FP32" in error


def test_truth_that_does_not_fit(folder, capsys, tmp_path):
    for options, words in (
        (["--boxes", str(tmp_path)], "none of them fits"),
        (["--boxes", "x", "--maps", "y"], "--boxes and --maps"),
        (["--labels", str(tmp_path / "none")], "none"),
        (["--output", str(tmp_path / "none")], "the record would go there"),
    ):
        assert evaluate(folder, "--samples", "10", *options) == 1
        assert words in capsys.readouterr().err


def test_a_metric_of_the_users(folder, capsys, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def best(x, y, labels): return float((y['prob'].argmax(1) == 1).mean())\n")
    monkeypatch.chdir(tmp_path)
    assert evaluate(folder, "--samples", "10", "-n", "20", "--metric", "mine:best", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "mine:best" and found["loss"] == pytest.approx(found["fp32"] - found["int8"])
