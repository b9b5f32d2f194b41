"""samples/classification: the digits of examples/digits in FP32 and INT8; SqueezeNet."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

_SCRIPT = "classification/classify.py"
_DIGITS = ["--color", "gray", "--size", "8x8", "--mean", "128", "--scale", "0.0078125"]
_IMAGES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "images"
_NO_DIGIT = _IMAGES.parents[1] / "shapes" / "images" / "00.jpg"  # so no class is certain


def _ranking(out: str) -> list[tuple[str, float]]:
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows] == list("12345")
    return [(" ".join(row[1:-1]), float(row[-1])) for row in rows]


@pytest.mark.parametrize("int8", [[], ["--int8", "it"]], ids=["FP32", "INT8"])
def test_reads_digits(run_sample, calibrated, int8):
    folder = calibrated("digits", 150)
    right = 0
    for digit in range(10):
        code, out, err = run_sample(_SCRIPT, folder, _IMAGES / f"{digit}.png", *_DIGITS, *int8)
        assert (code, err) == (0, "")
        ranking = _ranking(out)
        assert [score for _, score in ranking] == sorted((score for _, score in ranking), reverse=True)
        right += ranking[0][0] == str(digit)
    assert right >= 9


def test_int8_differs_from_fp32_unless_no_layer_runs_in_it(run_sample, calibrated):
    folder = calibrated("digits", 150, "--repair", "none")  # repaired, this network's rankings are FP32's
    fp32, int8, last_only = (
        _ranking(run_sample(_SCRIPT, folder, _NO_DIGIT, *_DIGITS, *more).out)
        for more in ([], ["--int8", f"{folder}/it"], ["--int8", "it", "--int8_layer", "ip"])
    )
    assert fp32 != int8
    assert fp32 != last_only != int8


def test_prints_names_of_classes(run_sample, calibrated, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("zero\none\ntwo\nthree\n")
    out = run_sample(_SCRIPT, calibrated("digits", 150), _IMAGES / "3.png", *_DIGITS, "--labels", names).out
    assert _ranking(out)[0][0] == "three"
    assert {name for name, _ in _ranking(out)} <= {"zero", "one", "two", "three", *"456789"}


def test_crop_takes_the_centre(run_sample, calibrated, tmp_path):
    digit = cv2.imread(str(_IMAGES / "3.png"), cv2.IMREAD_GRAYSCALE)
    framed = np.full((8, 14), 255, np.uint8)
    framed[:, 3:11] = digit
    cv2.imwrite(str(tmp_path / "framed.png"), framed)
    folder = calibrated("digits", 150)
    plain, cropped, with_side, warped = (
        run_sample(_SCRIPT, folder, path, *_DIGITS, *more).out
        for path, more in (
            (_IMAGES / "3.png", []),
            (tmp_path / "framed.png", ["--resize", "crop"]),
            (tmp_path / "framed.png", ["--resize", "crop", "--short-side", "8"]),
            (tmp_path / "framed.png", []),
        )
    )
    assert plain == cropped == with_side != warped


@pytest.mark.shared
def test_squeezenet_knows_photographs(run_sample, shared):
    folder = shared / "images" / "imagenet" / "evaluation"
    listed = [line.split() for line in (folder / "labels.txt").read_text().splitlines()][:12]
    options = ["--mean", "104,117,123", "--resize", "crop", "--short-side", "256"]
    hits = 0
    for name, label in listed:
        out = run_sample(_SCRIPT, shared / "models" / "squeezenet_v1.1", folder / name, *options).out
        hits += label in {found for found, _ in _ranking(out)}
    assert hits >= 8  # top-5 of the network: 0.874
