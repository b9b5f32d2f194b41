"""YOLOv3: the boxes of an image, drawn into a copy of it, in FP32 or in INT8.

python yolov3.py ../../../custom street.jpg --output boxes.png
python yolov3.py ../../../custom street.jpg --output boxes.png --int8 yolov3

The network ends in its convolutions, without a layer that makes boxes: that is done here, as the chip's host does it.
An output has the shape (1, A * (5 + C), H, W) for A anchors and C classes. For each anchor there are x, y, w, h, the
objectness and a number for each class; in cell (i, j), in pixels of the network's input:

    centre = ((j + sigmoid(x)) * stride, (i + sigmoid(y)) * stride)       stride = input size / map size
    size   = (anchor width * exp(w), anchor height * exp(h))
    score  = sigmoid(objectness) * sigmoid(class)

See J. Redmon, A. Farhadi, "YOLOv3: An Incremental Improvement", arXiv:1804.02767.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import caffe

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drawing import Box, drawn, print_boxes
from sample_net import (
    SampleError,
    add_size_and_color,
    numbers,
    open_net,
    read_image,
    read_labels,
    run_sample,
    sample_parser,
    write_image,
)
from yolo_data_layer import Place, fit, to_input

YOLOV3_ANCHORS = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
"""Width and height in pixels of the input, as in yolov3.cfg: three for each output, the finest map first."""


def anchor_pairs(text: str) -> np.ndarray:
    """`W,H,W,H` as an array (anchors, 2); for argparse."""
    pairs = np.reshape(numbers(text), (-1, 2))
    if pairs.min() <= 0:
        raise ValueError(text)
    return pairs


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without an overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def decode(output: np.ndarray, anchors: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of one output (1, A * (5 + C), H, W) for an input of (height, width).

    Returns:
        Corners (A * H * W, 4) as left, top, right, bottom in pixels of the input; scores (A * H * W, C).
    """
    rows, columns = output.shape[2:]
    maps = output.astype(np.float64).reshape(len(anchors), -1, rows, columns).transpose(0, 2, 3, 1)
    j, i = np.meshgrid(np.arange(columns), np.arange(rows))
    centres = (sigmoid(maps[..., :2]) + np.stack([j, i], axis=-1)) * [width / columns, height / rows]
    halves = np.exp(maps[..., 2:4].clip(max=20)) * anchors[:, np.newaxis, np.newaxis] / 2
    scores = sigmoid(maps[..., 4:5]) * sigmoid(maps[..., 5:])
    corners = np.concatenate([centres - halves, centres + halves], axis=-1)
    return corners.reshape(-1, 4), scores.reshape(-1, scores.shape[-1])


def suppress(corners: np.ndarray, scores: np.ndarray, most: float) -> list[int]:
    """Non-maximum suppression: the best box stays, those that overlap it by more than `most` go, and so on.

    Args:
        corners: (N, 4).
        scores: (N).
        most: largest overlap of two boxes that both stay: area of the intersection / area of the union.

    Returns:
        Indices of the boxes that stay, the best first.
    """
    area = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(corners[best, :2], corners[order, :2])
        high = np.minimum(corners[best, 2:], corners[order, 2:])
        shared = np.prod((high - low).clip(min=0), axis=1)
        order = order[shared <= most * (area[best] + area[order] - shared)]
    return kept


def in_image(corners: np.ndarray, place: Place, image: np.ndarray) -> np.ndarray:
    """Corners (N, 4) in pixels of the network's input become pixels of the image, and stay inside it."""
    height, width = image.shape[:2]
    return ((corners - np.tile(place.offset, 2)) / np.tile(place.ratio, 2)).clip(0, [width, height, width, height])


def boxes_of(
    outputs: Sequence[np.ndarray], anchors: np.ndarray, size: tuple[int, int], confidence: float, most: float
) -> list[Box]:
    """Boxes of all outputs in pixels of the input, after a suppression within each class."""
    outputs = sorted(outputs, key=lambda output: -output.shape[2] * output.shape[3])
    decoded = [decode(*pair, *size) for pair in zip(outputs, np.split(anchors, len(outputs)), strict=True)]
    corners, scores = (np.concatenate(parts) for parts in zip(*decoded, strict=True))
    boxes = []
    for label in range(scores.shape[1]):
        likely = np.flatnonzero(scores[:, label] >= confidence)
        kept = likely[suppress(corners[likely], scores[likely, label], most)]
        boxes += [Box(label, float(scores[k, label]), *map(float, corners[k])) for k in kept]
    return boxes


def check_outputs(outputs: dict[str, np.ndarray], anchors: np.ndarray) -> None:
    """Raise SampleError unless the outputs are YOLO's and the anchors divide among them."""
    each, rest = divmod(len(anchors), len(outputs))
    for name, output in outputs.items():
        if output.ndim != 4 or rest or output.shape[1] % each or output.shape[1] // each < 6:
            raise SampleError(
                f"output {name!r} has the shape {output.shape}; with {len(anchors)} anchors for {len(outputs)} "
                "outputs, (1, anchors * (5 + classes), H, W) is expected; see --anchors"
            )


def detect(args: argparse.Namespace) -> None:
    """Print the boxes and draw them."""
    names = read_labels(args.labels)
    image = read_image(args.image)
    caffe.yolo()  # max pooling with stride 1 as in Darknet
    net = open_net(args, args.size)
    size = net.blobs[net.inputs[0]].shape[2:]
    canvas, place = fit(image, *size, padding=args.resize == "letterbox")
    net.blobs[net.inputs[0]].data[0] = to_input(canvas, args.color, args.scale)
    outputs = net.forward()
    check_outputs(outputs, args.anchors)
    found = boxes_of(list(outputs.values()), args.anchors, size, args.confidence, args.nms)
    boxes = [Box(*box[:2], *map(float, in_image(np.array(box[2:]), place, image))) for box in found]
    print_boxes(boxes, names)
    write_image(args.output, drawn(image, boxes, names))
    print(args.output)


def main() -> int:
    """Read the arguments and detect."""
    parser = sample_parser("Find objects with a YOLOv3 network, and draw their boxes.", scale=1 / 255)
    add_size_and_color(parser, "rgb", "bgr")
    parser.add_argument(
        "--resize", choices=["letterbox", "warp"], default="letterbox",
        help="keep the aspect ratio and fill up with grey, or stretch; as in training (default: letterbox)",
    )  # fmt: skip
    parser.add_argument(
        "--anchors", type=anchor_pairs, metavar="W,H,...", default=YOLOV3_ANCHORS,
        help="in pixels of the input, those of the finest map first (default: YOLOv3's)",
    )  # fmt: skip
    parser.add_argument("--confidence", type=float, default=0.3, help="smallest score that is shown (default: 0.3)")
    parser.add_argument("--nms", type=float, default=0.45, help="largest overlap of two boxes (default: 0.45)")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one a line")
    parser.add_argument("--output", type=Path, default=Path("boxes.png"), help="the picture (default: boxes.png)")
    return run_sample(parser, detect)


if __name__ == "__main__":
    sys.exit(main())
