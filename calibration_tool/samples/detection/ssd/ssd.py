"""SSD: the boxes of an image, drawn into a copy of it, in FP32 or in INT8.

python ssd.py ../../../custom street.jpg --mean 104,117,123 --output boxes.png
python ssd.py ../../../custom street.jpg --mean 104,117,123 --output boxes.png --int8 ssd
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drawing import Box, drawn, print_boxes
from sample_net import (
    SampleError,
    add_mean,
    add_size_and_color,
    open_net,
    read_image,
    read_labels,
    run_sample,
    sample_parser,
    to_input,
    write_image,
)


def boxes_of(rows: np.ndarray, height: int, width: int, confidence: float) -> list[Box]:
    """Boxes in pixels from DetectionOutput's rows: image, class, score, and the corners in parts of the image."""
    boxes = []
    for image, label, score, left, top, right, bottom in rows.reshape(-1, 7):
        if image < 0 or label < 0 or score < confidence:  # a row of -1 says that nothing was found
            continue
        corners = np.array([left, top, right, bottom]).clip(0, 1) * [width, height, width, height]
        boxes.append(Box(int(label), float(score), *map(float, corners)))
    return boxes


def detect(args: argparse.Namespace) -> None:
    """Print the boxes and draw them."""
    names = read_labels(args.labels)
    image = read_image(args.image)
    net = open_net(args, args.size)
    height, width = net.blobs[net.inputs[0]].shape[2:]
    net.blobs[net.inputs[0]].data[...] = to_input(cv2.resize(image, (width, height)), args)
    rows = net.forward()[net.outputs[0]]
    if rows.shape[-1] != 7:
        raise SampleError(f"{args.model_path}: output {net.outputs[0]!r} is not that of a DetectionOutput layer")
    boxes = boxes_of(rows, *image.shape[:2], args.confidence)
    print_boxes(boxes, names)
    write_image(args.output, drawn(image, boxes, names))
    print(args.output)


def main() -> int:
    """Read the arguments and detect."""
    parser = sample_parser("Find objects with an SSD that ends in DetectionOutput, and draw their boxes.")
    add_mean(parser)
    add_size_and_color(parser, "bgr", "rgb")
    parser.add_argument("--confidence", type=float, default=0.5, help="smallest score that is shown (default: 0.5)")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="names of the classes, one a line, the background first"
    )
    parser.add_argument("--output", type=Path, default=Path("boxes.png"), help="the picture (default: boxes.png)")
    return run_sample(parser, detect)


if __name__ == "__main__":
    sys.exit(main())
