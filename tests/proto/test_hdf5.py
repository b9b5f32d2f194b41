"""Weights in HDF5, in Caffe's layout."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from calib8.errors import CaffemodelError
from calib8.proto.caffemodel import read_caffemodel

h5py = pytest.importorskip("h5py")

_WEIGHTS = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
_BIAS = np.array([1, 2], np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.caffemodel.h5"


def _write(path, fill):
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def _conv(file):
    group = file.create_group("data/conv")
    group["0"], group["1"] = _WEIGHTS, _BIAS


def test_layers_and_blobs(path):
    def fill(file):
        _conv(file)
        file.create_group("data/relu")
        file.create_group("diff/conv")
        file["data/in/3x3/0"] = _BIAS.astype("<f8")
        file["data/half/0"] = _BIAS.astype("<f2")
        file["data/many"] = h5py.SoftLink("/data/conv")

    model = read_caffemodel(_write(path, fill))
    layers = {x.name: x.blobs for x in model.layers}
    assert sorted(layers) == ["conv", "half", "in/3x3", "many", "relu"]
    assert layers["relu"] == ()
    for name in ("conv", "many"):
        assert np.array_equal(layers[name][0], _WEIGHTS) and np.array_equal(layers[name][1], _BIAS)
    assert np.array_equal(layers["in/3x3"][0], _BIAS) and np.array_equal(layers["half"][0], _BIAS)
    assert all(b.dtype == np.float32 and not b.flags.writeable for x in layers.values() for b in x)
    assert model.source == str(path)


def test_ten_blobs_are_in_the_order_of_their_numbers(path):
    def fill(file):
        for index in range(12):
            file[f"data/x/{index}"] = np.float32([index])

    (layer,) = read_caffemodel(_write(path, fill)).layers
    assert [b[0] for b in layer.blobs] == list(range(12))


def _set(name, value):
    return lambda file: file.__setitem__(name, value)


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (_set("other", _BIAS), "no group /data"),
        (_set("data", _BIAS), "no group /data"),
        (_set("data/x/1", _BIAS), "/data/x has the blobs 1; 0 is missing"),
        (_set("data/x/weights", _BIAS), "0 is missing"),
        (_set("data/x/0", np.array([b"text"])), "not numbers"),
        (_set("data/x", h5py.SoftLink("/nowhere")), "'/nowhere', which is not there"),
        (_set("data/x", h5py.ExternalLink("other.h5", "/data/x")), "is a link to another file"),
        (_set("data", h5py.ExternalLink("other.h5", "/data")), "is a link to another file"),
        (_set("data/x", h5py.SoftLink("/data")), "a circle of links"),
        (lambda f: f.create_dataset("data/x/0", (1 << 40,), "f4"), "0 are stored"),
        (lambda f: f.create_dataset("data/x/0", (2,), "f4", external="values.bin"), "in another file"),
    ],
)
def test_hostile_and_wrong_files_are_refused(path, fill, words):
    _write(path, fill)
    with pytest.raises(CaffemodelError) as caught:
        read_caffemodel(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_virtual_dataset_is_refused(path):
    layout = h5py.VirtualLayout(shape=(2,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(2,))
    _write(path, lambda f: f.create_virtual_dataset("data/x/0", layout))
    with pytest.raises(CaffemodelError, match="in another file"):
        read_caffemodel(path)


def test_damaged_files_are_refused(path):
    data = _write(path, _conv).read_bytes()
    for size in (8, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(CaffemodelError):
            read_caffemodel(path)


def test_without_h5py_the_message_says_what_to_install(path, monkeypatch):
    _write(path, _conv)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CaffemodelError, match=r"pip install calib8\[hdf5\]"):
        read_caffemodel(path)


def test_a_small_file_is_no_large_model(path):
    """Zeros become a thousandth of their size: within what one dataset may claim, and too much for a file."""

    def fill(file):
        _conv(file)
        zeros = file.create_dataset("data/zeros/0", (2**25,), "f4", chunks=(2**20,), compression="gzip")
        zeros[...] = 0

    _write(path, fill)
    assert path.stat().st_size < 2**20
    with pytest.raises(CaffemodelError, match="which no weights of its size do"):
        read_caffemodel(path)
