"""`calib8 doctor`: what it prints of right and wrong data."""

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


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("bmnet_*"))


def doctor(folder, *options):
    return main(["doctor", "digits", str(folder), "--threads", "1", *options])


def test_right_data(folder, capsys):
    assert doctor(folder, "-n", "40") == 0
    out, err = capsys.readouterr()
    assert err == "" and "as given" in out and "problem" not in out
    assert out.splitlines()[-1].startswith("digits, 40 images")
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith("bmnet")) == ["bmnet_digits.calib8.json"]


def test_a_wrong_scale_in_the_data_layer(folder, capsys):
    prototxt = folder / "deploy.prototxt"
    text = prototxt.read_text()
    assert "scale: 0.0078125" in text
    prototxt.write_text(text.replace("scale: 0.0078125", "scale: 1"))
    assert doctor(folder, "-n", "20", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    first = found["findings"][0]
    assert first["severity"] == "problem" and first["area"] == "preprocessing"
    assert "(pixel - 127.5) * 0.00784314" in first["advice"] or "(pixel - 128) * 0.0078" in first["advice"]
    assert found["preprocessing"]["kind"] == "batchnorm" and found["images"] == 20
    assert found["preprocessing"]["given"]["recipe"]["scale"] == [1.0]


def test_options_are_advised_for_images(tmp_path, folder, capsys):
    lines = (folder / "deploy.prototxt").read_text()
    start, end = lines.index("layer {"), lines.index("layer {", lines.index("layer {") + 1)
    plain = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 28 dim: 28 } } }\n'
    shape = plain.replace("28", str(_source().shapes["data"][2]))
    (folder / "deploy.prototxt").write_text(lines[:start] + shape + lines[end:])
    images = tmp_path / "images"
    images.mkdir()
    for index, pixels in enumerate(_pictures(12)):
        cv2.imwrite(str(images / f"{index:02}.png"), pixels)
    assert doctor(folder, "--images", str(images), "--scale", "1") == 0
    out = capsys.readouterr().out
    assert "-> try --color" not in out and "-> try --mean" in out  # gray


def _source():
    return open_source(data_layer(read_prototxt(DIGITS / "deploy.prototxt")), DIGITS)


def _pictures(count):
    for batch in takes(_source(), count):
        for image in batch["data"]:
            yield np.clip(image[0] / 0.0078125 + 128, 0, 255).astype(np.uint8)


def test_thresholds_are_of_no_use(folder, capsys):
    assert doctor(folder, "--thresholds", "table") == 1
    assert "--thresholds" in capsys.readouterr().err


@pytest.mark.shared
def test_a_real_network_with_swapped_colours_and_a_wrong_scale(shared, capsys, tmp_path):
    model = shutil.copytree(shared / "models" / "cifar10_resnet20", tmp_path / "net")
    images = shared / "images" / "imagenet" / "calibration"
    options = ["--images", str(images), "-n", "12", "--threads", "1", "--json"]
    assert main(["doctor", "c", str(model), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["severity"] == "problem"
    best = found["preprocessing"]["others"][0]
    assert best["gain"] > 10 and 0.002 < best["recipe"]["scale"][0] < 0.02


def test_arrays_of_one_channel_may_be_a_sound(folder, capsys, tmp_path):
    np.savez(tmp_path / "x.npz", data=np.random.default_rng(0).standard_normal((6, 1, 8, 8)).astype(np.float32))
    text = (folder / "deploy.prototxt").read_text()
    end = text.index("layer {", text.index("layer {") + 1)
    plain = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }'
    (folder / "deploy.prototxt").write_text(plain + text[end:])
    assert doctor(folder, "--samples", str(tmp_path / "x.npz")) == 0
    assert capsys.readouterr().out.startswith("preprocessing: nothing to tell it by")
