"""`calib8 lmdb`: create, show and mean, and that a network reads what they make."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8.cli.main import main
from calib8.data import open_source
from calib8.data.lmdb_writer import write_lmdb
from calib8.data.mean import read_mean
from calib8.proto.caffe_pb2 import Datum
from calib8.proto.text import parse_prototxt

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path):
    """Two classes of images, 6 x 5 pixels; returns the folder and the pixels by name."""
    rng, pixels = np.random.default_rng(0), {}
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels[name] = rng.integers(0, 256, (6, 5, 3), np.uint8)
        cv2.imwrite(str(path), pixels[name])
    return tmp_path / "photos", pixels


@pytest.fixture
def made(photos, tmp_path, capsys):
    assert main(["lmdb", "create", str(photos[0]), str(tmp_path / "made")]) == 0
    capsys.readouterr()
    return tmp_path / "made"


def test_create_says_which_class_has_which_label(photos, tmp_path, capsys):
    target = tmp_path / "made"
    assert main(["lmdb", "create", str(photos[0]), str(target)]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"0 cat\n1 dog\n{target}: 3 records\n", "")
    (tmp_path / "names.txt").write_text("dog\n\ncat\n")
    command = ["lmdb", "create", str(photos[0]), str(target), "--labels", str(tmp_path / "names.txt"), "--force"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("0 dog\n1 cat\n")


def test_a_data_layer_reads_it(made, photos):
    text = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "%s" batch_size: 3 } }'
    source = open_source(parse_prototxt(text % made).net.layer[0], made.parent)
    (batch,) = source.batches()
    assert batch["label"].tolist() == [0, 0, 1]
    for sample, pixels in zip(batch["data"], photos[1].values(), strict=True):
        assert np.array_equal(sample, pixels.transpose(2, 0, 1))


def test_show(made, photos, capsys):
    assert main(["lmdb", "show", str(made), "-n", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    means = np.concatenate([p.reshape(-1, 3) for p in photos[1].values()]).mean(axis=0)
    assert found.pop("channel_means") == pytest.approx(means)
    assert found == {
        "path": str(made),
        "records": 3,
        "raw": 3,
        "encoded": 0,
        "shapes": [{"shape": [3, 6, 5], "records": 3}],
        "labels": [{"label": 0, "records": 2}, {"label": 1, "records": 1}],
        "first_keys": ["00000000_cat/1.png", "00000001_cat/2.png"],
    }
    assert main(["lmdb", "show", str(made)]) == 0
    text = capsys.readouterr().out
    for part in ("3 records", "pixels (3)", "3x6x5 (3)", "0 (2), 1 (1)", f"{means[0]:.4f}", "00000002_dog/1.png"):
        assert part in text


def test_show_of_many_kinds(tmp_path, capsys):
    """Raw and encoded, gray and colour, floats, more labels than fit a line."""
    png = cv2.imencode(".png", np.full((2, 3, 3), 9, np.uint8))[1].tobytes()
    datums = [Datum(channels=1, height=1, width=1, data=b"\7", label=label) for label in range(30)]
    datums += [Datum(encoded=True, data=png), Datum(channels=1, height=1, width=2, float_data=[0.5, 1.5])]
    path = tmp_path / "kinds"
    write_lmdb(path, [(f"{i:08}".encode(), d.SerializeToString()) for i, d in enumerate(datums)])
    assert main(["lmdb", "show", str(path)]) == 0
    text = capsys.readouterr().out
    for part in ("pixels (31), image files (1)", "1x1x1 (30), 1x1x2 (1), 3x2x3 (1)", "and 10 more", "channels differ"):
        assert part in text
    assert main(["lmdb", "show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["channel_means"] is None
    assert main(["lmdb", "mean", str(path), str(tmp_path / "mean.binaryproto")]) == 1
    assert "records of one shape" in capsys.readouterr().err
    assert main(["lmdb", "show", str(path), "--image", "31", str(tmp_path / "x.png")]) == 1
    assert "float32" in capsys.readouterr().err


def test_one_image(made, photos, tmp_path, capsys):
    target = tmp_path / "x.png"
    assert main(["lmdb", "show", str(made), "--image", "2", str(target)]) == 0
    assert np.array_equal(cv2.imread(str(target)), photos[1]["dog/1.png"])
    for index, message in (("3", "numbered 0 to 2"), ("-1", "expected the number"), ("x", "expected the number")):
        assert main(["lmdb", "show", str(made), "--image", index, str(target)]) == 1
        assert message in capsys.readouterr().err


def test_an_lmdb_that_is_there_is_replaced_by_force_only(made, photos, capsys):
    assert main(["lmdb", "create", str(photos[0]), str(made)]) == 1
    assert "replace it with --force" in capsys.readouterr().err


def test_mean(made, photos, tmp_path, capsys):
    target = tmp_path / "mean.binaryproto"
    assert main(["lmdb", "mean", str(made), str(target)]) == 0
    expected = np.mean([p.transpose(2, 0, 1) for p in photos[1].values()], axis=0)
    np.testing.assert_allclose(read_mean(target, "test"), expected, rtol=1e-6)
    assert f"3x6x5, mean of each channel {expected[0].mean():.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "nothing.txt", "made"], "nothing.txt is no file or folder; relative"),
        (["create", "photos", "made", "--resize", "crop"], "give --size, too"),
        (["create", "photos", "made", "--size", "4x4", "--short-side", "9"], "short_side"),
        (["create", "photos", "made", "--labels", "names.txt"], "names.txt is no file"),
        (["create", "photos", "photos"], "photos exists and is no LMDB"),
        (["create", "photos", "no/where"], "no is no folder"),
        (["show", "photos"], "no readable LMDB"),
        (["mean", "nowhere", "mean.binaryproto"], "no readable LMDB"),
    ],
)
def test_an_error_is_one_message(photos, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(photos[0].parent)
    before = sorted(photos[0].parent.rglob("*"))
    assert main(["lmdb", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("calib8: error: ") and message in err and "Traceback" not in err
    assert sorted(photos[0].parent.rglob("*")) == before


def test_the_example_s_lmdbs(capsys):
    assert main(["lmdb", "show", str(ROOT / "examples" / "digits" / "evaluation_lmdb"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["records"], found["shapes"]) == (300, [{"shape": [1, 8, 8], "records": 300}])
    assert [row["label"] for row in found["labels"]] == list(range(10))
