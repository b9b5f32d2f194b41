"""Datum, the record of Caffe's databases: raw or encoded pixels, and a label.

Source: BVLC/caffe, src/caffe/util/io.cpp, DecodeDatumToCVMat and DecodeDatumToCVMatNative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from calib8.data.image_header import check_image
from calib8.data.transform import Transform
from calib8.errors import DataError
from calib8.proto import caffe_pb2


@dataclass(frozen=True)
class Sample:
    """Pixels (C, H, W), uint8 or float32, the label, and whether the record held the bytes of an image file."""

    pixels: NDArray[Any]
    label: float
    encoded: bool = False


def read_datum(record: bytes, transform: Transform, annotated: bool) -> Sample:
    """Read the sample in a serialized Datum (AnnotatedDatum if `annotated`), decoded and resized.

    Raises:
        DataError: what is wrong with it, without its key.
    """
    datum = _parsed(record, annotated)
    if datum.encoded:
        return Sample(_decode(datum.data, transform), datum.label, encoded=True)
    if transform.resize is not None:
        raise DataError("holds raw pixels, which Caffe does not resize; remove transform_param.resize_param")
    return Sample(_raw(datum), datum.label)


def check_datum(record: bytes, transform: Transform, annotated: bool) -> None:
    """Look at a record as far as it goes without decoding. Raises DataError as `read_datum`."""
    datum = _parsed(record, annotated)
    if datum.encoded:
        try:
            check_image(datum.data)
        except DataError as why:
            raise DataError(f"holds an encoded image ({len(datum.data)} bytes) that {why}") from None
    else:
        read_datum(record, transform, annotated)


def _parsed(record: bytes, annotated: bool) -> Any:
    try:
        return caffe_pb2.AnnotatedDatum.FromString(record).datum if annotated else caffe_pb2.Datum.FromString(record)
    except DecodeError:
        kind = "AnnotatedDatum" if annotated else "Datum"
        raise DataError(f"is truncated or no {kind} ({len(record)} bytes)") from None


def _raw(datum: Any) -> NDArray[Any]:
    """Take raw pixels; uint8 `data` comes before `float_data`, as in Caffe."""
    shape = (datum.channels, datum.height, datum.width)
    if min(shape) < 1:
        raise DataError(f"has the shape {shape}: not a Datum (or one for layers of another type)")
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    count = shape[0] * shape[1] * shape[2]
    if values.size != count:
        raise DataError(f"is truncated: it has {values.size} values, its shape {shape} needs {count}")
    return values.reshape(shape)


def _decode(data: bytes, transform: Transform) -> NDArray[Any]:
    flags = {None: cv2.IMREAD_UNCHANGED, True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE}[transform.color]
    try:
        image = decode_image(data, flags)
    except DataError as why:
        raise DataError(f"holds an encoded image ({len(data)} bytes) that {why}") from None
    if image.dtype != np.uint8:
        raise DataError(f"holds an encoded image of {image.dtype} pixels; 8 bits are expected")
    return chw(transform.resized(image))


def decode_image(data: bytes, flags: int) -> NDArray[Any]:
    """Decode the bytes of an image file to OpenCV's pixels (H, W[, C]).

    Raises:
        DataError: what is wrong with them, as a sentence without its subject; larger than `max_pixels` allows.
    """
    check_image(data)
    try:
        image: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise DataError("is damaged: it cannot be decoded")
    return image


def chw(image: NDArray[Any]) -> NDArray[Any]:
    """View an image (H, W) or (H, W, C) as (C, H, W)."""
    return image[np.newaxis] if image.ndim == 2 else image.transpose(2, 0, 1)
