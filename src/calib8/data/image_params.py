"""`image_params` of the auto tuning tool: how the images of a list become samples, in JSON.

Keys: size [height, width], padding (keep the aspect ratio, fill up), mirror (OpenCV's flip code: 0 upside down, 1 left
to right, -1 both), color_format (rgb or bgr, default rgb), r_mean, g_mean, b_mean, scale.
"""

from __future__ import annotations

from typing import Any

from calib8.data.general_data_param import (
    KeyReader,
    number,
    parse_keys,
    side,
    take_color,
    take_mean,
    take_padding,
)
from calib8.data.preprocess import Preprocess


def read_image_params(text: str) -> Preprocess:
    """Read the parameters of images from their text.

    Raises:
        DataError: all unknown and wrong keys.
    """
    what = "image_params"
    reader = KeyReader(parse_keys(text, what))
    size = reader.take("size", _size, "[height, width]", None)
    color = take_color(reader)
    mean, scale = take_mean(reader, color), reader.take("scale", number, "a number", 1.0)
    mirror = reader.take("mirror", _flip_code, "-1, 0 or 1", None)
    padding = take_padding(reader)
    reader.finish(what)
    return Preprocess(
        size=size, resize="letterbox" if padding else "warp", color_format=color, mean=mean, scale=scale, mirror=mirror
    )


def _size(value: Any) -> tuple[int, int]:
    height, width = value
    return side(height), side(width)


def _flip_code(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or value not in (-1, 0, 1):
        raise ValueError(value)
    return int(value)
