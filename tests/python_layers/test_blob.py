from __future__ import annotations

import numpy as np
import pytest

from calib8.python_layers import Blob, BlobVec


def test_data_is_live() -> None:
    blob = Blob((2, 3))
    view = blob.data
    blob.data[...] = 7
    assert view.tolist() == [[7] * 3] * 2
    assert blob.data.dtype == np.float32
    blob.diff[0, 1] = 5
    assert blob.diff.tolist() == [[0, 5, 0], [0, 0, 0]]
    with pytest.raises(AttributeError):
        blob.data = np.zeros((2, 3))  # type: ignore[misc]


def test_reshape_keeps_the_storage_while_it_is_large_enough() -> None:
    blob = Blob((2, 3))
    blob.data[...] = np.arange(6).reshape(2, 3)
    blob.reshape(4)
    assert blob.data.tolist() == [0, 1, 2, 3]
    blob.reshape(3, 2)
    assert blob.data.tolist() == [[0, 1], [2, 3], [4, 5]]
    blob.reshape(7)
    assert blob.data.shape == (7,)


def test_legacy_names() -> None:
    blob = Blob((2, 3, 5))
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 3, 5, 1, 30)
    assert blob.shape == (2, 3, 5)
    blob.reshape(np.int64(4))
    assert (blob.num, blob.channels, blob.count) == (4, 1, 4)
    blob.reshape()
    assert (blob.count, blob.data.shape) == (1, ())
    with pytest.raises(ValueError, match="5 axes"):
        _ = Blob((1, 1, 1, 1, 1)).num


@pytest.mark.parametrize("shape", [(-1,), (2**31,), (2**16, 2**16), (1,) * 33])
def test_shapes_that_no_blob_has(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot have the shape"):
        Blob().reshape(*shape)


def test_sizes_are_whole_numbers() -> None:
    with pytest.raises(TypeError):
        Blob().reshape(1, 2.5)  # type: ignore[arg-type]


def test_weights_are_made_with_add_blob() -> None:
    blobs = BlobVec()
    blobs.add_blob(2, 3)
    blobs.add_blob(1)
    assert [b.shape for b in blobs] == [(2, 3), (1,)]
    assert not blobs[0].data.any()
