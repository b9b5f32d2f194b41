"""Arrays as samples: .npz, folders and single files; everything that does not fit is refused before it is read."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from calib8.data import ArraysSource
from calib8.errors import DataError

SOUND = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
RATE = np.arange(5, dtype=np.int16).reshape(5, 1)
INPUTS = {"sound": (2, 2, 3), "rate": (2, 1)}


def store_npz(folder, arrays, save=np.savez):
    save(folder / "s.npz", **arrays)
    return folder / "s.npz"


def store_compressed(folder, arrays):
    return store_npz(folder, arrays, np.savez_compressed)


def store_files(folder, arrays):
    (folder / "s").mkdir()
    for name, array in arrays.items():
        np.save(folder / "s" / f"{name}.npy", array)
    return folder / "s"


def store_folders(folder, arrays):
    for name, array in arrays.items():
        (folder / "s" / name).mkdir(parents=True)
        for i, sample in enumerate(array):
            np.save(folder / "s" / name / f"{i:03}.npy", sample)
            (folder / "s" / name / "._000.npy").write_bytes(b"what macOS leaves on foreign disks")
    return folder / "s"


FORMS = [store_npz, store_compressed, store_files, store_folders]


@pytest.mark.parametrize("store", FORMS)
def test_every_form_gives_the_same_batches(tmp_path, store):
    source = ArraysSource(store(tmp_path, {"rate": RATE, "sound": SOUND}), INPUTS, ["sound", "rate"])
    assert source.shapes == INPUTS and (source.size, source.batch_size) == (5, 2)
    for _ in range(2):  # every call begins anew
        batches = list(source.batches())
        assert [len(b["sound"]) for b in batches] == [2, 2, 1]
        assert all(a.dtype == np.float32 for b in batches for a in b.values())
        assert np.array_equal(np.concatenate([b["sound"] for b in batches]), SOUND)
        assert np.array_equal(np.concatenate([b["rate"] for b in batches]), RATE)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u1", "i4", "u8"])
def test_numbers_of_every_kind(tmp_path, dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    (batch,) = ArraysSource(store_npz(tmp_path, {"x": values}), {"x": (2, 3)}, ["x"]).batches()
    assert np.array_equal(batch["x"], np.arange(6).reshape(2, 3))


def test_a_single_input_needs_no_name(tmp_path):
    np.save(tmp_path / "anything.npy", SOUND)
    np.savez(tmp_path / "a.npz", SOUND)
    folder = store_folders(tmp_path, {"": SOUND})
    for path in (tmp_path / "anything.npy", tmp_path / "a.npz", folder):
        source = ArraysSource(path, {"x": (1, 2, 3), "label": (1,)}, ["x"])
        assert source.size == 5
        assert np.array_equal(np.concatenate([b["x"] for b in source.batches()]), SOUND)


def test_whole_blobs_of_several_rows(tmp_path):
    """A run of an LSTM takes three time steps of one sequence; four runs."""
    x = np.arange(4 * 3 * 1 * 2, dtype=np.float32).reshape(4, 3, 1, 2)
    inputs = {"x": (3, 1, 2), "cont": (3, 1), "y": (1, 5)}
    arrays = {"x": x, "cont": np.ones((12, 1)), "y": np.zeros((4, 5))}
    source = ArraysSource(store_npz(tmp_path, arrays), inputs, list(inputs))
    batches = list(source.batches())
    assert [b["x"].shape for b in batches] == [(3, 1, 2)] * 4
    assert all(np.array_equal(b["x"], run) for b, run in zip(batches, x, strict=True))
    assert [b["cont"].shape for b in batches] == [(3, 1)] * 4 and [b["y"].shape for b in batches] == [(1, 5)] * 4


def test_the_shape_of_a_data_layer_is_that_of_its_array(tmp_path):
    source = ArraysSource(store_npz(tmp_path, {"data": SOUND}), {"data": None, "label": None}, ["data"])
    assert source.shapes == {"data": (1, 2, 3)} and source.size == 5


def test_labels_are_given_beside_the_inputs(tmp_path):
    arrays = {"sound": SOUND, "labels": np.array([3, 1, 4, 1, 5])}
    source = ArraysSource(store_npz(tmp_path, arrays), {"sound": (2, 2, 3)}, ["sound"])
    assert source.shapes == {"sound": (2, 2, 3)}
    assert [b["label"].tolist() for b in source.batches()] == [[3, 1], [4, 1], [5]]


def test_constants_stand_in_for_an_array(tmp_path):
    source = ArraysSource(
        store_npz(tmp_path, {"sound": SOUND}), INPUTS, list(INPUTS), {"rate": np.full((2, 1), 7, np.float32)}
    )
    assert [b["rate"].tolist() for b in source.batches()] == [[[7], [7]]] * 3


@pytest.mark.parametrize(
    ("arrays", "inputs", "message"),
    [
        ({"sound": SOUND}, INPUTS, "has no array for 'rate'; it has 'sound', and the inputs are 'sound', 'rate'"),
        ({"sound": SOUND, "rate": RATE, "pace": RATE}, INPUTS, "has arrays 'pace' for no input"),
        ({"sound": SOUND, "rate": RATE[:4]}, INPUTS, "different numbers of runs: 2.5 for 'sound', 2 for 'rate'"),
        ({"sound": SOUND[:, :1], "rate": RATE}, INPUTS, "which has the shape (2, 2, 3): it has the shape (5, 1, 3)"),
        ({"sound": SOUND.reshape(5, 6), "rate": RATE}, INPUTS, "rows of the shape (2, 3) are expected"),
        ({"sound": SOUND[:0], "rate": RATE}, INPUTS, "which holds nothing"),
        ({"sound": np.asfortranarray(SOUND), "rate": RATE}, INPUTS, "save np.ascontiguousarray(array)"),
        ({"sound": SOUND.astype(complex), "rate": RATE}, INPUTS, "numbers are expected"),
        ({"sound": np.array([{}], object), "rate": RATE}, INPUTS, "numbers are expected"),
        ({"sound": SOUND, "rate": RATE, "label": np.zeros(4)}, INPUTS, "labels have the shape (4,); expected (5,)"),
        ({}, INPUTS, "holds no arrays"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, arrays, inputs, message):
    path = store_npz(tmp_path, arrays)
    with pytest.raises(DataError) as caught:
        ArraysSource(path, inputs, list(inputs))
    assert message in str(caught.value) and "s.npz" in str(caught.value)


def npy(head: bytes, values: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + values


CLAIMS_MUCH = npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (8, 1073741824)}", b"1234")
EXECUTES = npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os').getcwd()}")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no array", CLAIMS_MUCH, EXECUTES, npy(b"(" * 4000)])
@pytest.mark.parametrize("form", ["npy", "npz", "folder", "bare npz"])
def test_hostile_files(tmp_path, content, form):
    path = tmp_path / ("s.npy" if form == "npy" else "s.npz")
    if form == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    elif form == "folder":
        path = tmp_path / "s"
        path.mkdir()
        (path / "x.npy").write_bytes(content)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"s\.np|x\.npy"):
        ArraysSource(path, {"x": (1, 2)}, ["x"])


def test_damaged_values_are_an_error_when_they_are_read(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.random.default_rng(0).standard_normal((200, 50)))
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "s.npz").write_bytes(data)
    source = ArraysSource(tmp_path / "s.npz", {"x": (1, 50)}, ["x"])
    with pytest.raises(DataError, match="the array 'x' cannot be read"):
        list(source.batches())


def test_one_of_many_files_is_named(tmp_path):
    folder = store_folders(tmp_path, {"x": SOUND})
    (folder / "x" / "003.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"003\.npy cannot be read"):
        ArraysSource(folder, {"x": (1, 2, 3)}, ["x"])


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        ArraysSource(tmp_path / "nowhere.npz", {"x": (1, 2)}, ["x"])
