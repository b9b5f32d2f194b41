"""Results are refused where they would mean nothing; detection networks go through all commands."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib8.cli.main import main
from calib8.proto import caffe_pb2

ROOT = Path(__file__).resolve().parents[2]
METRIC = """
def boxes(fp32, int8):
    '''Share of FP32's finds whose class INT8 finds in the same image, both as (1, 1, N, 7).'''
    (name,) = fp32
    rows = [a[name].reshape(-1, 7) for a in (fp32, int8)]
    assert all(a[name].shape[:2] == (1, 1) for a in (fp32, int8))
    images = {int(r[0]) for r in rows[0]}
    assert images == set(range(len(images)))
    finds = [{(int(r[0]), int(r[1])) for r in x if r[2] > 0.3} for x in rows]
    return len(finds[0] & finds[1]) / max(1, len(finds[0]))
"""


@pytest.fixture
def detector(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples" / "shapes", tmp_path / "shapes", ignore=shutil.ignore_patterns("bmnet_*"))
    (tmp_path / "my_metric.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "shapes" / "ssd"


@pytest.mark.parametrize(
    "command",
    [
        ["sensitivity", "--samples", "3", "--no-picture"],
        ["tune", "--samples", "3", "--held-out", "2", "--minutes", "0.05"],
        ["tune", "--samples", "3", "--held-out", "2", "--search", "none", "--max-drop", "1"],
    ],
    ids=lambda c: " ".join(c[:6]),
)
def test_a_users_metric_of_a_detection_network(detector, capsys, command):
    options = ["-n", "3", "--metric", "my_metric:boxes", *command[1:]]
    assert main([command[0], "ssd", str(detector), *options]) == 0, capsys.readouterr().err


@pytest.fixture
def digits(tmp_path):
    return Path(
        shutil.copytree(ROOT / "examples" / "digits", tmp_path / "net", ignore=shutil.ignore_patterns("bmnet_*"))
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(digits, capsys, value):
    path = digits / "custom.caffemodel"
    net = caffe_pb2.NetParameter.FromString(path.read_bytes())
    layer = next(x for x in net.layer if x.name == "conv1")
    layer.blobs[0].data[3] = value
    path.write_bytes(net.SerializeToString())
    assert main(["check", str(digits)]) == 1
    out = capsys.readouterr().out
    assert "layer 'conv1' (Convolution): 1 of " in out and "weights in blob 0 are NaN or infinite" in out
    assert main(["calibrate", "digits", str(digits), "-n", "3"]) == 1
    assert "weights in blob 0 are NaN or infinite" in capsys.readouterr().err
    assert not list(digits.glob("bmnet_*"))


def test_samples_that_are_no_numbers(digits, capsys):
    (digits / "nan_layer.py").write_text(
        "import caffe\n"
        "class L(caffe.Layer):\n"
        "    def setup(self, bottom, top):\n"
        "        top[0].reshape(1, 1, 8, 8)\n"
        "    def forward(self, bottom, top):\n"
        "        top[0].data[...] = float('nan')\n"
    )
    path = digits / "deploy.prototxt"
    text = path.read_text()
    begin, end = text.index('layer {\n  name: "data"'), text.index('layer {\n  name: "conv1"')
    own = 'layer { name: "data" type: "Python" top: "data" python_param { module: "nan_layer" layer: "L" } }\n'
    path.write_text(text[:begin] + own + text[end:])
    assert main(["calibrate", "digits", str(digits), "-n", "3"]) == 1
    err = capsys.readouterr().err
    assert "blob 'data': all 192 values are NaN or infinite" in err
    assert not list(digits.glob("bmnet_*"))


@pytest.mark.parametrize("threads", ["0", "100000", "4294967295"])
def test_numbers_of_threads_that_no_machine_has(digits, capsys, threads):
    assert main(["calibrate", "digits", str(digits), "--threads", threads]) == 1
    assert f"--threads is {threads}; it must be 1 to 1024" in capsys.readouterr().err


@pytest.mark.shared
def test_a_roi_pooling_of_scale_0(shared, capsys):
    assert main(["check", str(shared / "cases" / "hostile" / "15_roi_pooling_scale_zero.prototxt")]) == 1
    assert "has the spatial_scale 0; expected a number above 0" in capsys.readouterr().out


def test_two_commands_in_one_folder(digits, capsys):
    """The second one is refused at once, not when its work is done."""
    from calib8.atomic import lock  # noqa: PLC0415

    held = os.open(digits, os.O_RDONLY)
    assert lock.try_lock(held)  # as another process would
    try:
        for command in (["calibrate", "digits", str(digits)], ["tune", "digits", str(digits), "--output", str(digits)]):
            assert main([*command, "-n", "3"]) == 1
            err = capsys.readouterr().err
            assert "another calib8 command is writing there; wait for its end, or choose another folder" in err
    finally:
        os.close(held)
    assert main(["calibrate", "digits", str(digits), "-n", "3"]) == 0


def test_a_folder_for_results_that_is_a_link_is_not_followed(digits, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (digits / "tuned").symlink_to(tmp_path / "elsewhere")
    assert main(["tune", "digits", str(digits), "-n", "3"]) == 1
    assert "tuned: is a link, which is not followed; name the folder for the results with --output" in (
        capsys.readouterr().err
    )
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "option", ["--labels", "--thresholds", "--calibration_proto", "--ignore_layer_list", "--images"]
)
def test_pipes_and_devices_are_no_files(digits, capsys, option):
    os.mkfifo(digits / "pipe")
    for path in (digits / "pipe", "/dev/zero"):
        assert (
            main(["tune", "digits", str(digits), "-n", "3", "--metric", "top1", "--size", "8x8", option, str(path)])
            == 1
        )
        err = capsys.readouterr().err
        assert "regular file" in err or "is no file" in err or "there is no layer" in err


@pytest.fixture
def with_bad_images(digits):
    """The digits network over 12 images, of which three cannot be used."""
    (digits / "photos").mkdir()
    for i in range(12):
        good = cv2.imencode(".png", np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8))[1].tobytes()
        (digits / "photos" / f"{i:02}.png").write_bytes({3: b"", 7: b"text", 9: good[:-30]}.get(i, good))
    return digits


OPTIONS = ["--size", "8x8", "--color", "gray", "--mean", "128", "--scale", "0.0078"]


def test_all_bad_images_are_named_before_anything_runs(with_bad_images, capsys):
    images = ["--images", str(with_bad_images / "photos"), *OPTIONS]
    assert main(["calibrate", "digits", str(with_bad_images), "-n", "12", *images]) == 1
    err = capsys.readouterr().err
    assert err.startswith("calib8: error: 3 of 12 samples cannot be used; --skip-bad goes on without them")
    assert "03.png" in err and "07.png" in err and err.count("\n  - ") == 3


def test_skip_bad_goes_on_and_says_how_many(with_bad_images, tmp_path, capsys, caplog):
    images = ["--images", str(with_bad_images / "photos"), *OPTIONS, "--skip-bad"]
    assert main(["calibrate", "digits", str(with_bad_images), "-n", "12", *images]) == 0
    assert "3 of 12 samples cannot be used and are skipped" in caplog.text and "09.png" in caplog.text
    files = {p.name: p.read_bytes() for p in with_bad_images.glob("bmnet_digits_*")}
    for bad in ("03", "07", "09"):
        (with_bad_images / "photos" / f"{bad}.png").unlink()
    assert main(["calibrate", "digits", str(with_bad_images), "-n", "9", *images[:-1]]) == 0
    assert files == {p.name: p.read_bytes() for p in with_bad_images.glob("bmnet_digits_*")}
    assert main(["sensitivity", "digits", str(with_bad_images), "--samples", "4", "--no-picture", *images]) == 0


def test_labels_in_order_do_not_go_with_skipped_images(with_bad_images, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("1\n" * 12)
    images = ["--images", str(with_bad_images / "photos"), *OPTIONS, "--skip-bad"]
    labels = ["--metric", "top1", "--labels", str(tmp_path / "labels.txt"), "--no-picture"]
    assert main(["sensitivity", "digits", str(with_bad_images), "--samples", "4", *images, *labels]) == 1
    assert "write `file-name number` in each line" in capsys.readouterr().err


def test_check_names_all_bad_samples(digits, capsys):
    (digits / "list.txt").write_text("".join(f"{i}.png\n" for i in range(3)))
    for i in range(3):
        (digits / f"{i}.png").write_bytes(
            b"text" if i else cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
        )
    (digits / "net.prototxt").write_text(
        'layer { name: "data" type: "ImageData" top: "x" image_data_param { source: "list.txt" batch_size: 1 } }\n'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }\n'
    )
    assert main(["check", str(digits / "net.prototxt")]) == 1
    out = capsys.readouterr().out
    assert "1.png is damaged" in out and "2.png is damaged" in out and "0.png" not in out
