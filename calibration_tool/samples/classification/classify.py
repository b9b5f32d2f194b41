"""The five best classes of an image, in FP32 or in INT8.

python classify.py ../../custom dog.jpg --resize crop --mean 104,117,123 --labels names.txt
python classify.py ../../custom dog.jpg --resize crop --mean 104,117,123 --labels names.txt --int8 mynet
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sample_net import (
    add_mean,
    add_size_and_color,
    label_of,
    open_net,
    read_image,
    read_labels,
    run_sample,
    sample_parser,
    to_input,
)


def resized(image: np.ndarray, height: int, width: int, resize: str, short_side: int | None) -> np.ndarray:
    """ "warp": to the size, whatever the aspect ratio; "crop": the short side first, then the centre is cut out."""
    if resize == "warp":
        return cv2.resize(image, (width, height))
    found_height, found_width = image.shape[:2]
    if short_side:
        ratio = max(short_side, height, width) / min(found_height, found_width)
    else:
        ratio = max(height / found_height, width / found_width)
    image = cv2.resize(image, (round(found_width * ratio), round(found_height * ratio)))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def classify(args: argparse.Namespace) -> None:
    """Print rank, class and score."""
    labels = read_labels(args.labels)
    image = read_image(args.image, args.color)
    net = open_net(args, args.size)
    height, width = net.blobs[net.inputs[0]].shape[2:]
    prepared = resized(image, height, width, args.resize, args.short_side)
    net.blobs[net.inputs[0]].data[...] = to_input(prepared, args)
    scores = net.forward()[net.outputs[0]].ravel()
    for rank, index in enumerate(np.argsort(-scores, kind="stable")[:5], start=1):
        print(f"{rank}  {label_of(index, labels):<20} {scores[index]:.4f}")


def main() -> int:
    """Read the arguments and classify."""
    parser = sample_parser("Print the five best classes of an image.")
    add_mean(parser)
    add_size_and_color(parser, "bgr", "rgb", "gray")
    parser.add_argument("--resize", choices=["warp", "crop"], default="warp", help="(default: warp)")
    parser.add_argument("--short-side", type=int, metavar="N", help="with --resize crop: short side before the cut")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one a line")
    return run_sample(parser, classify)


if __name__ == "__main__":
    sys.exit(main())
