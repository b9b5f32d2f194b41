"""Records: a calibration again from its record, and later commands with its images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8.cli.main import main
from calib8.data import open_source, takes
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


def test_tuning_keeps_the_images(folder, capsys):
    assert calibrate(folder, *pictures(folder), *OPTIONS) == 0
    assert main(["tune", "d", str(folder), "--samples", "4", "--minutes", "0.02", "--threads", "1"]) == 0
    content = json.loads((folder / "bmnet_d.calib8.json").read_text())
    assert content["images"][0].startswith("--images={record}")
