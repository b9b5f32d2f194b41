"""`calib8 sensitivity`: the table, the files beside it, metrics of the user's, and errors that leave nothing."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--samples", "4", "-n", "20"]
BASE = "bmnet_digits_sensitivity"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(ROOT / "examples" / "digits", tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))


def sensitivity(folder, *options):
    return main(["sensitivity", "digits", str(folder), *FEW, *options])


def made(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("bmnet"))


def test_table_json_and_csv_say_the_same(folder, capsys):
    assert sensitivity(folder, "--no-picture") == 0
    out, err = capsys.readouterr()
    assert err == "" and made(folder) == ["bmnet_digits.calib8.json", f"{BASE}.csv", f"{BASE}.json"]
    report = json.loads((folder / f"{BASE}.json").read_text())
    assert report["samples"] == 4 and report["thresholds"] == "mse/kl/kl-fine/percentile, 20 images, standard repair"
    units = report["units"]
    assert [unit["layers"] for unit in units][:2] == [["conv1"], ["bn1", "scale1"]]
    ranked = [",".join(u["layers"]) for u in sorted(units, key=lambda u: -u["alone"]["loss"])]
    header, *rows = out[: out.index("\n\n")].splitlines()
    assert header.split()[:3] == ["layers", "type", "loss"]
    assert [row.split()[0] for row in rows] == ranked
    lines = list(csv.DictReader((folder / f"{BASE}.csv").read_text().splitlines()))
    assert [line["layers"] for line in lines] == ranked
    for mode in ("alone", "cumulative", "without"):
        for where in ("outputs", "own_top"):
            assert {"cosine", "snr_db", "mse", "top1"} == set(units[0][mode][where])


def test_no_top_1_of_outputs_that_are_no_classes(folder, capsys):
    """Two layers of numbers at the end: what they say, nobody knows."""
    prototxt = folder / "deploy.prototxt"
    extra = 'layer { name: "half" type: "Power" bottom: "prob" top: "half" power_param { scale: 0.5 } }\n'
    prototxt.write_text(prototxt.read_text() + extra + extra.replace("half", "third"))
    assert sensitivity(folder, "--no-picture") == 0
    out = capsys.readouterr().out
    assert "top-1" not in out and "SNR" in out
    report = json.loads((folder / f"{BASE}.json").read_text())
    assert report["int8"]["outputs"]["top1"] is None
    assert sensitivity(folder, "--no-picture", "--metric", "top1") == 0
    assert "top-1 as in FP32" in capsys.readouterr().out


def test_a_picture(folder):
    pytest.importorskip("matplotlib")
    assert sensitivity(folder) == 0
    assert (folder / f"{BASE}.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_the_same_bytes_whatever_the_threads(folder, tmp_path):
    for number, options in enumerate((["--threads", "1"], ["--threads", "2", "--budget", "0"])):
        (tmp_path / str(number)).mkdir()
        assert sensitivity(folder, "--no-picture", "--output", str(tmp_path / str(number)), *options) == 0
    for name in (f"{BASE}.csv", f"{BASE}.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_files_of_the_folder_are_what_is_judged(folder):
    assert main(["calibrate", "digits", str(folder), "-n", "20", "--method", "max"]) == 0
    assert sensitivity(folder, "--no-picture") == 0
    found = json.loads((folder / f"{BASE}.json").read_text())
    assert found["thresholds"].endswith("bmnet_digits_calibration_table.pb2")
    assert sensitivity(folder, "--no-picture", "--method", "max") == 0
    anew = json.loads((folder / f"{BASE}.json").read_text())
    assert anew["thresholds"] == "max, 20 images, standard repair" and anew["units"] == found["units"]


METRIC = """
def labelled(fp32, int8, labels):
    assert set(fp32) == {"prob"} and fp32["prob"].shape == (4, 10) and len(labels) == 4
    return -abs(fp32["prob"] - int8["prob"]).max() + 0 * labels.sum()

def wrong(fp32, int8):
    return fp32["nothing"]
"""


def test_a_metric_of_the_user_s(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(METRIC)
    (tmp_path / "labels.txt").write_text("1\n2\n3\n4\n")
    monkeypatch.chdir(tmp_path)
    labels = ["--labels", str(tmp_path / "labels.txt")]
    assert sensitivity(folder, "--no-picture", "--metric", "mine:labelled", *labels) == 0
    report = json.loads((folder / f"{BASE}.json").read_text())
    assert report["metric"] == "mine:labelled" and report["int8"]["loss"] > 0
    before = made(folder)
    capsys.readouterr()
    assert sensitivity(folder, "--no-picture", "--metric", "mine:wrong") == 1
    err = capsys.readouterr().err
    assert "metric mine:wrong" in err and "KeyError" in err and len(err.splitlines()) == 1
    assert made(folder) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0"], "--samples is 0"),
        (["--samples", "9999"], "--samples asks for 9999 images, and the data have 150"),
        (["--output", "nowhere"], "nowhere: no such folder"),
        (["--budget", "-1"], "--budget is -1"),
        (["--labels", "l.txt"], "--labels are not read by --metric difference"),
        (["--anchors", "1,2"], "--anchors are not read by --metric difference"),
        (["--metric", "nomodule:f"], "no module 'nomodule'"),
        (["--metric", "os:nothing"], "module 'os' has no function 'nothing'"),
        (["--thresholds", "nowhere"], "nowhere: cannot be read"),
        (["--calibration_proto", "nowhere.pb2"], "nowhere.pb2"),
        (["--data_list", "nowhere.txt", "--input", "nothing"], "which input takes the images"),
    ],
)
def test_errors_leave_nothing(folder, options, message, capsys):
    assert sensitivity(folder, *options) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
    assert made(folder) == []


def test_without_matplotlib(folder, monkeypatch, caplog):
    monkeypatch.setattr("calib8.cli.sensitivity.importlib.util.find_spec", lambda name: None)
    assert sensitivity(folder) == 0
    assert "there is no matplotlib" in caplog.text and f"{BASE}.png" not in made(folder)


@pytest.mark.parametrize(("there", "judged"), [(12, 12), (30, 20)])
def test_as_many_samples_as_there_are_up_to_twenty(tmp_path, there, judged):
    (tmp_path / "p").mkdir()
    rng = np.random.default_rng(0)
    for i in range(there):
        cv2.imwrite(str(tmp_path / f"p/{i}.png"), rng.integers(0, 256, (8, 8), np.uint8))
    folder = shutil.copytree(
        ROOT / "examples" / "digits", tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*")
    )
    options = ["--images", str(tmp_path / "p"), "--size", "8x8", "--color", "gray", "--no-picture"]
    assert main(["sensitivity", "digits", str(folder), *options]) == 0
    assert json.loads((folder / f"{BASE}.json").read_text())["samples"] == judged
