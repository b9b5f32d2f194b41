"""Arrays in the place of whatever fills a network's inputs, as a library and as a command."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from calib8 import Arrays, CalibrateOptions, Images, open_network
from calib8.cli.main import main
from calib8.errors import DataError
from calib8.proto.caffemodel import write_caffemodel
from calib8.proto.text import read_prototxt
from calib8.workflow import calibrate

INPUT = 'layer { name: "radar" type: "Input" top: "radar" input_param { shape { dim: [1, 15, 4, 4] } } }\n'
REST = """
layer { name: "c" type: "Convolution" bottom: "radar" top: "c" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip" inner_product_param { num_output: 4 } }
"""
RADAR = np.random.default_rng(1).standard_normal((12, 15, 4, 4)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """folder(text): a folder with a network whose input has 15 channels, and samples.npz."""

    def make(text=INPUT + REST):
        (tmp_path / "deploy.prototxt").write_text(text)
        layers = {x.name: x for x in read_prototxt(tmp_path / "deploy.prototxt").net.layer}
        rng = np.random.default_rng(0)
        shapes = {"c": [(6, 15, 3, 3), (6,)], "ip": [(4, 24), (4,)]}
        weights = [(layers[n], [rng.standard_normal(s).astype(np.float32) for s in each]) for n, each in shapes.items()]
        write_caffemodel(tmp_path / "custom.caffemodel", "radar", weights)
        np.savez(tmp_path / "samples.npz", radar=RADAR)
        return tmp_path

    return make


def opened(folder, samples):
    return open_network(folder / "deploy.prototxt", folder / "custom.caffemodel", samples)


def test_a_calibration_from_arrays(folder):
    path = folder()
    result = calibrate(opened(path, Arrays(path / "samples.npz")), CalibrateOptions(iteration=12, method="max"))
    assert result.histograms["radar"].maximum == np.abs(RADAR).max()


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Data" top: "radar" top: "label" data_param { source: "nowhere" }',
        'type: "RadarData" top: "radar" radar_param { source: "nowhere" }',
        'type: "DummyData" top: "radar" dummy_data_param { shape { dim: [1, 15, 4, 4] } }',
        'type: "MemoryData" top: "radar" memory_data_param { batch_size: 4 channels: 15 height: 4 width: 4 }',
    ],
)
def test_arrays_in_the_place_of_a_layer(folder, layer):
    path = folder(f'layer {{ name: "data" {layer} }}' + REST)
    network = opened(path, Arrays(path / "samples.npz"))
    assert "radar" in network.model.inputs
    result = calibrate(network, CalibrateOptions(iteration=12, method="max"))
    assert result.histograms["radar"].maximum == np.abs(RADAR).max()


def test_a_second_input_has_an_array_or_values(folder):
    second = 'layer { name: "g" type: "Input" top: "gain" input_param { shape { dim: [1, 4] } } }\n'
    use = 'layer { name: "m" type: "Eltwise" bottom: "ip" bottom: "gain" top: "m" eltwise_param { operation: PROD } }'
    path = folder(INPUT + second + REST + use)
    with pytest.raises(DataError, match="has no array for 'gain'; it has 'radar'"):
        opened(path, Arrays(path / "samples.npz"))
    (batch, *_) = opened(path, Arrays(path / "samples.npz", {"gain": [2.0]})).samples.batches()
    assert batch["gain"].tolist() == [[2, 2, 2, 2]]
    np.savez(path / "both.npz", radar=RADAR, gain=np.ones((12, 4)))
    assert opened(path, Arrays(path / "both.npz")).samples.shapes == {"radar": (1, 15, 4, 4), "gain": (1, 4)}


def test_the_refusal_of_images_names_the_way(folder):
    path = folder()
    cv2.imwrite(str(path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"has 15 channels; .* HDF5Data layer, a Python layer, or files \(`samples="):
        opened(path, Images(path / "a.png"))


def test_the_commands(folder, capsys):
    path = folder()
    samples = ["--samples", str(path / "samples.npz")]
    assert main(["calibrate", "radar", str(path), "-n", "12", *samples]) == 0
    assert main(["sensitivity", "radar", str(path), "--no-picture", *samples, "--samples", "5"]) == 0
    assert json.loads((path / "bmnet_radar_sensitivity.json").read_text())["samples"] == 5
    assert main(["sensitivity", "radar", str(path), "--no-picture", *samples]) == 0
    assert json.loads((path / "bmnet_radar_sensitivity.json").read_text())["samples"] == 12
    capsys.readouterr()
    assert main(["calibrate", "radar", str(path), *samples, "--images", "a.png"]) == 1
    assert "both give samples; keep one of them" in capsys.readouterr().err
    cv2.imwrite(str(path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    assert main(["calibrate", "radar", str(path), "--images", str(path / "a.png")]) == 1
    assert "or files (--samples FILE.npz)" in capsys.readouterr().err
