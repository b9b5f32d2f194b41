"""Makes the files of this folder: trains the network of deploy.prototxt on scikit-learn's handwritten digits.

Needs packages that calib8 itself does not need. Run it from the repository's root, in an environment of its own:

    python3 -m venv /tmp/digits && /tmp/digits/bin/pip install -e . scikit-learn==1.9.1 torch==2.13.0
    /tmp/digits/bin/python examples/digits/make_digits.py

The LMDBs come out the same, byte for byte. The weights do with the same torch on the same kind of processor; with
another one they may differ in their last digits.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import write_caffemodel
from calib8.proto.text import read_prototxt

FOLDER = Path(__file__).resolve().parent
CALIBRATION_IMAGES = 150
"""Of the training images, the first."""
EVALUATION_IMAGES = 300
"""Seen neither in training nor in calibration."""
SEED = 8
EPOCHS = 60
BATCH = 32
MAP_SIZE = 1 << 20

CAFFE_MOVING_SUM = 999.98236
"""Where Caffe's third BatchNorm blob ends: the sum of 0.999^i. Mean and variance are stored times this factor."""


class Digits(nn.Module):
    """The network of deploy.prototxt; modules have the names of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.conv2a = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.conv2b = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn1, self.bn2a, self.bn2b = (nn.BatchNorm2d(16) for _ in range(3))
        self.conv3_1x1 = nn.Conv2d(16, 16, 1)
        self.conv3_3x3 = nn.Conv2d(16, 16, 3, padding=1)
        self.ip = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) to scores (N, 10)."""
        pool1 = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, ceil_mode=True)
        branch = functional.relu(self.bn2a(self.conv2a(pool1)))
        total = functional.relu(pool1 + self.bn2b(self.conv2b(branch)))
        left = functional.relu(self.conv3_1x1(total))
        right = functional.leaky_relu(self.conv3_3x3(total), 0.1)
        return self.ip(functional.avg_pool2d(torch.cat([left, right], 1), 2).flatten(1))


def main() -> None:
    """Train, write, report."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.images))
    pixels = np.round(digits.images[order] * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target[order]
    training, evaluation = slice(0, -EVALUATION_IMAGES), slice(-EVALUATION_IMAGES, None)

    network = Digits()
    train(network, preprocess(pixels[training]), torch.from_numpy(labels[training]))
    write_weights(network, FOLDER / "custom.caffemodel")
    write_lmdb(FOLDER / "calibration_lmdb", pixels[:CALIBRATION_IMAGES], labels[:CALIBRATION_IMAGES])
    write_lmdb(FOLDER / "evaluation_lmdb", pixels[evaluation], labels[evaluation])
    write_images(FOLDER / "images", pixels[evaluation], labels[evaluation])

    with torch.no_grad():
        guessed = network(preprocess(pixels[evaluation])).argmax(1).numpy()
    right = int((guessed == labels[evaluation]).sum())
    print(f"accuracy on {EVALUATION_IMAGES} images that were not trained on: {right / EVALUATION_IMAGES:.2%}")


def preprocess(pixels: NDArray[np.uint8]) -> Tensor:
    """What transform_param of deploy.prototxt says."""
    return torch.from_numpy((pixels.astype(np.float32) - 128) * np.float32(0.0078125))


def train(network: Digits, images: Tensor, labels: Tensor) -> None:
    """Adam with a falling learning rate; every image is moved by up to one pixel each time it is seen."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    network.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(network(moved(images[chosen])), labels[chosen]).backward()
            optimizer.step()
        schedule.step()
    network.eval()


def moved(images: Tensor) -> Tensor:
    """The images moved by -1, 0 or 1 pixel in both directions, black where nothing was."""
    padded = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    top, left = torch.randint(3, (2,)).tolist()
    return padded[:, :, top : top + 8, left : left + 8]


def write_weights(network: Digits, path: Path) -> None:
    """Write the caffemodel, one layer after the other as in deploy.prototxt."""
    net = read_prototxt(FOLDER / "deploy.prototxt").net
    names = [layer.name for layer in net.layer]
    weights = {name: blobs for name in names if (blobs := blobs_of(network, name))}
    params = {x.name: caffe_pb2.LayerParameter(name=x.name, type=x.type) for x in net.layer}
    write_caffemodel(path, net.name, [(params[name], blobs) for name, blobs in weights.items()])


def blobs_of(network: Digits, layer: str) -> list[NDArray[Any]]:
    """The blobs of a Caffe layer: BatchNorm's statistics and Scale's factors both come from torch's bn* module."""
    module = getattr(network, layer.replace("scale", "bn"), None)
    if module is None:
        return []
    if layer.startswith("bn"):
        factor = np.float32(CAFFE_MOVING_SUM)
        return [module.running_mean.numpy() * factor, module.running_var.numpy() * factor, np.array([factor])]
    return [tensor.detach().numpy() for tensor in (module.weight, module.bias) if tensor is not None]


def write_lmdb(folder: Path, pixels: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """Write Datum records with the keys 00000000, 00000001, .. as Caffe's own tool does."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with tempfile.TemporaryDirectory() as scratch, lmdb.open(scratch, map_size=MAP_SIZE) as environment:
        with environment.begin(write=True) as transaction:
            for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                datum = caffe_pb2.Datum(channels=1, height=8, width=8, data=image.tobytes(), label=int(label))
                transaction.put(f"{i:08}".encode(), datum.SerializeToString(deterministic=True))
        environment.copy(str(folder), compact=True)  # without the pages that are no longer in use


def write_images(folder: Path, pixels: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """Write the last image of every digit as a file: 0.png, 1.png, .."""
    folder.mkdir(exist_ok=True)
    for digit in range(10):
        cv2.imwrite(str(folder / f"{digit}.png"), pixels[np.flatnonzero(labels == digit)[-1], 0])


if __name__ == "__main__":
    main()
