from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calib8.data import open_source, takes
from calib8.errors import DataError
from calib8.proto import caffe_pb2

WriteLmdb = Callable[..., Path]
LayerOf = Callable[[str], Any]


def prototxt(source: str = "lmdb", data: str = "batch_size: 3 backend: LMDB", rest: str = "") -> str:
    return f"""layer {{
      name: "data" type: "Data" top: "data" top: "label" {rest}
      data_param {{ source: "{source}" {data} }}
    }}"""


def raw(index: int, shape: tuple[int, int, int] = (2, 3, 4)) -> bytes:
    pixels = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
    return caffe_pb2.Datum(
        channels=shape[0], height=shape[1], width=shape[2], data=pixels.tobytes(), label=index
    ).SerializeToString()


def pixels_of(index: int, shape: tuple[int, int, int] = (2, 3, 4)) -> Any:
    return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


def keys(count: int) -> list[bytes]:
    return [b"%08d" % i for i in range(count)]


def test_raw_records_in_the_order_of_their_keys(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    write_lmdb({key: raw(i) for i, key in reversed(list(enumerate(keys(8))))})
    source = open_source(layer_of(prototxt()), tmp_path)
    assert source.shapes == {"data": (3, 2, 3, 4), "label": (3,)}
    assert (source.size, source.batch_size) == (8, 3)
    batches = list(source.batches())
    assert [b["label"].tolist() for b in batches] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    got = np.concatenate([b["data"] for b in batches])
    assert got.dtype == np.float32
    assert (got == np.stack([pixels_of(i) for i in range(8)])).all()


def test_two_passes_give_the_same_bytes(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    write_lmdb({key: raw(i) for i, key in enumerate(keys(5))})
    source = open_source(layer_of(prototxt(rest="transform_param { scale: 0.1 }")), tmp_path)
    first, second = ([b["data"].tobytes() for b in takes(source, 4)] for _ in range(2))
    assert first == second


def test_a_batch_stays_the_callers(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    write_lmdb({key: raw(i) for i, key in enumerate(keys(6))})
    batches = list(open_source(layer_of(prototxt()), tmp_path).batches())
    assert (batches[0]["data"] == np.stack([pixels_of(i) for i in range(3)])).all()


def test_float_data(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    values = np.linspace(-1, 1, 12, dtype=np.float32)
    datum = caffe_pb2.Datum(channels=1, height=3, width=4, float_data=values)
    write_lmdb({b"a": datum.SerializeToString()})
    (batch,) = open_source(layer_of(prototxt()), tmp_path).batches()
    assert (batch["data"].ravel() == values).all()


@pytest.mark.parametrize(
    ("fields", "channels"),
    [("", {"color": 3, "gray": 1}), ("force_color: true", {"gray": 3}), ("force_gray: true", {"color": 1})],
)
def test_encoded_records(
    tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf, fields: str, channels: dict[str, int]
) -> None:
    images = {"color": pixels_of(1, (5, 6, 3)), "gray": pixels_of(2, (5, 6, 1))}
    for kind, count in channels.items():
        code = cv2.imencode(".png", images[kind])[1].tobytes()
        path = write_lmdb({b"a": caffe_pb2.Datum(data=code, encoded=True, label=7).SerializeToString()}, kind)
        (batch,) = open_source(
            layer_of(prototxt(path.name, rest=f"transform_param {{ {fields} }}")), tmp_path
        ).batches()
        assert batch["data"].shape == (1, count, 5, 6)
        assert batch["label"].tolist() == [7]
        if not fields:
            assert (batch["data"][0] == np.moveaxis(images[kind], -1, 0)).all()
        elif "color" in fields:
            assert (batch["data"][0] == images[kind][:, :, 0]).all()
        else:
            weights = np.array([0.114, 0.587, 0.299])
            assert np.abs(batch["data"][0, 0] - images[kind] @ weights).max() <= 1


def test_force_encoded_color_of_old_prototxts(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    code = cv2.imencode(".png", pixels_of(1, (5, 6, 1)))[1].tobytes()
    write_lmdb({b"a": caffe_pb2.Datum(data=code, encoded=True).SerializeToString()})
    source = open_source(layer_of(prototxt(data="batch_size: 1 force_encoded_color: true")), tmp_path)
    assert source.shapes["data"] == (1, 3, 5, 6)


def test_annotated_data_gives_the_image(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    image = pixels_of(3, (5, 6, 3))
    datum = caffe_pb2.Datum(data=cv2.imencode(".png", image)[1].tobytes(), encoded=True)
    record = caffe_pb2.AnnotatedDatum(datum=datum)
    record.annotation_group.add(group_label=3)
    write_lmdb({b"a": record.SerializeToString()})
    rest = "transform_param { resize_param { height: 5 width: 6 resize_mode: WARP } }"
    text = prototxt(rest=rest).replace('"Data"', '"AnnotatedData"')
    source = open_source(layer_of(text), tmp_path)
    assert source.shapes == {"data": (3, 3, 5, 6)}
    (batch,) = source.batches()
    assert (batch["data"][0] == image.transpose(2, 0, 1)).all()


def test_crop_makes_images_of_several_sizes_fit(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    write_lmdb({b"a": raw(1, (2, 6, 5)), b"b": raw(2, (2, 4, 8))})
    source = open_source(layer_of(prototxt(rest="transform_param { crop_size: 4 }")), tmp_path)
    (batch,) = source.batches()
    assert (batch["data"][0] == pixels_of(1, (2, 6, 5))[:, 1:5, 0:4]).all()
    assert (batch["data"][1] == pixels_of(2, (2, 4, 8))[:, 0:4, 2:6]).all()


def test_the_working_directory_comes_before_the_models_folder(
    tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lmdb({b"a": raw(1)}, "model/db")
    write_lmdb({b"a": raw(2), b"b": raw(3)}, "work/db")
    monkeypatch.chdir(tmp_path / "work")
    assert open_source(layer_of(prototxt("./db")), tmp_path / "model").size == 2
    monkeypatch.chdir(tmp_path)
    assert open_source(layer_of(prototxt("./db")), tmp_path / "model").size == 1


def test_two_sources_read_one_database_in_turns(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    write_lmdb({key: raw(i) for i, key in enumerate(keys(4))})
    one, two = (open_source(layer_of(prototxt(data="batch_size: 1")), tmp_path) for _ in range(2))
    for a, b in zip(one.batches(), two.batches(), strict=True):
        assert (a["data"] == b["data"]).all()


def test_chance_is_not_followed_but_noted(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    write_lmdb({key: raw(i) for i, key in enumerate(keys(4))})
    source = open_source(layer_of(prototxt(data="batch_size: 4 rand_skip: 3 backend: LMDB")), tmp_path)
    assert ["rand_skip" in note for note in source.notes] == [True]
    assert next(source.batches())["label"].tolist() == [0, 1, 2, 3]


def refused(layer_of: LayerOf, folder: Path, text: str) -> str:
    with pytest.raises(DataError) as error:
        list(open_source(layer_of(text), folder).batches())
    return str(error.value)


def test_no_database_there(tmp_path: Path, layer_of: LayerOf) -> None:
    message = refused(layer_of, tmp_path, prototxt("no/such_lmdb"))
    assert "'data'" in message and "no/such_lmdb" in message and str(Path.cwd()) in message


def test_a_folder_or_a_file_that_is_no_lmdb(tmp_path: Path, layer_of: LayerOf) -> None:
    (tmp_path / "lmdb").mkdir()
    assert "no readable LMDB" in refused(layer_of, tmp_path, prototxt())
    (tmp_path / "lmdb" / "data.mdb").write_bytes(b"something else" * 1000)
    assert "is no LMDB" in refused(layer_of, tmp_path, prototxt())
    (tmp_path / "lmdb" / "data.mdb").write_bytes(b"")
    assert "is no LMDB" in refused(layer_of, tmp_path, prototxt())
    assert [p.name for p in (tmp_path / "lmdb").iterdir()] == ["data.mdb"]


def test_a_truncated_database(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    path = write_lmdb({key: raw(i, (3, 40, 40)) for i, key in enumerate(keys(20))}) / "data.mdb"
    size = path.stat().st_size
    os.truncate(path, size // 2)
    message = refused(layer_of, tmp_path, prototxt())
    assert "truncated" in message and str(size // 2) in message and str(size) in message


def test_an_empty_database(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    write_lmdb({})
    assert "is empty" in refused(layer_of, tmp_path, prototxt())


def test_leveldb_is_refused_with_advice(tmp_path: Path, layer_of: LayerOf) -> None:
    message = refused(layer_of, tmp_path, prototxt(data="batch_size: 1 backend: LEVELDB"))
    assert "LEVELDB" in message and "convert_imageset" in message
    (tmp_path / "lmdb").mkdir()
    (tmp_path / "lmdb" / "CURRENT").write_text("MANIFEST-000002\n")
    assert "LEVELDB" in refused(layer_of, tmp_path, prototxt(data="batch_size: 1"))


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (raw(1)[:-5], "truncated"),
        (b"", "not a Datum"),
        (caffe_pb2.Datum(channels=2, height=3, width=4, data=bytes(23)).SerializeToString(), "23 values"),
        (
            caffe_pb2.Datum(channels=2**31 - 1, height=2**31 - 1, width=2**31 - 1, data=b"1").SerializeToString(),
            "1 val",
        ),
        (caffe_pb2.Datum(channels=-2, height=-3, width=4, data=bytes(24)).SerializeToString(), "not a Datum"),
        (caffe_pb2.Datum(data=b"no image", encoded=True).SerializeToString(), "is damaged"),
        (caffe_pb2.Datum(encoded=True).SerializeToString(), "is damaged"),
        (raw(1, (2, 5, 4)), "shape"),
        (raw(1, (1, 3, 4)), "shape"),
    ],
)
def test_a_bad_record_is_named_by_its_key(
    tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf, record: bytes, what: str
) -> None:
    write_lmdb({b"00000000": raw(0), b"00000001_cat.jpg": record})
    message = refused(layer_of, tmp_path, prototxt())
    assert "'00000001_cat.jpg'" in message and what in message and "lmdb" in message


@pytest.mark.parametrize("data", ["", "batch_size: 0", "batch_size: 4000000000"])
def test_batch_sizes_that_cannot_be(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf, data: str) -> None:
    write_lmdb({b"a": raw(0)})
    assert "batch" in refused(layer_of, tmp_path, prototxt(data=data))


def test_resizing_raw_pixels_is_refused(tmp_path: Path, write_lmdb: WriteLmdb, layer_of: LayerOf) -> None:
    write_lmdb({b"a": raw(0)})
    rest = "transform_param { resize_param { height: 2 width: 2 } }"
    assert "resize_param" in refused(layer_of, tmp_path, prototxt(rest=rest))


def test_layers_without_samples_are_refused(tmp_path: Path, layer_of: LayerOf) -> None:
    message = refused(layer_of, tmp_path, 'layer { name: "in" type: "MemoryData" top: "data" }')
    assert "'in'" in message and "MemoryData" in message and "`images=..`" in message
