"""image_params of the auto tuning tool."""

from __future__ import annotations

import pytest

from calib8.data import Preprocess, read_image_params
from calib8.errors import DataError


def test_all_keys():
    text = (
        '{"size": [240, 320], "padding": true, "mirror": 1, "color_format": "bgr", "r_mean": 1, "g_mean": 2, '
        '"b_mean": 3.5, "scale": 0.5}'
    )
    assert read_image_params(text) == Preprocess(
        size=(240, 320), resize="letterbox", mirror=1, color_format="bgr", mean=(3.5, 2.0, 1.0), scale=0.5
    )


def test_defaults():
    assert read_image_params("{}") == Preprocess(color_format="rgb", mean=(0.0, 0.0, 0.0))
    assert read_image_params('{"mirror": null}').mirror is None
    assert read_image_params('{"mirror": 0}').mirror == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected keys and values"),
        ("{", "no YAML, JSON or Python dict"),
        ('{"siez": [1, 2]}', "'siez' is unknown; known are size"),
        ('{"size": 3}', "'size' is 3, expected \\[height, width\\]"),
        ('{"size": [1, 2, 3]}', "'size'"),
        ('{"size": [0, 2]}', "'size'"),
        ('{"mirror": 2}', "'mirror' is 2, expected -1, 0 or 1"),
        ('{"mirror": true}', "'mirror'"),
        ('{"color_format": "hsv"}', "'color_format'"),
        ('{"r_mean": "x"}', "'r_mean'"),
        ('{"scale": NaN}', "image_params"),
        ('{"a": "' + "x" * 70000 + '"}', "characters"),
    ],
)
def test_what_cannot_be_read(text, message):
    with pytest.raises(DataError, match=message):
        read_image_params(text)
