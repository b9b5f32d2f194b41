from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calib8.data import open_source, takes
from calib8.data.bundled.general_data_layer import DataLayer
from calib8.errors import DataError, UserLayerError

LayerOf = Callable[[str], Any]


def picture(index: int, shape: tuple[int, ...] = (4, 6, 3)) -> Any:
    return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with three images and their list, input.txt."""
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i))
    (tmp_path / "input.txt").write_text("0.png\n1.png\n2.png\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_layer(layer_of: LayerOf, param_str: str, folder: Path) -> Any:
    text = param_str.replace('"', '\\"')
    return open_source(
        layer_of(f"""layer {{ name: 'data' type: 'Python' top: 'data'
          python_param {{ module: 'general_data_layer' layer: 'DataLayer' param_str: "{text}" }} }}"""),
        folder,
    )


@pytest.mark.parametrize(
    "param_str",
    [
        "{'data_list': ./input.txt, 'color_format': rgb, 'h': 4, 'w': 6, 'r_mean': 123.68, 'g_mean': 116.779, "
        "'b_mean': 103.939, 'scale': 0.5}",
        "{'data_list': './input.txt', 'color_format': 'rgb', 'h': 4, 'w': 6, 'r_mean': 123.68, 'g_mean': 116.779, "
        "'b_mean': 103.939, 'scale': 5e-1, 'transpose': (2, 0, 1), 'padding': False}",
        json.dumps(
            {"data_list": "input.txt", "h": "4", "w": 6.0, "r_mean": 123.68, "g_mean": 116.779, "b_mean": 103.939}
            | {"scale": 0.5, "padding": False, "transpose": [2, 0, 1], "mirror": 2}
        ),
        "data_list: input.txt\\nh: 4\\nw: 6\\nr_mean: 123.68\\ng_mean: 116.779\\nb_mean: 103.939\\nscale: 5e-1",
    ],
)
def test_the_forms_of_param_str(folder: Path, layer_of: LayerOf, param_str: str) -> None:
    source = open_layer(layer_of, param_str, folder)
    assert source.shapes == {"data": (1, 3, 4, 6)}
    got = np.concatenate([b["data"] for b in takes(source, 3)])
    for i, sample in enumerate(got):
        for channel, mean in enumerate([123.68, 116.779, 103.939]):
            expected = (picture(i)[:, :, 2 - channel].astype(np.float64) - mean) * 0.5
            assert np.abs(sample[channel] - expected).max() < 1e-4


def test_bgr_means_belong_to_their_colours(folder: Path, layer_of: LayerOf) -> None:
    source = open_layer(layer_of, "{data_list: input.txt, h: 4, w: 6, color_format: bgr, r_mean: 3, b_mean: 1}", folder)
    expected = picture(0).astype(np.float32) - [1, 0, 3]
    assert (next(source.batches())["data"][0] == expected.transpose(2, 0, 1)).all()


@pytest.mark.parametrize(("mirror", "flip"), [(1, np.s_[::-1, ::-1]), (2, np.s_[:, :]), (3, np.s_[:, ::-1])])
def test_mirror_is_the_flip_code_plus_two(folder: Path, layer_of: LayerOf, mirror: int, flip: Any) -> None:
    source = open_layer(layer_of, f"{{data_list: input.txt, h: 4, w: 6, color_format: bgr, mirror: {mirror}}}", folder)
    assert (next(source.batches())["data"][0] == picture(0)[flip].transpose(2, 0, 1)).all()


def test_padding_keeps_the_aspect_ratio(folder: Path, layer_of: LayerOf) -> None:
    source = open_layer(
        layer_of, "{data_list: input.txt, h: 7, w: 6, color_format: bgr, b_mean: 5, padding: true}", folder
    )
    sample = next(source.batches())["data"][0]
    assert (sample[0, 1:5] == picture(0)[:, :, 0] - np.float32(5)).all()
    assert (sample[0, [0, 5, 6]] == -5).all()


def test_other_orders_of_the_axes(folder: Path, layer_of: LayerOf) -> None:
    source = open_layer(layer_of, "{data_list: input.txt, h: 4, w: 6, color_format: bgr, transpose: [2, 1, 0]}", folder)
    assert source.shapes == {"data": (1, 3, 6, 4)}
    assert (next(source.batches())["data"][0] == picture(0).transpose(2, 1, 0)).all()


def test_it_begins_again_after_the_last_image(folder: Path, layer_of: LayerOf) -> None:
    source = open_layer(layer_of, "{data_list: input.txt, h: 4, w: 6, color_format: bgr, batch_size: 2}", folder)
    assert source.size is None
    got = np.concatenate([b["data"] for b in takes(source, 5)])
    expected = np.stack([picture(i % 3) for i in range(5)]).transpose(0, 3, 1, 2)
    assert (got == expected).all()
    assert (np.concatenate([b["data"] for b in takes(source, 5)]) == expected).all()


def test_lists_are_found_beside_the_model_too(
    folder: Path, layer_of: LayerOf, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    source = open_layer(layer_of, "{data_list: ./input.txt, h: 4, w: 6}", folder)
    assert next(source.batches())["data"].shape == (1, 3, 4, 6)


def test_a_users_own_file_comes_first(folder: Path, layer_of: LayerOf) -> None:
    (folder / "general_data_layer.py").write_text(
        "import caffe, yaml\n"
        "class DataLayer(caffe.Layer):\n"
        "    def setup(self, bottom, top):\n"
        "        self.h = yaml.load(self.param_str)['h']\n"
        "        top[0].reshape(1, 1, self.h)\n"
        "    def forward(self, bottom, top):\n"
        "        top[0].data[...] = 42\n"
    )
    assert next(open_layer(layer_of, "{'h': 2}", folder).batches())["data"].tolist() == [[[42, 42]]]


def test_the_tools_folder_has_the_same_layer() -> None:
    path = Path(__file__).resolve().parents[2] / "calibration_tool" / "general_data_layer.py"
    spec = importlib.util.spec_from_file_location("tool_general_data_layer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.DataLayer is DataLayer


@pytest.mark.parametrize(
    ("param_str", "named"),
    [
        ("", ["expected keys"]),
        ("[1, 2]", ["expected keys"]),
        ("{'h': [}", ["no YAML"]),
        ("{h: 4}", ["'data_list' is missing", "'w' is missing"]),
        ("{data_list: input.txt, h: 0, w: -6}", ["'h' is 0", "'w' is -6"]),
        ("{data_list: input.txt, h: 4.5, w: true}", ["'h' is 4.5", "'w' is True"]),
        ("{data_list: input.txt, h: 4, w: 6, color_format: yuv}", ["'yuv'", "rgb or bgr"]),
        ("{data_list: input.txt, h: 4, w: 6, mirror: 0}", ["'mirror' is 0"]),
        ("{data_list: input.txt, h: 4, w: 6, transpose: [2, 2, 1]}", ["'transpose'"]),
        ("{data_list: input.txt, h: 4, w: 6, padding: maybe}", ["'padding'"]),
        ("{data_list: input.txt, h: 4, w: 6, scale: 1/255}", ["'scale' is '1/255'"]),
        ("{data_list: input.txt, h: 4, w: 6, r_men: 3}", ["'r_men' is unknown", "r_mean"]),
        ("{data_list: input.txt, h: 4, w: 6, scale: &a [*a, *a]}", ["'scale'"]),
        ("{data_list: gone.txt, h: 4, w: 6}", ["gone.txt"]),
        ("__import__('os').abort()", ["expected keys"]),
        ("!!python/object/apply:os.abort []", ["no YAML"]),
    ],
)
def test_a_bad_param_str_is_explained(folder: Path, layer_of: LayerOf, param_str: str, named: list[str]) -> None:
    with pytest.raises(DataError) as error:
        open_layer(layer_of, param_str, folder)
    assert all(text in str(error.value) for text in [*named, "layer 'data'"])


def test_missing_and_damaged_images_are_named_by_line(folder: Path, layer_of: LayerOf) -> None:
    (folder / "input.txt").write_text("0.png\ngone.png\n")
    with pytest.raises(DataError, match=r"input\.txt:2: no file gone\.png"):
        open_layer(layer_of, "{data_list: input.txt, h: 4, w: 6}", folder)
    (folder / "gone.png").write_bytes(b"no image")
    source = open_layer(layer_of, "{data_list: input.txt, h: 4, w: 6}", folder)
    with pytest.raises(DataError, match=r"input\.txt:2: gone\.png is damaged"):
        list(takes(source, 2))


def test_the_bundled_module_has_no_other_layer(folder: Path, layer_of: LayerOf) -> None:
    param = layer_of(
        "layer { name: 'data' type: 'Python' top: 'data' python_param { module: 'general_data_layer' layer: 'Other' } }"
    )
    with pytest.raises(UserLayerError, match=r"no class 'Other'.*DataLayer"):
        open_source(param, folder)
