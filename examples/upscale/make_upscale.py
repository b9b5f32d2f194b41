"""Makes the files of this folder: images, and a small network that enlarges them, trained on pictures like these.

From the repository's root; it takes some three minutes:

    .venv/bin/python examples/upscale/make_upscale.py

The pictures are drawn with four times as many pixels, so that their edges are smooth, and made smaller twice: to the
large image of a pair, and to the small one. The images come out the same, byte for byte, with the same OpenCV; the
weights may differ in their last digits on another processor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training import Adam, Array, Convolution

from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import write_caffemodel
from calib8.proto.text import read_prototxt

FOLDER = Path(__file__).resolve().parent
SEED = 8
PATCHES = 4000
STEPS = 3000
BATCH = 16
SIDE = 24
"""Of a small patch."""
BORDER = 4
"""Pixels at the edge of a large patch that do not count: what lies beyond is missing."""
CALIBRATION_IMAGES = 10
FINER = 4

Image = NDArray[np.uint8]


class Upscale:
    """The network; its deconvolutions are convolutions with four outputs, one for each pixel of a 2x2 block."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.conv1, self.conv2 = Convolution(rng, 5, 1, 24), Convolution(rng, 3, 24, 24)
        self.detail, self.base = (Convolution(rng, 3, inputs, 4, relu=False) for inputs in (24, 1))
        self.detail.weights *= 0.1
        self.base.weights[...] = 0
        self.base.weights[1, 1] = 1  # each pixel four times, to begin with
        self.layers = {name: getattr(self, name) for name in ("conv1", "conv2", "detail", "base")}

    def forward(self, x: Array) -> Array:
        """(N, H, W, 1) to (N, H, W, 4)."""
        return self.base.forward(x) + self.detail.forward(self.conv2.forward(self.conv1.forward(x)))

    def backward(self, gradient: Array) -> None:
        """From the loss by the output to the loss by all weights."""
        self.base.learn(gradient)
        self.conv1.learn(self.conv2.backward(self.detail.backward(gradient)))

    def blobs(self, name: str) -> list[Array]:
        """As Caffe has them."""
        layer = self.layers[name]
        return layer.blobs() if name.startswith("conv") else deconvolution_blobs(layer)


def deconvolution_blobs(layer: Convolution) -> list[Array]:
    """Kernel 6, stride 2, pad 2 for a convolution of kernel 3 with the outputs (0, 0), (0, 1), (1, 0), (1, 1).

    Pixel (2i + a, 2j + b) of the top gets, from the bottom's pixel (i + u, j + v), element (a + 2 - 2u, b + 2 - 2v).
    """
    weights = np.zeros((layer.weights.shape[2], 1, 6, 6), np.float32)
    for a in range(2):
        for b in range(2):
            taps = layer.weights[::-1, ::-1, :, 2 * a + b]
            weights[:, 0, a::2, b::2] = taps.transpose(2, 0, 1)
    return [weights, layer.bias[:1]]


def main() -> None:
    """Write images, train, write weights."""
    write_images(np.random.default_rng(SEED))
    rng = np.random.default_rng(SEED + 1)
    network = Upscale(rng)
    train(network, rng)
    net = read_prototxt(FOLDER / "deploy.prototxt").net
    params = {x.name: caffe_pb2.LayerParameter(name=x.name, type=x.type) for x in net.layer}
    layers = [(params[x.name], network.blobs(x.name)) for x in net.layer if x.name in network.layers]
    write_caffemodel(FOLDER / "custom.caffemodel", net.name, layers)


def write_images(rng: np.random.Generator) -> None:
    """Small images for calibration, and a pair for the sample."""
    (FOLDER / "images").mkdir(exist_ok=True)
    names = [f"images/{i}.png" for i in range(CALIBRATION_IMAGES)]
    for name in names:
        cv2.imwrite(str(FOLDER / name), pair(rng, 48, 64)[1])
    (FOLDER / "calibration.txt").write_text("".join(f"{name} 0\n" for name in names))
    large, small = pair(rng, 60, 80)
    cv2.imwrite(str(FOLDER / "images" / "large.png"), large)
    cv2.imwrite(str(FOLDER / "images" / "small.png"), small)


def train(network: Upscale, rng: np.random.Generator) -> None:
    """Adam on squared differences, on patches that are turned and mirrored each time they are seen."""
    patches = [grey_pair(rng) for _ in range(PATCHES)]
    optimizer = Adam(list(network.layers.values()), 2e-3, STEPS)
    edge = BORDER // 2
    for step in range(STEPS):
        chosen = [turned(rng, *patches[i]) for i in rng.integers(PATCHES, size=BATCH)]
        large, small = (prepared(np.stack(images)) for images in zip(*chosen, strict=True))
        difference = network.forward(small[..., np.newaxis]) - blocks(large)
        counted = np.zeros_like(difference)
        counted[:, edge:-edge, edge:-edge] = difference[:, edge:-edge, edge:-edge]
        network.backward(counted / BATCH)
        for layer in (network.base, network.detail):  # a deconvolution has one bias for its four pixels
            layer.gradients[1] = np.full(4, layer.gradients[1].mean(), np.float32)
        optimizer.update()
        if step % 250 == 0:
            print(step, f"{10 * np.log10(4 / np.mean(counted**2)):.2f} dB", flush=True)


def grey_pair(rng: np.random.Generator) -> tuple[Image, Image]:
    """A large patch and its small one, luminance."""
    large, small = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in pair(rng, SIDE, SIDE))
    return large, small


def turned(rng: np.random.Generator, large: Image, small: Image) -> tuple[Image, Image]:
    """The pair in one of eight ways."""
    turns, step = int(rng.integers(4)), int(rng.choice([-1, 1]))
    return np.rot90(large, turns)[:, ::step], np.rot90(small, turns)[:, ::step]


def pair(rng: np.random.Generator, height: int, width: int) -> tuple[Image, Image]:
    """A picture (2 height, 2 width, 3), and the same in (height, width, 3)."""
    fine = picture(rng, height * 2 * FINER, width * 2 * FINER)
    large = cv2.resize(fine, (width * 2, height * 2), interpolation=cv2.INTER_AREA)
    return large, cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)


def picture(rng: np.random.Generator, height: int, width: int) -> Image:
    """Soft colours with ellipses, polygons, lines and letters on them, and something like a texture."""
    coarse = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(4, 16)):
        size = rng.uniform(0.05, 0.4) * min(image.shape[:2])
        color = [(255, 255, 255), (0, 0, 0), rng.integers(0, 256, 3).tolist()][rng.integers(3)]
        place = (rng.random(2) * image.shape[1::-1]).astype(int)
        kind = rng.integers(4)
        if kind == 0:
            axes = (int(size), int(size * rng.uniform(0.3, 1)))
            cv2.ellipse(image, place.tolist(), axes, rng.uniform(0, 180), 0, 360, color, cv2.FILLED)
        elif kind == 1:
            cv2.fillPoly(image, [(place + rng.normal(0, size, (4, 2))).astype(np.int32)], color)
        elif kind == 2:
            end = (place + rng.normal(0, 2 * size, 2)).astype(int).tolist()
            cv2.line(image, place.tolist(), end, color, int(rng.integers(4, 24)))
        else:
            letter = chr(rng.integers(ord("A"), ord("z")))
            cv2.putText(
                image, letter, place.tolist(), cv2.FONT_HERSHEY_DUPLEX, size / 20, color, max(3, int(size / 10))
            )
    return textured(rng, image)


def textured(rng: np.random.Generator, image: Image) -> Image:
    """Perhaps waves of a random direction and length, and a blur."""
    height = rng.uniform(0, 25) if rng.random() < 0.4 else 0
    rows, columns = np.indices(image.shape[:2], dtype=np.float32)
    waves = np.sin(rows * rng.normal(0, 0.15) + columns * rng.normal(0, 0.15) + rng.uniform(0, 6))
    waved = image + height * waves[..., np.newaxis]
    return cv2.GaussianBlur(waved.clip(0, 255).astype(np.uint8), (0, 0), rng.uniform(0.5, 2.5))


def prepared(pixels: Image) -> Array:
    """What transform_param of deploy.prototxt says."""
    return (pixels.astype(np.float32) - 128) * np.float32(0.0078125)


def blocks(large: Array) -> Array:
    """(N, 2H, 2W) to (N, H, W, 4): the pixels of each 2x2 block."""
    n, height, width = large.shape
    return large.reshape(n, height // 2, 2, width // 2, 2).transpose(0, 1, 3, 2, 4).reshape(n, height // 2, -1, 4)


if __name__ == "__main__":
    main()
