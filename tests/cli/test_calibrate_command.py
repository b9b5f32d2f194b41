"""`calib8 calibrate`: what it prints where, its exit codes, and that failures leave no files."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import caffe
from calib8.analyze import verdict
from calib8.cli import calibrate
from calib8.cli.main import main
from calib8.cli.progress import ProgressLine, progress_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "digits"
    shutil.copytree(ROOT / "examples" / "digits", copy, ignore=shutil.ignore_patterns("bmnet_*"))
    return copy


@pytest.fixture
def with_input(folder):
    """The same network with a plain Input, and a list of images."""
    prototxt = folder / "deploy.prototxt"
    text = prototxt.read_text()
    begin, end = text.index("layer {"), text.index("# 1x8x8")
    data = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [4, 1, 8, 8] } } }\n'
    prototxt.write_text(text[:begin] + data + text[end:])
    rng = np.random.default_rng(0)
    for index in range(6):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (8, 8), np.uint8))
    (folder / "list.txt").write_text("".join(f"{index}.png\n" for index in range(6)))
    return folder


def made(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("bmnet"))


def test_results_go_to_stdout_and_nothing_to_stderr(folder, capsys):
    assert main(["calibrate", "digits", str(folder), "-n", "20", "--method", "max"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    out, _, judged = out.partition("INT8 against FP32, ")
    images, figures, sentence = judged.splitlines()
    assert images == "2 other images than those of the calibration:"
    assert figures.startswith("  prob: ") and " dB, cosine " in figures
    assert figures.endswith("same best class 2 of 2 (22% or more of all, 95% sure)")
    assert sentence.startswith("good: ")
    assert [Path(line).name for line in out.splitlines()[-4:]] == [
        "bmnet_digits_int8.caffemodel",
        "bmnet_digits_calibration_table",
        "bmnet_digits_calibration_table.pb2",
        "bmnet_digits_calibration_table.prototxt",
    ]
    header, *rows = out.splitlines()[:-4]
    assert header.split() == ["layer", "type", "threshold", "max|x|", "clipped", "rshift"]
    assert any(row.split()[:2] == ["conv1", "Convolution"] for row in rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--repair", "none"],
            "nothing was repaired: leave out --repair none, or say --repair thorough in its place; ",
        ),
        (["--original"], "nothing was repaired: leave out --original, or say --repair thorough in its place; "),
        (
            ["--without", "thresholds", "--without", "channel-units"],
            "parts of the repair were left out: leave out --without thresholds --without channel-units, or say ",
        ),
        (
            ["--repair", "thorough", "--without", "output-noise"],
            "parts of the repair were left out: leave out --without output-noise; INT8 may come nearer to FP32",
        ),
        ([], "--repair thorough goes on from here"),
        (["--repair", "thorough"], None),
    ],
)
def test_a_repair_that_may_bring_it_back_is_named(folder, capsys, monkeypatch, options, said):
    def last_line(least):
        monkeypatch.setattr(verdict, "_GOOD_DB", least)
        assert main(["calibrate", "digits", str(folder), "-n", "10", "--threads", "1", *options]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    assert last_line(1000.0).startswith("fair: " if said is None else f"  -> {said}")
    assert last_line(0.0).startswith("good: ")


def test_thresholds_that_are_given_are_not_repaired_thoroughly(folder, tmp_path, capsys, monkeypatch):
    assert main(["calibrate", "digits", str(folder), "-n", "10"]) == 0
    monkeypatch.setattr(verdict, "_GOOD_DB", 1000.0)
    table = folder / "bmnet_digits_calibration_table"
    command = ["calibrate", "digits", str(folder), "-n", "10", "--thresholds", str(table), "--output", str(tmp_path)]
    capsys.readouterr()
    assert main([*command, "--repair", "none"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "  -> nothing was repaired: leave out --repair none; INT8 may come nearer to FP32"
    )


def test_no_verdict(folder, capsys):
    assert main(["calibrate", "digits", str(folder), "-n", "20", "--no-verdict"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("bmnet_digits_calibration_table.prototxt")


def test_a_bad_verdict_says_what_to_do_in_options(folder, capsys):
    command = ["calibrate", "digits", str(folder), "-n", "20", "--method", "percentile", "--percent", "80"]
    assert main([*command, "--without", "refitted-weights"]) == 0  # which would make up for it
    assert capsys.readouterr().out.splitlines()[-2].startswith("bad: ")


BOTH = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 1, 32, 32] } } }
layer { name: "corners" type: "Convolution" bottom: "data" top: "corners"
        convolution_param { num_output: 4 kernel_size: 1 stride: 4 weight_filler { type: "constant" value: 300 } } }
layer { name: "scores" type: "Convolution" bottom: "data" top: "scores"
        convolution_param { num_output: 2 kernel_size: 1 stride: 4 weight_filler { type: "constant" value: 0.9 } } }
layer { name: "both" type: "Concat" bottom: "corners" bottom: "scores" top: "both" }
"""


def test_numbers_that_a_step_swallows_are_no_good_network(tmp_path, capsys):
    """44 dB and no score left: scores of 0 to 0.9 share the step of corners of 0 to 300."""
    (tmp_path / "deploy.prototxt").write_text(BOTH)
    caffe.Net(str(tmp_path / "deploy.prototxt"), caffe.TEST).save(str(tmp_path / "custom.caffemodel"))
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32), np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), pixels)
    command = ["calibrate", "two", str(tmp_path), "--images", str(tmp_path), "--scale", "0.0039", "--color", "gray"]
    assert main(command) == 0
    figures, sentence = capsys.readouterr().out.splitlines()[-2:]
    assert float(figures.split()[1]) > 30 and "2 of 6 channels lost (4 to 5:" in figures
    assert sentence.startswith("bad: ") and "layer 'both'" in sentence and "--concat-quantize" in sentence


def test_much_clipping_is_said(folder, capsys, caplog):
    options = ["--method", "percentile", "--percent", "90", "--no-verdict", "--repair", "none"]
    assert main(["calibrate", "digits", str(folder), "-n", "20", *options]) == 0
    assert "clip more than 1 %" in caplog.text
    assert caplog.messages[-1].endswith("try a larger --percent, or --method mse")
    out = capsys.readouterr().out
    shares = [float(cell.rstrip("%")) for row in out.splitlines() for cell in row.split() if cell.endswith("%")]
    assert shares and max(shares) == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--repair", "none"], "try --method mse"),
        ([], ""),
        (["--original"], "try --method mse"),
        (["--method", "mse"], ""),
        (["--method", "max"], ""),
    ],
)
def test_what_is_in_use_is_not_advised(folder, caplog, monkeypatch, options, advice):
    monkeypatch.setattr(calibrate, "_MUCH_CLIPPED", -1.0)  # whatever is clipped is much
    assert main(["calibrate", "digits", str(folder), "-n", "20", *options]) == 0
    said = [m.rpartition("; ")[2] for m in caplog.messages if "clip more than" in m]
    assert said == [advice] * bool(advice)


def test_clipping_of_blobs_in_fp32_is_not_said(folder, caplog, monkeypatch):
    monkeypatch.setattr(calibrate, "_MUCH_CLIPPED", -1.0)
    prototxt = folder / "deploy.prototxt"
    prototxt.write_text(prototxt.read_text() + 'layer { name: "e" type: "Exp" bottom: "prob" top: "e" }\n')
    command = ["calibrate", "digits", str(folder), "-n", "20", "--repair", "none"]
    assert main(command) == 0
    (line,) = [m for m in caplog.messages if "clip more than" in m]
    count = int(line.partition(" blobs clip")[0].rpartition(" ")[2])
    caplog.clear()
    prototxt.write_text(prototxt.read_text() + 'layer { name: "f" type: "Exp" bottom: "e" top: "f" }\n')
    assert main(command) == 0
    assert f"the thresholds of {count} blobs clip" in caplog.text


def test_output_folder_and_options(folder, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    options = "--method percentile --percent 99.9 --ignore-zeros --bins 512 --concat-quantize --two-pass --memory_opt"
    command = ["calibrate", "digits", str(folder), "-n", "20", "--output", str(output), "--threads", "1"]
    assert main([*command, *options.split()]) == 0
    assert len(made(output)) == 5 and not made(folder)


def test_it_takes_100_images(folder):
    """Of the 200 digits."""
    assert main(["calibrate", "digits", str(folder), *PLAIN]) == 0
    assert used(folder) == 100


def test_it_takes_all_images_where_there_are_fewer(with_input):
    assert main(["calibrate", "digits", str(with_input), "--images", str(with_input / "list.txt"), *PLAIN]) == 0
    assert used(with_input) == 6


PLAIN = ("--repair", "none", "--no-verdict")


def used(folder):
    """How many images the record says that a calibration has taken."""
    record = (folder / "bmnet_digits.calib8.json").read_text()
    return int(re.search(r'"--iteration=(\d+)"', record)[1])


def test_images(with_input, capsys):
    command = ["calibrate", "d", str(with_input), "-n", "6", "--images", str(with_input / "list.txt")]
    assert main([*command, "--mean", "128", "--scale", "0.0078125"]) == 0
    assert len(made(with_input)) == 5


def test_other_inputs_take_values(with_input, capsys):
    shape = "input_param { shape { dim: [1, 2] } }"
    with (with_input / "deploy.prototxt").open("a") as file:
        file.write(f'layer {{ name: "info" type: "Input" top: "info" {shape} }}\n')
        file.write('layer { name: "neg" type: "Power" bottom: "info" top: "neg" power_param { scale: -1 } }\n')
    command = [
        "calibrate",
        "d",
        str(with_input),
        "-n",
        "4",
        "--images",
        str(with_input / "list.txt"),
        "--input",
        "data",
    ]
    assert main(command) == 1
    assert "also needs 'info'" in capsys.readouterr().err
    for value, message in (("info=1,2,3", "3 numbers for an input of the shape 1x2"), ("x=1", "'info'")):
        assert main([*command, "--value", value]) == 1
        assert message in capsys.readouterr().err
    assert main([*command, "--method", "max", "--no-verdict", "--value", "info=3,-5"]) == 0
    rows = {line.split()[0]: line.split()[2] for line in capsys.readouterr().out.splitlines()[:-4]}
    assert rows["info"] == rows["neg"] == "5"


@pytest.fixture
def table(folder):
    """Thresholds of the contract's own calibration, whose files stay in the folder."""
    command = ["calibrate", "digits", str(folder), "-n", "40", "--method", "mse", "--repair", "none", "--no-verdict"]
    assert main(command) == 0
    return folder / "bmnet_digits_calibration_table"


def thresholds_in(table):
    return [line.split()[:2] for line in table.read_text().splitlines()]


@pytest.mark.parametrize("without_repair", [["--repair", "none"], ["--original"]])
def test_thresholds_from_a_table(folder, table, tmp_path, without_repair):
    command = ["calibrate", "digits", str(folder), "--thresholds", str(table), "--output", str(tmp_path)]
    assert main([*command, *without_repair]) == 0
    for name in ("int8.caffemodel", "calibration_table", "calibration_table.pb2", "calibration_table.prototxt"):
        assert (tmp_path / f"bmnet_digits_{name}").read_bytes() == (folder / f"bmnet_digits_{name}").read_bytes()
    assert "samples" not in json.loads((tmp_path / "bmnet_digits.calib8.json").read_text())


def test_thresholds_from_a_table_are_kept_and_the_integers_repaired(folder, table, tmp_path, capsys):
    capsys.readouterr()
    command = ["calibrate", "digits", str(folder), "-n", "40", "--thresholds", str(table), "--output", str(tmp_path)]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert err == "" and "2 other images than those of the calibration" in out
    assert "thresholds stay as they are given; left out, as they move them: thresholds, tail-room, exact-pools" in out
    assert thresholds_in(tmp_path / table.name) == thresholds_in(table)
    weights = "bmnet_digits_int8.caffemodel"
    assert (tmp_path / weights).read_bytes() != (folder / weights).read_bytes()
    record = json.loads((tmp_path / "bmnet_digits.calib8.json").read_text())
    assert record["samples"]["images"] == 40 and record["thresholds"].startswith("sha256:")
    again = tmp_path / "again"
    again.mkdir()
    command = ["calibrate", "digits", str(folder), "--from", str(tmp_path / "bmnet_digits.calib8.json")]
    assert main([*command, "--output", str(again)]) == 0
    assert (again / weights).read_bytes() == (tmp_path / weights).read_bytes()


def test_samples_are_the_same_whoever_looks_at_some_of_them_first(with_input, tmp_path):
    """A repair reads those to choose on before those to solve on, and nothing has read them all before."""
    (with_input / "list.txt").write_text("".join(f"{index % 6}.png\n" for index in range(40)))
    images = ["-n", "40", "--images", str(with_input / "list.txt"), "--scale", "0.0078", "--mean", "128"]
    command = ["calibrate", "digits", str(with_input), *images]
    assert main(command) == 0
    first = json.loads((with_input / "bmnet_digits.calib8.json").read_text())
    table = with_input / "bmnet_digits_calibration_table"
    assert main([*command, "--thresholds", str(table), "--output", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "bmnet_digits.calib8.json").read_text())
    assert again["samples"] == first["samples"] and again["samples"]["images"] == 40


def test_thresholds_from_a_table_need_no_images(with_input, tmp_path, capsys):
    """As before there was a repair: the contract's own integers, and a line that says so."""
    command = ["calibrate", "digits", str(with_input), "--images", str(with_input / "list.txt"), "--scale", "0.01"]
    assert main([*command, "-n", "6", "--repair", "none", "--no-verdict"]) == 0
    first = {path.name: path.read_bytes() for path in with_input.glob("bmnet_*") if path.suffix != ".json"}
    table = with_input / "bmnet_digits_calibration_table"
    (with_input / "bmnet_digits.calib8.json").unlink()  # which knows the images
    capsys.readouterr()
    assert main(["calibrate", "digits", str(with_input), "--thresholds", str(table), "--output", str(tmp_path)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "there are no images to repair the integers on" in line and "--images" in line
    assert {name: (tmp_path / name).read_bytes() for name in first} == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "5000"], "5000 images"),
        (["-n", "0"], "iteration is 0"),
        (["--bins", "100"], "--bins is 100"),
        (["--threads", "0"], "threads is 0"),
        (["--output", "nowhere/at/all"], "nowhere"),
        (["--thresholds", "nothing.txt"], "nothing.txt"),
        (["--images", "nothing.txt", "--size", "8x8"], "nothing.txt"),
        (["--method", "percentile", "--percent", "0"], "percent is 0"),
    ],
)
def test_an_error_is_one_message_and_no_file(folder, capsys, arguments, message):
    assert main(["calibrate", "digits", str(folder), *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("calib8: error: ") and message in err
    assert "Traceback" not in err and not made(folder)
    assert not list(folder.glob(".*"))


def test_a_failure_keeps_the_files_that_were_there(folder, capsys):
    assert main(["calibrate", "digits", str(folder), "-n", "20"]) == 0
    before = {name: (folder / name).read_bytes() for name in made(folder)}
    shutil.copy(folder / "evaluation_lmdb" / "data.mdb", folder / "custom.caffemodel")
    assert main(["calibrate", "digits", str(folder), "-n", "20"]) == 1
    assert {name: (folder / name).read_bytes() for name in made(folder)} == before


@pytest.mark.parametrize("command", ["calibrate", "export --format onnx", "sensitivity", "tune"])
@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_that_no_file_can_have_is_wrong_usage(folder, capsys, command, name):
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), name, str(folder)])
    assert "cannot be part of a file's name" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["deploy.prototxt", "custom.caffemodel"])
def test_missing_files_are_named(folder, capsys, missing):
    (folder / missing).unlink()
    assert main(["calibrate", "digits", str(folder)]) == 1
    assert str(folder / missing) in capsys.readouterr().err


def test_usage_errors_exit_with_2(capsys):
    for arguments in (
        [],
        ["calibrate"],
        ["calibrate", "a", "b", "--method", "magic"],
        ["calibrate", "a", "b", "--size", "3"],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["calibrate", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--iteration",
        "--memory_opt",
        "--method",
        "--bins",
        "--images",
        "--mean",
        "--threads",
        "--two-pass",
    ):
        assert option in text


def test_the_guide_s_script(folder):
    environment = {**os.environ, "COLUMNS": "100"}
    script = ROOT / "calibration_tool" / "calibration.py"
    command = [sys.executable, str(script), "digits", str(folder), "--memory"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'iteration': None" in done.stdout
    assert len(made(folder)) == 5
    wrong = subprocess.run([*command[:-2], str(folder / "no")], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and len(wrong.stderr.splitlines()) == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_quiet_without_a_terminal_and_in_the_first_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("calib8.cli.progress.time.monotonic", lambda: now[0])
    for stream, expected in ((io.StringIO(), False), (Terminal(), True)):
        now[0] = 0.0
        with ProgressLine("calibrating", 100, stream) as progress:
            progress(10)
            assert stream.getvalue() == ""
            now[0] = 4.0
            progress(40)
            assert ("calibrating: 40/100, 10.0/s, 6 s left" in stream.getvalue()) is expected
        assert not stream.getvalue() or stream.getvalue().endswith("\r")


def test_progress_text():
    assert progress_text("x", 5, None, 2) == "x: 5, 2.5/s"
    assert progress_text("x", 1, 1001, 1) == "x: 1/1001, 1.0/s, 16:40 min left"
    assert progress_text("x", 1, 10001, 1) == "x: 1/10001, 1.0/s, 2:46 h left"


def test_rows_of_several_tops_name_them(folder, capsys):
    prototxt = folder / "deploy.prototxt"
    prototxt.write_text(prototxt.read_text().replace('  top: "data"', '  top: "data"\n  top: "label"', 1))
    assert main(["calibrate", "digits", str(folder), "-n", "20", "--method", "max"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.partition(" Data ")[0].strip() for row in rows if " Data " in row] == ["data: data", "data: label"]


def test_a_folder_that_cannot_be_written_is_said_before_anything_runs(folder, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == folder and mode == os.W_OK))
    monkeypatch.setattr("calib8.cli.calibrate.open_files", None)  # running would fail otherwise
    assert main(["calibrate", "digits", str(folder)]) == 1
    assert f"{folder}: you may not write there" in capsys.readouterr().err
