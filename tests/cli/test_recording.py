"""Records: a calibration again from its record, and later commands with its images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8.cli.main import main
from calib8.cli.recording import _path
from calib8.data import open_source, takes
from calib8.errors import OptionError
from calib8.proto.text import read_prototxt
from calib8.workflow import data_layer

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
OPTIONS = ["-n", "8", "--method", "mse", "--bins", "1024", "--mean", "128", "--scale", "0.0078125", "--no-verdict"]


@pytest.fixture
def folder(tmp_path):
    """The digits with a plain Input layer, and pictures beside them."""
    made = tmp_path / "model"
    made.mkdir()
    shutil.copy(DIGITS / "custom.caffemodel", made)
    text = (DIGITS / "deploy.prototxt").read_text()
    start, end = text.index("layer {"), text.index("layer {", text.index("layer {") + 1)
    plain = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }'
    (made / "deploy.prototxt").write_text(text[:start] + plain + text[end:])
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    source = open_source(data_layer(read_prototxt(DIGITS / "deploy.prototxt")), DIGITS)
    for index, image in enumerate(np.concatenate([b["data"] for b in takes(source, 12)])):
        cv2.imwrite(str(pictures / f"{index:02}.png"), np.clip(image[0] * 128 + 128, 0, 255).astype(np.uint8))
    return made


def calibrate(folder, *options):
    return main(["calibrate", "d", str(folder), "--threads", "1", *options])


def pictures(folder):
    return ["--images", str(folder.parent / "pictures")]


def files(folder):
    return {p.name: p.read_bytes() for p in folder.glob("bmnet_*") if p.suffix != ".json"}


def test_the_same_bytes_from_a_record(folder, tmp_path, capsys):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    record = folder / "bmnet_d.calib8.json"
    content = json.loads(record.read_text())
    assert content["calibrate"][:3] == ["--iteration=8", "--method=mse", "--bins=1024"]
    assert content["images"][0] == "--images={record}/../pictures" and "--mean=128" in content["images"]
    assert content["samples"]["images"] == 8 and str(tmp_path) not in record.read_text()
    capsys.readouterr()
    again = tmp_path / "again"
    again.mkdir()
    assert calibrate(folder, "--from", str(record), "--output", str(again), "--no-verdict") == 0
    assert f"options as recorded in {record}" in capsys.readouterr().err
    assert files(again) == files(folder) and len(files(again)) == 4
    made = json.loads((again / "bmnet_d.calib8.json").read_text())
    assert made["run"] == content["run"] and made["samples"] == content["samples"]


def test_images_of_a_folder_behind_a_symbolic_link(folder, tmp_path, monkeypatch, capsys):
    far = tmp_path / "a" / "large" / "disk"
    far.mkdir(parents=True)
    folder.rename(far / "model")
    (tmp_path / "pictures").rename(far / "pictures")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model").symlink_to(far / "model")
    (tmp_path / "here" / "photos").symlink_to(far / "pictures")
    monkeypatch.chdir(tmp_path / "here")
    assert calibrate(Path("model"), "--images", "photos", *OPTIONS) == 0
    content = json.loads(Path("model/bmnet_d.calib8.json").read_text())
    assert content["images"][0] == "--images={record}/../../../../here/photos"
    assert main(["doctor", "d", "model", "-n", "8"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "d", str(far / "model"), "-n", "8"]) == 0


def test_images_that_share_only_the_root_with_the_record(tmp_path):
    shared = next(p for p in ("/etc", "/usr", "/dev") if not tmp_path.is_relative_to(p))
    assert _path(shared, tmp_path) == str(Path(shared).resolve())
    assert _path("12.5,13", tmp_path) == "12.5,13"


def test_a_folder_that_has_moved_away_from_its_images(folder, tmp_path, capsys):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    moved = tmp_path / "one" / "deeper"
    moved.mkdir(parents=True)
    folder.rename(moved / "model")
    assert main(["doctor", "d", str(moved / "model"), "-n", "8"]) == 1
    assert "no such file; it was there when this was recorded" in capsys.readouterr().err.splitlines()[-1]
    assert main(["doctor", "d", str(moved / "model"), "-n", "8", "--images", str(tmp_path / "pictures")]) == 0


def test_what_is_given_counts_more_than_the_record(folder, tmp_path):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    before = files(folder)
    record = shutil.copy(folder / "bmnet_d.calib8.json", folder / "kept.json")
    assert calibrate(folder, "--from", str(record), "--method", "max", "--no-verdict") == 0
    content = json.loads((folder / "bmnet_d.calib8.json").read_text())
    assert "--method=max" in content["calibrate"] and "--bins=1024" in content["calibrate"]
    assert files(folder) != before


def test_other_samples_are_said(folder, caplog):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    record = shutil.copy(folder / "bmnet_d.calib8.json", folder / "kept.json")
    cv2.imwrite(str(folder.parent / "pictures" / "00.png"), np.zeros((8, 8), np.uint8))
    assert calibrate(folder, "--from", str(record), "--no-verdict") == 0
    assert "the samples are others than those of the record" in caplog.text


def test_later_commands_take_the_images(folder, capsys):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    capsys.readouterr()
    command = ["sensitivity", "d", str(folder), "--samples", "2", "--no-picture", "--threads", "1"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert err.startswith("calib8: images as recorded in ") and "--mean=128" in err
    assert main([*command, *pictures(folder), "--mean", "128", "--scale", "0.0078125"]) == 0
    assert capsys.readouterr() == (out, "")


@pytest.mark.parametrize("word", ["--output=/tmp", "--metric=os:getcwd", "x", "--gpu"])
def test_a_record_can_say_nothing_that_runs_or_writes(folder, capsys, word):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    record = folder / "bmnet_d.calib8.json"
    content = json.loads(record.read_text())
    content["images"].append(word)
    content["calibrate"].append(word)
    record.write_text(json.dumps(content))
    for command in (["doctor", "d", str(folder)], ["calibrate", "d", str(folder), "--from", str(record)]):
        assert main(command) == 1
        assert "no option that a record can have" in capsys.readouterr().err


def test_a_record_without_options(folder, capsys):
    record = folder / "r.json"
    record.write_text(json.dumps({"calib8_record": 1, "network": "d", "run": "x", "files": {}}))
    assert calibrate(folder, "--from", str(record)) == 1
    assert "holds no options" in capsys.readouterr().err
    assert calibrate(folder, "--from", str(folder / "none.json")) == 1


def test_options_are_taken_one_by_one(folder, tmp_path, capsys):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    others = tmp_path / "others"
    shutil.copytree(folder.parent / "pictures", others)
    command = ["sensitivity", "d", str(folder), "--samples", "2", "--no-picture", "--threads", "1"]
    capsys.readouterr()
    assert main([*command, "--images", str(others)]) == 0
    err = capsys.readouterr().err
    assert "--mean=128 --scale=0.0078125" in err and "--images" not in err
    options = json.loads((folder / "bmnet_d.calib8.json").read_text())["commands"]["sensitivity"]["options"]
    assert {"--mean=128", "--scale=0.0078125", "--images={record}/../others"} <= set(options)
    assert main([*command, "--no-record"]) == 1  # a plain Input layer has no images of its own
    assert "as recorded" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--mean", "127"], ["--scale=1"], ["--color", "gray"]])
def test_what_makes_numbers_of_pixels_is_taken_as_a_whole(folder, capsys, words):
    """A try with a wrong scale would else stay in all that follows, also where the doctor's advice is taken."""
    assert main(["doctor", "d", str(folder), *pictures(folder), "--mean", "128", "--scale", "0.5"]) == 0
    capsys.readouterr()
    assert calibrate(folder, "-n", "4", "--no-verdict", *words) == 0
    (taken,) = [line for line in capsys.readouterr().err.splitlines() if "as recorded" in line]
    assert "--images=" in taken and not any(flag in taken for flag in ("--mean", "--scale", "--color"))


def test_calibrate_takes_the_images_that_the_doctor_was_given(folder, capsys):
    assert main(["doctor", "d", str(folder), *pictures(folder), "--mean", "128", "--scale", "0.0078125"]) == 0
    capsys.readouterr()
    assert calibrate(folder, "-n", "4", "--no-verdict") == 0
    assert "images as recorded" in capsys.readouterr().err
    content = json.loads((folder / "bmnet_d.calib8.json").read_text())
    assert "--mean=128" in content["images"] and content["run"] and list(content["commands"]) == ["doctor"]


def test_every_command_says_what_it_did(folder, tmp_path):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    record = folder / "bmnet_d.calib8.json"
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{i % 10}\n" for i in range(12)))
    for command in (
        ["doctor", "d", str(folder), "-n", "6"],
        ["evaluate", "d", str(folder), "--labels", str(labels), "--samples", "6"],
        ["sensitivity", "d", str(folder), "--samples", "2", "--no-picture"],
        ["report", "d", str(folder), "--samples", "2", "--shown", "1"],
        ["tune", "d", str(folder), "--samples", "2", "--minutes", "0.01", "--output", str(folder)],
    ):
        assert main(command) == 0
    content = json.loads(record.read_text())
    commands = content["commands"]
    assert set(commands) >= {"doctor", "tune"}
    for name, entry in commands.items():
        assert entry["samples"]["images"] > 0 and entry["model"]["prototxt"].startswith("sha256:"), name
        assert entry["versions"]["calib8"] and str(tmp_path) not in json.dumps(entry), name
    assert commands["doctor"]["samples"]["images"] == 6
    assert "bmnet_d_tuning.json" in commands["tune"]["files"]


def test_samples_have_the_same_digest_whoever_reads_them(folder, tmp_path):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    first = json.loads((folder / "bmnet_d.calib8.json").read_text())["samples"]
    for options in (["doctor"], ["evaluate", "--metric", "difference"], ["sensitivity", "--no-picture"]):
        count = ["-n" if options[0] == "doctor" else "--samples", "8"]
        code = main([options[0], "d", str(folder), *count, *options[1:]])
        assert code == (options[0] == "evaluate")  # which has no labels here
        if code == 0:
            assert json.loads((folder / "bmnet_d.calib8.json").read_text())["commands"][options[0]]["samples"] == first
    kept = tmp_path / "kept"
    kept.mkdir()
    assert calibrate(folder, "-n", "8", "--histograms", str(tmp_path / "h"), "--output", str(kept), "--no-verdict") == 0
    assert json.loads((kept / "bmnet_d.calib8.json").read_text())["samples"]["digest"] == first["digest"]


def test_kept_histograms_again_without_them(folder, tmp_path):
    one = ["-n", "8", *pictures(folder), "--mean", "128", "--scale", "0.0078125", "--no-verdict"]
    assert calibrate(folder, *one, "--histograms", str(tmp_path / "h")) == 0
    again = tmp_path / "again"
    again.mkdir()
    record = folder / "bmnet_d.calib8.json"
    assert calibrate(folder, "--from", str(record), "--output", str(again), "--no-verdict") == 0
    assert files(again) == files(folder) and len(files(again)) == 4


def test_what_is_left_out_is_recorded(folder, tmp_path):
    without = ["--without", "bias-correction", "--without", "channel-units"]
    assert calibrate(folder, *pictures(folder), *OPTIONS, *without) == 0
    record = folder / "bmnet_d.calib8.json"
    assert json.loads(record.read_text())["calibrate"].count("--without=bias-correction") == 1
    again = tmp_path / "again"
    again.mkdir()
    assert calibrate(folder, "--from", str(record), "--output", str(again), "--no-verdict") == 0
    assert files(again) == files(folder)


def test_a_folder_that_cannot_be_written_keeps_the_doctor_from_nothing(folder, capsys, monkeypatch):
    def refuses(*_):
        raise OptionError("cannot write")

    monkeypatch.setattr("calib8.cli.recording.note_command", refuses)
    assert main(["doctor", "d", str(folder), *pictures(folder), "-v"]) == 0
    assert "nothing is recorded of this" in capsys.readouterr().err
    assert main(["doctor", "d", str(folder), *pictures(folder), "--output", str(folder)]) == 1


def test_tuning_keeps_the_images(folder, capsys):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    assert main(["tune", "d", str(folder), "--samples", "4", "--minutes", "0.02", "--threads", "1"]) == 0
    content = json.loads((folder / "bmnet_d.calib8.json").read_text())
    assert content["images"][0].startswith("--images={record}")
