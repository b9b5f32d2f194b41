from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calib8.data import ImagesSource, Preprocess, open_source
from calib8.errors import DataError

LayerOf = Callable[[str], Any]


def picture(index: int, shape: tuple[int, ...] = (5, 6, 3)) -> Any:
    return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


def write_images(folder: Path, count: int, shape: tuple[int, ...] = (5, 6, 3)) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), picture(i, shape))
    return names


def prototxt(data: str, rest: str = "") -> str:
    return f"""layer {{ name: "data" type: "ImageData" top: "data" top: "label" {rest}
      image_data_param {{ {data} }} }}"""


def test_list_with_labels(tmp_path: Path, layer_of: LayerOf) -> None:
    names = write_images(tmp_path, 5)
    (tmp_path / "list.txt").write_text("".join(f"{n} {10 + i}\r\n" for i, n in enumerate(names)))
    source = open_source(layer_of(prototxt('source: "list.txt" batch_size: 2')), tmp_path)
    assert source.shapes == {"data": (2, 3, 5, 6), "label": (2,)}
    assert source.size == 5
    batches = list(source.batches())
    assert [b["label"].tolist() for b in batches] == [[10, 11], [12, 13], [14]]
    assert (batches[2]["data"][0] == picture(4).transpose(2, 0, 1)).all()


def test_names_with_spaces_and_without_labels(tmp_path: Path, layer_of: LayerOf) -> None:
    for name in ("a cat.png", "b.png", "c 7", "ü.png"):
        data = cv2.imencode(".png", picture(1))[1].tobytes()
        (tmp_path / name).write_bytes(data)
    (tmp_path / "list.txt").write_text("a cat.png 3\n\nb.png\nc 7\nü.png -1\n")
    source = open_source(layer_of(prototxt('source: "list.txt" batch_size: 4')), tmp_path)
    (batch,) = source.batches()
    assert batch["label"].tolist() == [3, 0, 0, -1]


@pytest.mark.parametrize(
    ("labels", "expected", "said"),
    [
        (["2.883333", "1.5"], [2.883333, 1.5], "2 of 2 labels are no whole numbers (list.txt:1: 2.88333)"),
        (["-1e-3", "4"], [-1e-3, 4], "1 of 2 labels are no whole numbers (list.txt:1: -0.001)"),
        (["1 0 1", "0 1 1"], [np.nan, np.nan], "2 of 2 labels are no whole numbers (list.txt:1: several numbers)"),
        (["3.0", "4."], [3, 4], ""),
    ],
)
def test_labels_of_other_tasks_are_named(
    tmp_path: Path,
    layer_of: LayerOf,
    monkeypatch: pytest.MonkeyPatch,
    labels: list[str],
    expected: list[float],
    said: str,
) -> None:
    names = write_images(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("".join(f"{n} {label}\n" for n, label in zip(names, labels, strict=True)))
    source = open_source(layer_of(prototxt('source: "list.txt" batch_size: 2')), tmp_path)
    (batch,) = source.batches()
    assert np.allclose(batch["label"], expected, rtol=1e-6, equal_nan=True)
    assert [said in note for note in source.notes] == [True] * bool(said)
    given = ImagesSource("list.txt", "x", (2, 3, 5, 6), Preprocess())
    assert given.notes == source.notes
    assert (next(iter(given.batches()))["x"] == batch["data"]).all()


def test_missing_images_are_named_without_their_labels(tmp_path: Path, layer_of: LayerOf) -> None:
    (tmp_path / "list.txt").write_text("00.png 2.883333\n01 b.png 1 0 1\n")
    with pytest.raises(DataError) as caught:
        open_source(layer_of(prototxt('source: "list.txt"')), tmp_path)
    assert [p.split(": ")[-1] for p in caught.value.problems] == ["no file 00.png", "no file 01 b.png"]


def test_root_folder_stands_before_every_path(tmp_path: Path, layer_of: LayerOf) -> None:
    write_images(tmp_path / "pictures", 1)
    (tmp_path / "list.txt").write_text("0.png 0\n")
    text = prototxt('source: "list.txt" root_folder: "pictures/"')
    assert open_source(layer_of(text), tmp_path).size == 1


def test_resized_in_eight_bits_then_transformed(tmp_path: Path, layer_of: LayerOf) -> None:
    write_images(tmp_path, 1, (9, 7, 3))
    (tmp_path / "list.txt").write_text("0.png 0\n")
    text = prototxt(
        'source: "list.txt" new_height: 6 new_width: 8',
        "transform_param { crop_size: 4 mean_value: 1 mean_value: 2 mean_value: 3 scale: 2 }",
    )
    (batch,) = open_source(layer_of(text), tmp_path).batches()
    resized = cv2.resize(picture(0, (9, 7, 3)), (8, 6))
    expected = (resized[1:5, 2:6].astype(np.float32) - [1, 2, 3]) * 2
    assert (batch["data"][0] == expected.transpose(2, 0, 1)).all()


def test_gray(tmp_path: Path, layer_of: LayerOf) -> None:
    write_images(tmp_path, 1, (5, 6, 1))
    (tmp_path / "list.txt").write_text("0.png 0\n")
    (batch,) = open_source(layer_of(prototxt('source: "list.txt" is_color: false')), tmp_path).batches()
    assert (batch["data"][0, 0] == picture(0, (5, 6, 1))[:, :, 0]).all()


def test_shuffle_is_not_followed_but_noted(tmp_path: Path, layer_of: LayerOf) -> None:
    names = write_images(tmp_path, 3)
    (tmp_path / "list.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)))
    source = open_source(layer_of(prototxt('source: "list.txt" batch_size: 3 shuffle: true rand_skip: 2')), tmp_path)
    assert len(source.notes) == 2
    (batch,) = source.batches()
    assert batch["label"].tolist() == [0, 1, 2]


def refused(layer_of: LayerOf, folder: Path, text: str) -> DataError:
    with pytest.raises(DataError) as error:
        list(open_source(layer_of(text), folder).batches())
    return error.value


def test_missing_images_are_named_together_by_line(tmp_path: Path, layer_of: LayerOf) -> None:
    write_images(tmp_path, 1)
    lines = ["0.png 0", *(f"gone{i}.png {i}" for i in range(30))]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    error = refused(layer_of, tmp_path, prototxt('source: "list.txt"'))
    assert "30 of 31" in str(error)
    assert len(error.problems) == 21
    assert "list.txt:2" in error.problems[0] and "gone0.png" in error.problems[0]
    assert "list.txt:21" in error.problems[19]
    assert "10 more" in error.problems[20]


def test_a_damaged_image_is_named_by_path_and_line(tmp_path: Path, layer_of: LayerOf) -> None:
    write_images(tmp_path, 2)
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no jpeg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("bad.jpg", "empty.jpg"):
        (tmp_path / "list.txt").write_text(f"0.png 0\n1.png 0\n{name} 0\n")
        error = refused(layer_of, tmp_path, prototxt('source: "list.txt"'))
        assert "list.txt:3" in str(error) and name in str(error)


def test_images_of_several_sizes_need_a_size(tmp_path: Path, layer_of: LayerOf) -> None:
    write_images(tmp_path, 1)
    cv2.imwrite(str(tmp_path / "other.png"), picture(1, (5, 7, 3)))
    (tmp_path / "list.txt").write_text("0.png 0\nother.png 0\n")
    error = refused(layer_of, tmp_path, prototxt('source: "list.txt" batch_size: 2'))
    assert "other.png" in str(error) and "(3, 5, 7)" in str(error) and "(3, 5, 6)" in str(error)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("", "source is missing"),
        ('source: "nowhere.txt"', "nowhere.txt"),
        ('source: "list.txt" new_height: 3', "new_width"),
        ('source: "list.txt" min_height: 3', "min_height"),
        ('source: "list.txt" batch_size: 0', "batch_size"),
        ('source: "empty.txt"', "no images"),
        ('source: "0.png"', "binary"),
    ],
)
def test_what_cannot_be(tmp_path: Path, layer_of: LayerOf, data: str, what: str) -> None:
    write_images(tmp_path, 1)
    (tmp_path / "list.txt").write_text("0.png 0\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    error = refused(layer_of, tmp_path, prototxt(data))
    assert what in str(error) and "'data'" in str(error)
