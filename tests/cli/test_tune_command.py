"""`calib8 tune`: what it writes, that it goes on after a kill, the same bytes twice, and errors that leave nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calib8.cli.main import main
from calib8.export import read_plan
from calib8.lowering import build_model
from calib8.proto.caffemodel import read_caffemodel
from calib8.proto.text import read_prototxt
from calib8.quantize import integer_setup

ROOT = Path(__file__).resolve().parents[2]
IGNORED = "conv1,pool1,conv2a,conv2b,sum,relu_sum,conv3_3x3,pool3"
FEW = ["--samples", "4", "--held-out", "6", "-n", "20", "--repair", "none", "--ignore_layer_list", IGNORED]
RESULTS = [
    "bmnet_digits.calib8.json",
    "bmnet_digits_calibration_table",
    "bmnet_digits_calibration_table.pb2",
    "bmnet_digits_calibration_table.prototxt",
    "bmnet_digits_int8.caffemodel",
    "bmnet_digits_tuning.json",
    "bmnet_digits_tuning.progress",
    "report.log",
]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    copy = tmp_path_factory.mktemp("network") / "digits"
    shutil.copytree(ROOT / "examples" / "digits", copy, ignore=shutil.ignore_patterns("bmnet_*"))
    return copy


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "digits")


@pytest.fixture(scope="module")
def tuned(original):
    """The results of one run; nothing may change them."""
    assert main(["tune", "digits", str(original), "--output", str(original.parent / "out"), *FEW]) == 0
    return original.parent / "out"


def tune(folder, *options):
    return main(["tune", "digits", str(folder), *FEW, *options])


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def contents(folder):
    """Of all results; the record of the search has times in it."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".progress"}


def losses(record):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in record.splitlines()]


def test_a_complete_set_of_files(tuned):
    assert names(tuned) == RESULTS
    report = json.loads((tuned / "bmnet_digits_tuning.json").read_text())
    assert report["samples"] == {"tuned": 4, "held_out": 6} and report["finished"]
    before, after = report["loss"]["before"], report["loss"]["after"]
    assert after["tuned"] < before["tuned"] and after["held_out"] <= before["held_out"]
    prototxt = read_prototxt(ROOT / "examples" / "digits" / "deploy.prototxt")
    weights = read_caffemodel(ROOT / "examples" / "digits" / "custom.caffemodel")
    model = build_model(prototxt, weights, {"data": (4, 1, 8, 8)})
    table, integers = tuned / "bmnet_digits_calibration_table.pb2", tuned / "bmnet_digits_int8.caffemodel"
    plan = read_plan(model, table, integers)
    for row in report["thresholds"]:
        tops = model.net.layer_by_name[row["layer"]].tops
        assert any(plan.thresholds[top] == pytest.approx(row["after"], rel=1e-6) for top in tops)
    lines = [line.split(" ") for line in (tuned / "report.log").read_text().splitlines()]
    assert [name for name, _ in lines][:2] == ["scale1", "relu1"] and all(float(number) >= 0 for _, number in lines)


def test_the_default_folder_and_both_numbers(folder, capsys):
    assert tune(folder, "--minutes", "5") == 0
    out, err = capsys.readouterr()
    assert err == "" and names(folder / "tuned") == RESULTS
    assert "on 4 images tuned: " in out and "on 6 images held out: " in out
    assert out.splitlines()[0].split() == ["layer", "threshold", "tuned", "change"]


@pytest.mark.parametrize("options", [["--threads", "1"], ["--threads", "3", "--budget", "0"]])
def test_the_same_bytes_whatever_the_threads(tuned, folder, tmp_path, options):
    assert tune(folder, "--output", str(tmp_path / "new" / "out"), *options) == 0
    assert contents(tmp_path / "new" / "out") == contents(tuned)


def test_begins_with_the_files_of_the_folder(folder, tmp_path, capsys):
    assert main(["calibrate", "digits", str(folder), "-n", "20", "--method", "max", "--repair", "none"]) == 0
    assert tune(folder, "--search", "none", "--max-drop", "1") == 0
    assert tune(folder, "--search", "original", "--ignore_layer_list", "conv1, ip") == 0
    report = json.loads((folder / "tuned" / "bmnet_digits_tuning.json").read_text())
    changed = {row["layer"] for row in report["thresholds"]}
    assert changed and changed.isdisjoint({"conv1", "ip"})
    assert "conv1" not in (folder / "tuned" / "report.log").read_text()


RUN = "import sys; from calib8.cli.main import main; sys.exit(main())"
SLOW = """
import time
def metric(fp32, int8):
    time.sleep(0.004)
    return -float(((fp32["prob"] - int8["prob"]) ** 2).mean())
"""


def test_killed_and_begun_again(folder, tmp_path, monkeypatch, caplog):
    """Every recorded loss is used again, and the result is that of a run that nobody killed."""
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    command = ["tune", "digits", str(folder), *FEW, "--metric", "slow:metric"]
    assert main([*command, "--output", "whole"]) == 0
    started = subprocess.Popen([sys.executable, "-c", RUN, *command, "--output", "killed"])
    record = tmp_path / "killed" / "bmnet_digits_tuning.progress"
    give_up = time.monotonic() + 60
    while not (record.exists() and record.read_bytes().count(b"\n") > 20):
        assert started.poll() is None and time.monotonic() < give_up
        time.sleep(0.005)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    at_kill = record.read_bytes()
    assert names(tmp_path / "killed") == [record.name]  # nothing is half written
    assert main([*command, "--output", "killed"]) == 0
    assert "goes on behind" in caplog.text
    kept = at_kill[: at_kill.rindex(b"\n") + 1]
    assert record.read_bytes().startswith(kept)
    assert losses(record.read_bytes()) == losses((tmp_path / "whole" / record.name).read_bytes())
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_out_of_time_and_on(tuned, folder, capsys):
    assert tune(folder, "--minutes", "0.000001") == 0
    assert "the same command with more --minutes goes on from here" in capsys.readouterr().out
    assert not json.loads((folder / "tuned" / "bmnet_digits_tuning.json").read_text())["finished"]
    assert tune(folder) == 0
    assert contents(folder / "tuned") == contents(tuned)


def test_parts_of_the_original(folder, tmp_path, capsys):
    assert tune(folder, "--part", "test", "--layer", "relu2a", "--output", str(tmp_path / "o")) == 0
    assert names(tmp_path / "o") == ["bmnet_digits.calib8.json", "report.log"]
    layer, before = (tmp_path / "o" / "report.log").read_text().split()
    assert layer == "relu2a"
    assert tune(folder, "--part", "tune", "--layer", "relu2a", "--difference", before, "--output", str(tmp_path)) == 0
    after = float((tmp_path / "report.log").read_text().split()[1])
    (step,) = json.loads((tmp_path / "bmnet_digits_tuning.json").read_text())["accepted"]
    assert step["before"] == float(before) > after
    assert tune(folder, "--part", "test", "--output", str(tmp_path / "o")) == 0
    assert f"relu2a {before}\n" in (tmp_path / "o" / "report.log").read_text()


def test_mixed_precision(folder, capsys):
    options = ["--search", "none", "--metric", "difference", "--drop-metric", "difference", "--max-drop", "0.01"]
    assert tune(folder, *options) == 0
    out = capsys.readouterr().out
    assert "kept in FP32" in out and "buys" in out
    report = json.loads((folder / "tuned" / "bmnet_digits_mixed.json").read_text())
    assert report["drop"]["all_in_int8"] > 0.01 >= report["drop"]["proposed"] and report["kept"]
    assert all(kept["buys"] > 0 for kept in report["kept"])
    text = (folder / "tuned" / "bmnet_digits_int8_layer.txt").read_text().strip()
    in_fp32 = (folder / "tuned" / "bmnet_digits_fp32_layers.txt").read_text().split()
    assert main(["calibrate", "digits", str(folder), "-n", "20"]) == 0
    prototxt = read_prototxt(folder / "deploy.prototxt")
    model = build_model(prototxt, read_caffemodel(folder / "custom.caffemodel"), {"data": (4, 1, 8, 8)})
    table, weights = folder / "bmnet_digits_calibration_table.pb2", folder / "bmnet_digits_int8.caffemodel"
    setup = integer_setup(model, read_plan(model, table, weights), text)
    assert setup.int8_layers == set(text.split(",")) and setup.int8_layers.isdisjoint(in_fp32)
    assert {name for kept in report["kept"] for name in kept["layers"]} <= set(in_fp32)


def test_nothing_is_left_in_int8(folder, capsys):
    """An empty string would mean the contrary."""
    assert tune(folder, "--search", "none", "--drop-metric", "difference", "--max-drop", "0") == 0
    assert "nothing is left in INT8" in capsys.readouterr().out
    assert (folder / "tuned" / "bmnet_digits_int8_layer.txt").read_text() == "data\n"


def test_a_drop_of_labels(folder, tmp_path):
    (tmp_path / "labels.txt").write_text("3\n" * 10)
    options = ["--search", "none", "--labels", str(tmp_path / "labels.txt"), "--max-drop", "0"]
    assert tune(folder, *options) == 0
    assert json.loads((folder / "tuned" / "bmnet_digits_mixed.json").read_text())["metric"] == "top1"


def test_what_may_drop_where_no_output_holds_classes(folder, capsys):
    path = folder / "deploy.prototxt"
    text = path.read_text()
    start = text.rindex("layer {")
    boxes = (
        'layer { name: "prob" type: "Reshape" bottom: "ip" top: "prob" reshape_param { shape { dim: [0, 1, 10] } } }'
    )
    path.write_text(text[:start] + boxes)
    assert main(["calibrate", "digits", str(folder), "-n", "20", "--method", "max", "--repair", "none"]) == 0
    options = ["--search", "none", "--max-drop", "1"]
    assert tune(folder, *options) == 1
    assert "no output holds classes" in capsys.readouterr().err
    assert not (folder / "tuned").exists()
    assert tune(folder, *options, "--drop-metric", "difference") == 0
    assert tune(folder, *options, "--drop-metric", "top1") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "--minutes is 0.0"),
        (["--minutes", "nan"], "--minutes is nan"),
        (["--samples", "0"], "--samples is 0"),
        (["--samples", "9999"], "9999 images to tune on and 6 held out are more than the 150"),
        (["--held-out", "-1"], "--held-out is -1"),
        (["--budget", "-1"], "--budget is -1"),
        (["--max-drop", "-1"], "--max-drop is -1.0"),
        (["--search", "none"], "leaves nothing to do"),
        (["--drop-metric", "top1"], "--drop-metric belongs to --max-drop"),
        (["--part", "tune"], "--part tune needs --layer"),
        (["--part", "test", "--layer", "nobody"], "there is no layer 'nobody'"),
        (["--part", "test", "--layer", "bn1"], "layer 'bn1' has no threshold to tune"),
        (["--layer", "ip"], "--layer and --difference belong to"),
        (["--part", "tune", "--layer", "ip", "--difference", "nan"], "--difference is nan"),
        (["--ignore_layer_list", "conv1,nobody"], "there is no layer 'nobody'"),
        (["--labels", "l.txt"], "--labels are not read by --metric difference"),
        (["--metric", "top1", "--anchors", "1,2"], "--anchors are not read by --metric top1"),
        (["--metric", "top1", "--labels", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--metric", "nomodule:f"], "no module 'nomodule'"),
        (["--metric", "best"], "metric 'best' has no built-in meaning"),
        (["--metric", "yolo"], "metric yolo needs outputs"),
        (["--calibration_proto", "nowhere.pb2"], "nowhere.pb2"),
        (["--model", "nowhere.caffemodel"], "nowhere.caffemodel"),
        (["--images", "nowhere.txt"], "say --size (height x width)"),
        (["--image_params", "{}"], "give the images, too"),
    ],
)
def test_errors_leave_nothing(folder, options, message, capsys):
    before = names(folder)
    assert tune(folder, *options) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err and "Traceback" not in err
    assert names(folder) == before


def test_no_such_folder(folder, capsys):
    assert main(["tune", "digits", str(folder / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_an_output_that_is_a_file(folder, capsys):
    assert tune(folder, "--output", str(folder / "deploy.prototxt")) == 1
    assert "cannot be made a folder" in capsys.readouterr().err


def test_usage(folder):
    with pytest.raises(SystemExit) as exit_code:
        tune(folder, "--search", "best")
    assert exit_code.value.code == 2
