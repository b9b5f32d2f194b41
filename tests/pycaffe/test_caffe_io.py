from __future__ import annotations

import numpy as np
import pytest

import caffe.io
from calib8.proto import caffe_pb2


def test_blobs_go_there_and_back() -> None:
    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    back = caffe.io.blobproto_to_array(caffe.io.array_to_blobproto(values))
    assert back.tobytes() == values.tobytes() and back.shape == values.shape
    back[0, 0, 0, 0] = 7  # the caller's own


def test_old_blobs_have_four_numbers() -> None:
    blob = caffe_pb2.BlobProto(num=1, channels=2, height=1, width=2, data=[1, 2, 3, 4])
    assert caffe.io.blobproto_to_array(blob).tolist() == [[[[1, 2]], [[3, 4]]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_datums_go_there_and_back(dtype: type) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    datum = caffe.io.array_to_datum(values, label=5)
    assert (datum.channels, datum.height, datum.width, datum.label) == (2, 3, 4, 5)
    back = caffe.io.datum_to_array(datum)
    assert back.dtype == dtype
    assert (back == values).all()
    assert not caffe.io.array_to_datum(values).HasField("label")
