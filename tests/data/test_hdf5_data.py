from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib8.data import open_source, takes
from calib8.errors import DataError

h5py = pytest.importorskip("h5py")
LayerOf = Callable[[str], Any]


def write(path: Path, first: int, rows: int, **extra: Any) -> None:
    with h5py.File(path, "w") as file:
        data = np.arange(first * 6, (first + rows) * 6, dtype=np.float64).reshape(rows, 2, 3)
        for name, values in {"data": data, "label": np.arange(first, first + rows), **extra}.items():
            if values is not None:
                file[name] = values


def prototxt(rest: str = "batch_size: 4", more: str = "") -> str:
    return f"""layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" {more}
      hdf5_data_param {{ source: "list.txt" {rest} }} }}"""


def test_batches_run_over_the_files(tmp_path: Path, layer_of: LayerOf) -> None:
    write(tmp_path / "a.h5", 0, 3)
    write(tmp_path / "b.h5", 3, 7)
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    source = open_source(layer_of(prototxt()), tmp_path)
    assert (source.size, source.shapes) == (10, {"data": (4, 2, 3), "label": (4,)})
    batches = list(source.batches())
    assert [b["label"].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert np.concatenate([b["data"] for b in batches]).ravel().tolist() == list(range(60))
    assert all(b["data"].dtype == np.float32 for b in batches)
    assert [len(b["data"]) for b in takes(source, 6)] == [4, 2]


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ({"label": None}, "no dataset 'label'"),
        ({"label": np.arange(4)}, "rows"),
        ({"data": np.zeros((3, 2, 4))}, "do not fit together"),
        ({"data": np.array([b"x", b"y", b"z"])}, "no rows of numbers"),
        ({"data": np.float32(1)}, "no rows of numbers"),
        ({"data": np.zeros((0, 2, 3)), "label": np.zeros(0)}, "rows"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, layer_of: LayerOf, second: dict[str, Any], what: str) -> None:
    write(tmp_path / "a.h5", 0, 3)
    write(tmp_path / "b.h5", 0, 3, **second)
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    with pytest.raises(DataError, match=what) as error:
        open_source(layer_of(prototxt()), tmp_path)
    assert "b.h5" in str(error.value)


@pytest.mark.parametrize(
    ("listed", "rest", "more", "what"),
    [
        ("", "batch_size: 1", "", "no files"),
        ("gone.h5", "batch_size: 1", "", "gone.h5"),
        ("list.txt", "batch_size: 1", "", "no readable HDF5"),
        ("a.h5", "", "", "batch_size"),
        ("a.h5", "batch_size: 2000000000", "", "larger than a blob"),
        ("a.h5", "batch_size: 1", "transform_param { scale: 2 }", "transform_param"),
    ],
)
def test_what_cannot_be(tmp_path: Path, layer_of: LayerOf, listed: str, rest: str, more: str, what: str) -> None:
    write(tmp_path / "a.h5", 0, 3)
    (tmp_path / "list.txt").write_text(listed)
    with pytest.raises(DataError, match=what):
        open_source(layer_of(prototxt(rest, more)), tmp_path)


def test_without_h5py_it_says_how_to_get_it(tmp_path: Path, layer_of: LayerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.h5", 0, 3)
    (tmp_path / "list.txt").write_text("a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="pip install"):
        open_source(layer_of(prototxt()), tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f, h5py: f.__setitem__("x", h5py.ExternalLink("/dev/zero", "y")), "is a link to another file"),
        (
            lambda f, h5py: f.create_dataset("x", (2, 3), "f4", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]),
            "keeps its values in another file",
        ),
        (lambda f, h5py: f.create_dataset("x", (2, 2**20, 64), "f4", chunks=(1, 2**10, 64)), "0 are stored"),
        (
            lambda f, h5py: f.create_dataset("x", data=np.ones((2, 40), "f4"), chunks=(2, 40)),
            "stored in pieces of 320 bytes",
        ),
    ],
)
def test_files_that_lead_elsewhere_or_claim_more_than_they_hold(tmp_path, layer_of, monkeypatch, make, message):
    monkeypatch.setattr("calib8.data.hdf5_data._MOST_CHUNK", 300)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file, h5py)
    (tmp_path / "list.txt").write_text("a.h5\n")
    layer = 'layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "list.txt" batch_size: 1 } }'
    with pytest.raises(DataError, match=message):
        open_source(layer_of(layer), tmp_path)
