"""Images take the place of whatever fills a network's input, and of its own data."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest

from calib8.data import Preprocess
from calib8.errors import DataError
from calib8.proto.caffemodel import write_caffemodel
from calib8.proto.text import read_prototxt
from calib8.workflow import CalibrateOptions, Images, calibrate, open_network

REST = """
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "acc" type: "Accuracy" bottom: "c" bottom: "label" top: "acc" }
layer { name: "sil" type: "Silence" bottom: "label" }
"""
WITHOUT_LABEL = REST.split('layer { name: "acc"', maxsplit=1)[0]
MEMORY = "memory_data_param { batch_size: 2 channels: 3 height: 8 width: 6 }"
SIZED = Preprocess(size=(8, 6))


def own(kind: str, param: str = "", tops: str = 'top: "data" top: "label"') -> str:
    return f'layer {{ name: "data" type: "{kind}" {tops} {param} }}'


@pytest.fixture
def opened(tmp_path):
    """opened(text, **Images): the network over two pictures of 8 x 6, and the pixels of the first one (H, W, 3)."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (8, 6, 3), np.uint8) for _ in range(2)]
    (tmp_path / "p").mkdir()
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"p/{i}.png"), picture)

    def make(text, **images):
        (tmp_path / "n.prototxt").write_text(text)
        param = read_prototxt(tmp_path / "n.prototxt").net.layer
        conv = next(x for x in param if x.type == "Convolution")
        weights = [rng.standard_normal((2, 3, 3, 3)).astype(np.float32), np.zeros(2, np.float32)]
        write_caffemodel(tmp_path / "n.caffemodel", "n", [(conv, weights)])
        return open_network(tmp_path / "n.prototxt", tmp_path / "n.caffemodel", Images(tmp_path / "p", **images))

    make.first = pictures[0]
    return make


@pytest.mark.parametrize(
    ("text", "preprocess", "shape"),
    [
        (own("MemoryData", MEMORY) + REST, Preprocess(), (2, 3, 8, 6)),
        (own("DenseImageData", 'dense_image_data_param { source: "none.txt" }') + REST, SIZED, (1, 3, 8, 6)),
        (own("Data", 'data_param { source: "nowhere" batch_size: 4 }') + REST, SIZED, (1, 3, 8, 6)),
        (own("Data", "transform_param { crop_size: 6 }") + REST, Preprocess(), (1, 3, 6, 6)),
        (own("ImageData", "image_data_param { new_height: 8 new_width: 6 }") + REST, Preprocess(), (1, 3, 8, 6)),
        (own("Python", 'python_param { module: "nowhere" layer: "L" }') + REST, SIZED, (1, 3, 8, 6)),
        (own("LaneData", 'lane_data_param { source: "x" }') + REST, SIZED, (1, 3, 8, 6)),
        (
            own("DummyData", "dummy_data_param { shape { dim: [1, 3, 8, 6] } }", 'top: "data"') + WITHOUT_LABEL,
            Preprocess(), (1, 3, 8, 6),
        ),
        (
            own("Input", "input_param { shape { dim: [1, 3] } }", 'top: "im_info"').replace('"data"', '"info"', 1)
            + own("MemoryData", MEMORY) + REST, Preprocess(), (2, 3, 8, 6),
        ),
    ],
    ids=["memory", "dense", "lmdb", "crop", "new_size", "python", "unknown", "dummy", "beside_an_input"],
)  # fmt: skip
def test_images_in_the_place_of_a_layer(opened, text, preprocess, shape):
    network = opened(text, preprocess=preprocess)
    assert network.model.shapes["data"] == shape
    assert "data" in network.model.inputs
    (batch, *_) = network.samples.batches()
    expected = cv2.resize(opened.first.astype(np.float32), shape[:1:-1]).transpose(2, 0, 1)
    assert np.array_equal(batch["data"][0], expected)
    result = calibrate(network, CalibrateOptions(iteration=2))
    assert result.histograms["data"].maximum > 200


def test_the_size_must_come_from_somewhere(opened):
    with pytest.raises(DataError, match=r"how large samples of layer 'data' \(Data\) are; .* say `size`"):
        opened(own("Data") + REST)


def test_a_data_layer_without_data_names_images(tmp_path, opened):
    opened(own("Data") + REST, preprocess=SIZED)  # writes the files
    with pytest.raises(DataError, match=r"layer 'data' \(Data\) gives no samples; images can take its place"):
        open_network(tmp_path / "n.prototxt", tmp_path / "n.caffemodel")


def test_of_several_inputs_one_must_be_named(opened):
    inputs = "".join(
        f'layer {{ name: "{b}" type: "Input" top: "{b}" input_param {{ shape {{ dim: [1, 3, 8, 6] }} }} }}\n'
        for b in ("data", "other")
    )
    with pytest.raises(DataError, match=r"which input takes the images\? .*'data', 'other'"):
        opened(inputs + WITHOUT_LABEL)
    assert opened(inputs + WITHOUT_LABEL, input="data", values={"other": [1.0]}).samples.shapes["data"] == (1, 3, 8, 6)


@pytest.mark.parametrize(
    ("transform", "preprocess", "warned"),
    [
        ("transform_param { scale: 0.5 mean_value: 3 }", Preprocess(), "scale, mean_value"),
        ("transform_param { scale: 0.5 }", Preprocess(scale=0.5), ""),
        ("transform_param { crop_size: 6 mirror: true }", Preprocess(), ""),
        ("", Preprocess(), ""),
    ],
)
def test_a_preparation_that_is_not_followed_is_said(opened, caplog, transform, preprocess, warned):
    with caplog.at_level(logging.WARNING):
        opened(own("MemoryData", MEMORY + transform) + REST, preprocess=preprocess)
    assert [f"transform_param ({warned})" in m for m in caplog.messages] == [True] * bool(warned)


def test_an_input_with_its_channels_last(opened):
    text = """layer { name: "i" type: "Input" top: "nhwc" input_param { shape { dim: [1, 8, 6, 3] } } }
    layer { name: "p" type: "Permute" bottom: "nhwc" top: "data" permute_param { order: [0, 3, 1, 2] } }"""
    network = opened(text + WITHOUT_LABEL, preprocess=Preprocess(color_format="rgb", mean=(1, 2, 3), scale=(1, 0.5, 2)))
    (batch, *_) = network.samples.batches()
    expected = (opened.first[:, :, ::-1].astype(np.float32) - [1, 2, 3]) * [1, 0.5, 2]
    assert np.array_equal(batch["nhwc"][0], expected)
    assert network.samples.notes == ("input 'nhwc' has its channels last; samples are given so",)


def test_three_rows_are_no_channels(opened):
    text = 'layer { name: "i" type: "Input" top: "data" input_param { shape { dim: [1, 3, 8, 3] } } }'
    assert opened(text + WITHOUT_LABEL).samples.notes == ()


def test_images_come_one_by_one_where_the_network_takes_them_so(opened):
    source = own("MemoryData", MEMORY)
    network = opened(source + REST)
    assert [len(batch["data"]) for batch in network.samples.batches()] == [1, 1] and network.source.batch_size == 2
    fixed = 'layer { name: "r" type: "Reshape" bottom: "c" top: "r" reshape_param { shape { dim: [2, -1] } } }'
    assert [len(batch["data"]) for batch in opened(source + REST + fixed).samples.batches()] == [2]
