"""samples/super_resolution: better than interpolation, in FP32 and INT8."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

_SCRIPT = "super_resolution/super_resolution.py"
_IMAGES = Path(__file__).resolve().parents[2] / "examples" / "upscale" / "images"
_OPTIONS = ["--mean", "128", "--scale", "0.0078125"]
_INT8 = pytest.mark.parametrize("int8", [[], ["--int8", "it"]], ids=["FP32", "INT8"])


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two luminances, four pixels of the edge left out."""
    rows, columns = a.shape
    total = 0.0
    for y in range(4, rows - 4):
        for x in range(4, columns - 4):
            total += (float(a[y, x]) - float(b[y, x])) ** 2
    return float(10 * np.log10(255**2 * (rows - 8) * (columns - 8) / total))


def _luminance(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2YCrCb)[:, :, 0]


@_INT8
def test_is_nearer_to_the_original_than_interpolation(run_sample, calibrated, tmp_path, int8):
    folder = calibrated("upscale", 10)
    reference = ["--reference", _IMAGES / "large.png", "--output", "out.png"]
    code, out, err = run_sample(_SCRIPT, folder, _IMAGES / "small.png", *_OPTIONS, *reference, *int8)
    assert (code, err) == (0, "")
    own, bicubic = map(float, re.findall(r"([\d.]+) dB", out))
    assert own > bicubic + 3
    original, small = _luminance(_IMAGES / "large.png"), _luminance(_IMAGES / "small.png")
    assert _psnr(_luminance(tmp_path / "out.png"), original) == pytest.approx(own, abs=0.2)  # saved as B, G, R
    enlarged = cv2.resize(small, original.shape[::-1], interpolation=cv2.INTER_CUBIC)
    assert _psnr(enlarged, original) == pytest.approx(bicubic, abs=0.01)
    nearest = cv2.resize(small, original.shape[::-1], interpolation=cv2.INTER_NEAREST)
    assert own > _psnr(nearest, original) + 3


def test_colours_stay(run_sample, calibrated, tmp_path):
    run_sample(_SCRIPT, calibrated("upscale", 10), _IMAGES / "small.png", *_OPTIONS, "--output", "out.png")
    small, large = cv2.imread(str(_IMAGES / "small.png")), cv2.imread(str(tmp_path / "out.png"))
    assert large.shape == (2 * small.shape[0], 2 * small.shape[1], 3)
    back = cv2.resize(large, small.shape[1::-1], interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(back - small).mean() < 4


@pytest.mark.parametrize("size", [(31, 17), (64, 48)])
def test_takes_images_of_any_size(run_sample, calibrated, tmp_path, size):
    image = cv2.resize(cv2.imread(str(_IMAGES / "large.png")), size)
    cv2.imwrite(str(tmp_path / "in.png"), image)
    for int8 in ([], ["--int8", "it"]):
        assert run_sample(_SCRIPT, calibrated("upscale", 10), "in.png", *_OPTIONS, *int8).out == "large.png\n"
        assert cv2.imread("large.png").shape == (2 * size[1], 2 * size[0], 3)


@pytest.mark.shared
def test_photographs_gain_too(run_sample, calibrated, shared, tmp_path):
    folder = calibrated("upscale", 10)
    gains = []
    for path in sorted((shared / "images" / "coco64").glob("*.jpg"))[:3]:
        large = cv2.imread(str(path))
        large = large[: large.shape[0] // 2 * 2, : large.shape[1] // 2 * 2]
        small = cv2.resize(large, (large.shape[1] // 2, large.shape[0] // 2), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / "large.png"), large)
        cv2.imwrite(str(tmp_path / "small.png"), small)
        arguments = [*_OPTIONS, "--reference", "large.png", "--output", "out.png"]
        for int8 in ([], ["--int8", "it"]):
            own, bicubic = map(
                float, re.findall(r"([\d.]+) dB", run_sample(_SCRIPT, folder, "small.png", *arguments, *int8).out)
            )
            gains.append(own - bicubic)
    assert min(gains) > 0.3
