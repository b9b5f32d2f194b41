"""Makes the files of this folder: images, and two small detectors that are trained on scenes like these.

From the repository's root; it takes some ten minutes:

    .venv/bin/python examples/shapes/make_shapes.py

Both detectors have the same seven convolutions, which are trained together; each has heads of its own. The images come
out the same, byte for byte, with the same OpenCV; the weights may differ in their last digits on another processor.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import caffe

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "calibration_tool" / "samples" / "detection" / "yolov3"))

from scenes import NAMES, Boxes, scene
from training import Adam, Convolution
from yolo_data_layer import fit, to_input

from calib8.proto import caffe_pb2
from calib8.proto.caffemodel import write_caffemodel
from calib8.proto.text import read_prototxt

Array = NDArray[np.float32]
FOLDER = Path(__file__).resolve().parent
SEED = 8
SIDE = 96
SCENES = 4000
STEPS = 7000
BATCH = 16
CALIBRATION_IMAGES = 16
EVALUATION_IMAGES = 8
ANCHORS = np.array([[16, 16], [28, 28], [44, 44], [63, 63]])
"""Pixels; two for the fine map, two for the coarse one."""
MAPS = {"fine": (12, ANCHORS[:2]), "coarse": (6, ANCHORS[2:])}
VARIANCE = np.array([0.1, 0.1, 0.2, 0.2])
NEGATIVES = 3
"""SSD: so many background priors count for each one with an object (W. Liu et al., arXiv:1512.02325, section 2.2)."""


class Detectors:
    """The layers of both prototxts, by name."""

    def __init__(self, rng: np.random.Generator) -> None:
        sizes = [(3, 12, 2), (12, 16, 2), (16, 24, 2), (24, 24, 1), (24, 24, 1), (24, 32, 2), (32, 32, 1)]
        self.layers = {f"conv{i}": Convolution(rng, 3, *size) for i, size in enumerate(sizes, start=1)}
        for name, inputs in (("fine", 24), ("coarse", 32)):
            for head, outputs in (("yolo", 16), ("loc", 8), ("conf", 8)):
                self.layers[f"{head}_{name}"] = Convolution(rng, 1, inputs, outputs, relu=False)

    def forward(self, x: Array) -> dict[str, Array]:
        """The heads' outputs, (N, H, W, C), for images (N, 96, 96, 3)."""
        outputs = {}
        for name, stage in (("fine", range(1, 6)), ("coarse", range(6, 8))):
            for i in stage:
                x = self.layers[f"conv{i}"].forward(x)
            outputs |= {f"{head}_{name}": self.layers[f"{head}_{name}"].forward(x) for head in ("yolo", "loc", "conf")}
        return outputs

    def backward(self, gradients: dict[str, Array]) -> None:
        """From the loss by the outputs to the loss by all weights."""
        back: Any = 0
        for name, stage in (("coarse", (7, 6)), ("fine", (5, 4, 3, 2))):
            for head in ("yolo", "loc", "conf"):
                back = back + self.layers[f"{head}_{name}"].backward(gradients[f"{head}_{name}"])
            for i in stage:
                back = self.layers[f"conv{i}"].backward(back)
        self.layers["conv1"].learn(back)


def main() -> None:
    """Write images, train, write weights."""
    write_images(np.random.default_rng(SEED))
    rng = np.random.default_rng(SEED + 1)
    detectors = Detectors(rng)
    train(detectors, rng)
    for detector in ("yolov3", "ssd"):
        net = read_prototxt(FOLDER / detector / "deploy.prototxt").net
        params = {x.name: caffe_pb2.LayerParameter(name=x.name, type=x.type) for x in net.layer}
        blobs = {x.name: detectors.layers[x.name].blobs() for x in net.layer if x.name in detectors.layers}
        write_caffemodel(
            FOLDER / detector / "custom.caffemodel", net.name, [(params[name], own) for name, own in blobs.items()]
        )


def write_images(rng: np.random.Generator) -> None:
    """Images of two sizes; lists for calibration; boxes for evaluation."""
    (FOLDER / "images").mkdir(exist_ok=True)
    calibration, evaluation = [], []
    for i in range(CALIBRATION_IMAGES + EVALUATION_IMAGES):
        image, boxes = scene(rng, *((120, 160) if i % 2 == 0 else (160, 120)))
        name = f"images/{i:02}.jpg"
        cv2.imwrite(str(FOLDER / name), image, [cv2.IMWRITE_JPEG_QUALITY, 85])
        if i < CALIBRATION_IMAGES:
            calibration.append(name)
        else:
            evaluation += [f"{name} {NAMES[int(b[0])]} " + " ".join(f"{x:.1f}" for x in b[1:]) for b in boxes]
    (FOLDER / "calibration.txt").write_text("\n".join(calibration) + "\n")
    (FOLDER / "evaluation.txt").write_text("\n".join(evaluation) + "\n")


def train(detectors: Detectors, rng: np.random.Generator) -> None:
    """Adam on scenes, each of them mirrored half of the time."""
    priors = prior_boxes()
    scenes = [prepared_scene(rng, padding=i % 2 == 0) for i in range(SCENES)]
    optimizer = Adam(list(detectors.layers.values()), 3e-3, STEPS)
    for step in range(STEPS):
        chosen = [mirrored(*scenes[i]) if rng.random() < 0.5 else scenes[i] for i in rng.integers(SCENES, size=BATCH)]
        boxes = [own for _, own in chosen]
        outputs = detectors.forward(np.stack([pixels for pixels, _ in chosen]))
        gradients = {
            **{f"yolo_{name}": yolo_gradient(outputs[f"yolo_{name}"], boxes, name) for name in MAPS},
            **ssd_gradients(outputs, boxes, priors),
        }
        detectors.backward({name: (g / BATCH).astype(np.float32) for name, g in gradients.items()})
        optimizer.update()
        if step % 250 == 0:
            print(step, {name: round(float(np.abs(g).sum()) / BATCH, 3) for name, g in gradients.items()}, flush=True)


def prepared_scene(rng: np.random.Generator, padding: bool) -> tuple[Array, Boxes]:
    """An input (96, 96, 3) as the samples prepare it, letterboxed or stretched, and boxes in pixels of the input."""
    image, boxes = scene(rng, *(int(n) for n in rng.integers(96, 192, 2)))
    canvas, place = fit(image, SIDE, SIDE, padding)
    boxes[:, 1:] = boxes[:, 1:] * np.tile(place.ratio, 2) + np.tile(place.offset, 2)
    return to_input(canvas, "rgb", 1 / 255).transpose(1, 2, 0), boxes


def mirrored(pixels: Array, boxes: Boxes) -> tuple[Array, Boxes]:
    """Left becomes right."""
    turned = boxes.copy()
    turned[:, [1, 3]] = SIDE - boxes[:, [3, 1]]
    return pixels[:, ::-1], turned


def yolo_gradient(output: Array, boxes: list[Boxes], name: str) -> NDArray[Any]:
    """Of YOLOv3's loss: cross entropy for centre, objectness and classes, squares for sizes."""
    cells, anchors = MAPS[name]
    maps = output.reshape(*output.shape[:3], 2, -1).astype(np.float64)
    chances = 1 / (1 + np.exp(-maps))
    gradient = np.zeros_like(maps)
    gradient[..., 4] = chances[..., 4]  # no object anywhere, but for what follows
    for n, own in enumerate(boxes):
        for label, *corners in own:
            low, high = np.array(corners[:2]), np.array(corners[2:])
            column, row = ((low + high) / 2 * cells / SIDE).astype(int)
            offset = (low + high) / 2 * cells / SIDE - (column, row)
            overlaps = size_overlap(high - low, ANCHORS)
            for a, anchor in enumerate(anchors):
                index = list(MAPS).index(name) * 2 + a
                at = (n, row, column, a)
                if index == overlaps.argmax():
                    targets = np.concatenate([offset, np.log((high - low) / anchor), [1], np.eye(3)[int(label)]])
                    gradient[at] = np.where(np.isin(range(8), (2, 3)), maps[at], chances[at]) - targets
                elif overlaps[index] > 0.5:
                    gradient[at][4] = 0  # nearly as good: not to be punished
    return gradient.reshape(output.shape)


def size_overlap(size: NDArray[Any], sizes: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union of boxes with one centre; (width, height) with (N, 2)."""
    shared = np.minimum(size, sizes).prod(1)
    return shared / (size.prod() + sizes.prod(1) - shared)


def prior_boxes() -> NDArray[Any]:
    """The priors as the network has them, (N, 4): left, top, right, bottom in parts of the input."""
    net = caffe.Net(str(FOLDER / "ssd" / "deploy.prototxt"), caffe.TEST)
    net.forward()
    return net.blobs["mbox_prior"].data[0, 0].reshape(-1, 4).astype(np.float64)


def ssd_gradients(outputs: dict[str, Array], boxes: list[Boxes], priors: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Of SSD's loss: softmax over classes with hard negatives, smooth L1 for boxes."""
    rows = {
        head: np.concatenate([outputs[f"{head}_{name}"].reshape(BATCH, -1, 4) for name in MAPS], axis=1).astype(float)
        for head in ("loc", "conf")
    }
    powers = np.exp(rows["conf"] - rows["conf"].max(-1, keepdims=True))
    conf = powers / powers.sum(-1, keepdims=True)
    loc = np.zeros_like(rows["loc"])
    for n, own in enumerate(boxes):
        labels, targets = matched(own, priors)
        positive = labels > 0
        loss = np.where(positive, -np.inf, -np.log(conf[n, :, 0] + 1e-12))
        hard = np.argsort(-loss)[: NEGATIVES * positive.sum()]
        loc[n, positive] = (rows["loc"][n, positive] - targets[positive]).clip(-1, 1)
        counts = positive.copy()
        counts[hard] = True
        conf[n] = np.where(counts[:, np.newaxis], conf[n] - np.eye(4)[labels], 0)
    cut = MAPS["fine"][0] ** 2 * 2
    shapes = {name: output.shape for name, output in outputs.items()}
    parts = {f"{head}_fine": g[:, :cut] for head, g in (("loc", loc), ("conf", conf))}
    parts |= {f"{head}_coarse": g[:, cut:] for head, g in (("loc", loc), ("conf", conf))}
    return {name: part.reshape(shapes[name]) for name, part in parts.items()}


def matched(boxes: Boxes, priors: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For each prior its class (0: background) and the codes of its box: CENTER_SIZE, over the variances."""
    corners = boxes[:, 1:] / SIDE
    low = np.maximum(corners[:, None, :2], priors[:, :2])
    high = np.minimum(corners[:, None, 2:], priors[:, 2:])
    shared = (high - low).clip(0).prod(-1)
    overlap = shared / ((corners[:, 2:] - corners[:, :2]).prod(1)[:, None] + area(priors) - shared)
    overlap[np.arange(len(boxes)), overlap.argmax(1)] = 2  # every box has a prior, however small the overlap
    best = overlap.argmax(0)
    labels = np.where(overlap.max(0) >= 0.5, boxes[best, 0] + 1, 0).astype(int)
    own, size = corners[best], priors[:, 2:] - priors[:, :2]
    centres = (own[:, :2] + own[:, 2:] - priors[:, :2] - priors[:, 2:]) / 2 / size
    return labels, np.concatenate([centres, np.log((own[:, 2:] - own[:, :2]) / size)], axis=1) / VARIANCE


def area(corners: NDArray[Any]) -> NDArray[Any]:
    """Of boxes (N, 4)."""
    return (corners[:, 2:] - corners[:, :2]).prod(1)


if __name__ == "__main__":
    main()
