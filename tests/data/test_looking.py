"""Samples are looked at before the work: all bad ones at once, and a way to go on without them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from calib8.data import ImagesSource, Preprocess, look_at, open_source, refuse_bad_samples, takes
from calib8.data.looking import MAX_PROBLEMS, first_usable
from calib8.errors import DataError
from calib8.proto import caffe_pb2

BAD = {2: b"", 5: b"text", 7: None}
"""By number: empty, no image, cut in the middle."""


def png(number: int) -> bytes:
    return cv2.imencode(".png", np.full((8, 8, 3), number, np.uint8))[1].tobytes()


def contents(number: int) -> bytes:
    data = png(number)
    bad = BAD.get(number, data)
    return data[:-30] if bad is None else bad


@pytest.fixture(params=["images", "ImageData", "Data"])
def source(request, tmp_path, layer_of, write_lmdb):
    """Nine samples, three of them bad; the first one is good."""
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(contents(number))
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/{i}.png {i}\n" for i in range(9)))
    if request.param == "images":
        return ImagesSource(tmp_path / "list.txt", "data", (2, 3, 8, 8), Preprocess())
    if request.param == "ImageData":
        data = f'image_data_param {{ source: "{tmp_path}/list.txt" batch_size: 2 }}'
    else:
        datum = {
            b"%d" % i: caffe_pb2.Datum(encoded=True, data=contents(i), label=i).SerializeToString() for i in range(9)
        }
        write_lmdb(datum)
        data = 'data_param { source: "lmdb" batch_size: 2 backend: LMDB }'
    layer = f'layer {{ name: "data" type: "{request.param}" top: "data" top: "label" {data} }}'
    return open_source(layer_of(layer), tmp_path)


def test_heads_show_most_of_what_is_bad(source):
    look = look_at(source)
    assert look.seen == 9 and {2, 5} <= set(look.bad) <= set(BAD)
    assert all(str(i) in text for i, text in look.bad.items())


def test_decoding_shows_all(source):
    assert set(look_at(source, decode=True).bad) == set(BAD)


def test_a_look_ends_when_enough_are_good(source):
    look = look_at(source, 3, decode=True)
    assert look.seen == 4 and set(look.bad) == {2}


def test_all_bad_ones_are_named_at_once(source):
    with pytest.raises(DataError, match=r"^2 of 7 samples cannot be used; `skip_bad` goes on without them") as error:
        refuse_bad_samples(source, 7)
    assert len(error.value.problems) == 2
    refuse_bad_samples(source, 2)


def test_what_is_left_are_the_good_ones_in_their_order(source):
    good = source.without(look_at(source, decode=True).bad)
    assert good.size == 6 and source.size == 9
    batches = list(takes(good, 6))
    pixels = np.concatenate([b["data"] for b in batches])
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 6, 8]
    if "label" in batches[0]:
        assert np.concatenate([b["label"] for b in batches]).tolist() == [0, 1, 3, 4, 6, 8]
    assert look_at(good, decode=True).bad == {}
    fewer = good.without({0, 4})
    assert np.concatenate([b["data"] for b in fewer.batches()])[:, 0, 0, 0].tolist() == [1, 3, 4, 8]
    if isinstance(source, ImagesSource):
        assert fewer.names == ("1.png", "3.png", "4.png", "8.png")
        assert fewer.prepared_by(Preprocess(scale=2.0)).names == fewer.names


def test_a_bad_first_sample_settles_no_shape(tmp_path, layer_of):
    (tmp_path / "a.png").write_bytes(b"text")
    (tmp_path / "b.png").write_bytes(png(1))
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    layer = 'layer { name: "d" type: "ImageData" top: "x" image_data_param { source: "list.txt" batch_size: 1 } }'
    source = open_source(layer_of(layer), tmp_path)
    assert source.shapes == {"x": (1, 3, 8, 8)} and set(look_at(source).bad) == {0}
    with pytest.raises(DataError, match=r"a\.png"):
        list(source.batches())


def test_no_good_sample_at_all():
    def fail(number):
        raise DataError(f"sample {number}")

    with pytest.raises(DataError, match="sample 0"):
        first_usable([lambda: fail(0), lambda: fail(1)])


def test_many_bad_ones_are_counted(tmp_path):
    for number in range(50):
        (tmp_path / f"{number:02}.png").write_bytes(b"text")
    lines = look_at(ImagesSource(tmp_path, "x", (1, 3, 8, 8), Preprocess())).lines
    assert len(lines) == MAX_PROBLEMS + 1 and lines[-1] == "and 30 more"
